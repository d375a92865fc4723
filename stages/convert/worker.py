"""The conversion process, started by `child_processes.child_process`.

Its request is the JSON of a `Task`; its progress goes to standard output, a JSON object a line. It is a process because
the vendored gguf-py must be imported before any other, and because all its memory is freed at its end.
"""

import errno
import json
import sys
from typing import Any

from tuneline.core.child_processes import report_outcome
from tuneline.core.errors import StageFailed
from tuneline.engines.llama_cpp.build import find_llama_cpp
from tuneline.stages.convert.folders.quantized_checkpoints import quantize_checkpoints
from tuneline.stages.convert.onepass.converter import use_vendored_gguf
from tuneline.stages.convert.onepass.ggml import Ggml
from tuneline.stages.convert.onepass.one_pass import make_files
from tuneline.stages.convert.task import ReportProgress, Task
from tuneline.stages.convert.verification.verify import verify


def main() -> int:
    task = Task.model_validate_json(sys.stdin.read())
    out, sys.stdout = sys.stdout, sys.stderr  # libraries print what they like

    def report(**progress: Any) -> None:
        print(json.dumps(progress), file=out, flush=True)

    return report_outcome(lambda: run_or_name_full_disk(task, report))


def run_or_name_full_disk(task: Task, report: ReportProgress) -> dict[str, Any]:
    """Return what `run` returns.

    Raises:
        StageFailed: the disk is full. Whatever `run` raises.
    """
    try:
        return run(task, report)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StageFailed(
            f"{task.scratch}: the disk is full; free some space and run again: finished tensors are kept"
        ) from error


def run(task: Task, report: ReportProgress) -> dict[str, Any]:
    """Make what is missing of `task`.

    Returns:
        `types`: the parameters of each GGUF by tensor type. `verified`, if the task asks for it: what `verify` returns.
    """
    llama = find_llama_cpp()
    use_vendored_gguf(llama)
    ggml = Ggml(llama)
    make_files(task, ggml, report)
    result: dict[str, Any] = {
        "types": {str(output.path): ggml.count_parameters(output.path) for output in task.outputs}
    }
    if task.folders:
        quantize_checkpoints(task, report)
    if task.verify:
        result["verified"] = verify(task, report)
    return result


if __name__ == "__main__":
    sys.exit(main())
