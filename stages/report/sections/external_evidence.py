"""Evidence that other commands left in the run's folder: the load test and the LLM judge's agreement with people.

It is shown where it is of the files and answers that are there now; otherwise the page says how to make it again.
"""

import contextlib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from tuneline.stages.evaluate.load_testing.guidellm import LOAD, LoadResult
from tuneline.stages.evaluate.scoring.llm_judge import JUDGED, JudgeResult
from tuneline.stages.report.run_record import Row, RunRecord

Result = TypeVar("Result", bound=BaseModel)


def describe_external_evidence(run: RunRecord) -> Row:
    """Return the template variables `load_test`, `judge` (None if missing) and `outdated`, a line for each old one."""
    load_test, judge = _read(run.path / LOAD, LoadResult), _read(run.path / JUDGED, JudgeResult)
    outdated = []
    if load_test and not _is_of_these_files(load_test, run):
        outdated.append(f"The load test was run on other files; run `tuneline load {run.path.name}` again.")
        load_test = None
    if judge and not _is_of_these_answers(judge, run):
        outdated.append(f"The judge saw other answers; run `tuneline judge {run.path.name}` again.")
        judge = None
    return {"load_test": load_test, "judge": judge, "outdated": outdated}


def _is_of_these_files(load_test: LoadResult, run: RunRecord) -> bool:
    files = {f"{stage}/{name}": f.sha256 for stage, m in run.manifests.items() for name, f in m.files.items()}
    return bool(load_test.files) and load_test.files.items() <= files.items()


def _is_of_these_answers(judge: JudgeResult, run: RunRecord) -> bool:
    return "evaluate" in run.manifests and judge.evaluate == run.manifests["evaluate"].digest


def _read(file: Path, kind: type[Result]) -> Result | None:
    """Return a result, or None if there is none that can be read."""
    with contextlib.suppress(OSError, ValidationError):
        return kind.model_validate_json(file.read_text(encoding="utf-8"))
    return None
