"""Evidence that other commands left in the run's folder: the load test and the LLM judge's agreement with people."""

import contextlib
from pathlib import Path

from pydantic import ValidationError

from tuneline.stages.evaluate.load_testing.guidellm import LOAD, LoadResult
from tuneline.stages.evaluate.scoring.llm_judge import JUDGED, JudgeResult


def read_load_test(run: Path) -> LoadResult | None:
    """Return the run's load test, or None if there is none that can be read."""
    with contextlib.suppress(OSError, ValidationError):
        return LoadResult.model_validate_json((run / LOAD).read_text())
    return None


def read_judge_agreement(run: Path) -> JudgeResult | None:
    """Return what an LLM judge found, or None if none was asked or its file cannot be read."""
    with contextlib.suppress(OSError, ValidationError):
        return JudgeResult.model_validate_json((run / JUDGED).read_text())
    return None
