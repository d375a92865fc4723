"""Verification: every file is compared with the model that was trained, on the run's own text and on hard text.

Tokens, template and stop tokens must be the same, and the merged model's greedy answers those of the adapter. Each
quantization is compared with 16 bit. `verify.json` says what was compared, and `SHA256SUMS` pins the files.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tuneline.core.errors import StageFailed
from tuneline.core.files import sha256, write_atomic
from tuneline.engines.llama_cpp.build import find_llama_cpp
from tuneline.stages.convert.folders import onnx
from tuneline.stages.convert.ollama.modelfile import SUFFIX, make_modelfile
from tuneline.stages.convert.task import ReportProgress, Task, VerifySettings
from tuneline.stages.convert.verification.check import Check
from tuneline.stages.convert.verification.fidelity import (
    Fidelity,
    check_fidelity,
    measure_checkpoint_fidelity,
    measure_gguf_fidelity,
)
from tuneline.stages.convert.verification.greedy_answers import check_gguf_answers, check_onnx_answers
from tuneline.stages.convert.verification.samples import load_samples
from tuneline.stages.convert.verification.template_checks import check_modelfile, check_served_template
from tuneline.stages.convert.verification.tokenizer_checks import check_checkpoint_tokenizer, check_gguf_tokenizer

VERIFIED = "of tokens, templates and answers"
REPORT, SUMS = "verify.json", "SHA256SUMS"


@dataclass(frozen=True)
class _Results:
    checks: list[Check]
    texts: int
    skipped: list[str]
    """What was not checked, and why."""
    fidelity: dict[str, Fidelity]


def verify(task: Task, report: ReportProgress) -> dict[str, Any]:
    """Write `verify.json` and `SHA256SUMS`; return each file's fidelity, the number of checks, and what was skipped.

    `differences` has a line for each check that failed and is not required.

    Raises:
        StageFailed: a required check failed; the message names it and the file.
    """
    assert task.verify
    file = task.verify.report
    report(done=0, total=1, unit="verification", text=VERIFIED)
    results = _compare(task, task.verify)
    content = {"texts": results.texts, "skipped": results.skipped, "fidelity": results.fidelity}
    checks = list(map(asdict, results.checks))
    write_atomic(file, json.dumps(content | {"checks": checks}, indent=1, ensure_ascii=False))
    failed = [check for check in results.checks if not check.passed]
    if any(check.is_required for check in failed):
        first = next(check for check in failed if check.is_required)
        raise StageFailed(
            f"{file.parent / first.file}: {first.check}: {first.detail}\n"
            f"{len(failed)} of {len(checks)} checks failed; all are in {file}"
        )
    _write_sums(file.parent, _list_files(task, file.parent))
    report(
        done=1,
        total=1,
        unit="verification",
        text=f"{VERIFIED}: {len(checks) - len(failed)} of {len(checks)} checks passed",
    )
    differences = [f"{check.file}: {check.check}: {check.detail}" for check in failed]
    verified = {"fidelity": results.fidelity, "checks": len(checks), "skipped": results.skipped}
    return verified | {"differences": differences}


def _compare(task: Task, settings: VerifySettings) -> _Results:
    """Run all checks."""
    llama, tuned = find_llama_cpp(), [output.path for output in task.outputs if output.tuned]
    reference, folders = tuned[0], list(task.quantized_checkpoints.values())
    samples = load_samples(task, settings.prepared)
    sequences = samples.sequences(settings.tokens)
    checks = [check for file in tuned for check in check_gguf_tokenizer(llama, file, samples)]
    checks.append(check_served_template(tuned, samples, task.scratch / "server.log"))
    modelfile = make_modelfile(samples.tokenizer, calls_tools=any(c.tools for c in samples.conversations))
    checks += [check_modelfile(file, modelfile, samples) for file in tuned]
    answers = check_gguf_answers(task, llama, reference, samples)
    checks += [answers] if isinstance(answers, Check) else []
    fidelity = measure_gguf_fidelity(llama, reference, tuned, sequences, task.scratch, task.threads)
    checks += [check_fidelity(f"{name}.gguf", figures, settings.floor) for name, figures in fidelity.items()]
    checks += [check for folder in folders for check in check_checkpoint_tokenizer(folder, samples)]
    checks += [check_onnx_answers(task, folder, samples) for folder in folders if (folder / onnx.MODEL).exists()]
    of_checkpoints = measure_checkpoint_fidelity(task, sequences)
    checks += [check_fidelity(name, figures, settings.floor) for name, figures in of_checkpoints.items()]
    skipped = [] if isinstance(answers, Check) else [answers]
    return _Results(checks, len(samples.texts), skipped, fidelity | of_checkpoints)


def _list_files(task: Task, folder: Path) -> list[Path]:
    """Return the files of the artifact that users take away: GGUF files, Modelfiles and checkpoints."""
    suffixes = (".gguf", SUFFIX)
    files = [file for file in sorted(folder.glob("*.*")) if file.suffix in suffixes]
    merged = [task.merged] if task.merged and task.merged.parent == folder else []
    checkpoints: Sequence[Path] = [*merged, *task.quantized_checkpoints.values()]
    return files + [file for checkpoint in checkpoints for file in sorted(checkpoint.iterdir())]


def _write_sums(folder: Path, files: Iterable[Path]) -> None:
    """Write the checksums of `files`, as `sha256sum --check SHA256SUMS` reads them."""
    lines = [f"{sha256(file)}  {os.path.relpath(file, folder)}\n" for file in files]
    write_atomic(folder / SUMS, "".join(lines))
