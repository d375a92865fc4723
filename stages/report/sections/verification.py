"""The checks that `convert` made of its files."""

import json
from pathlib import Path

from tuneline.stages.report.run_record import Row


def summarize_checks(convert_folder: Path) -> list[Row]:
    """Return a row for each kind of check in `verify.json`, or an empty list if the file cannot be read.

    A row has the number of files and how many passed, and the detail of the first that failed, or of the first file if
    all passed.
    """
    try:
        checks: list[Row] = json.loads((convert_folder / "verify.json").read_text())["checks"]
    except (OSError, ValueError, KeyError):
        return []
    names = dict.fromkeys(check["check"] for check in checks)
    return [_summarize_kind(name, [check for check in checks if check["check"] == name]) for name in names]


def _summarize_kind(name: str, checks: list[Row]) -> Row:
    failed = [check for check in checks if not check["passed"]]
    example = (failed or checks)[0]
    return {
        "name": name,
        "files": len(checks),
        "passed": len(checks) - len(failed),
        "file": example["file"],
        "detail": example["detail"],
    }
