"""The policy folders that name a run, recorded beside the run: another folder's promotion protects it, too."""

from pathlib import Path

from tuneline.core import jsonl, paths

FILE = "promoted_in.jsonl"
"""In the run's folder: a line `{"policy": FOLDER}` for each policy folder in which it was promoted."""


def record_policy_folder(run: Path) -> None:
    """Write beside a run that the policy folder in use names it, once."""
    if paths.policy() not in _read_folders(run):
        jsonl.end_cut_line(run / FILE)
        jsonl.append(run / FILE, {"policy": str(paths.policy())})


def list_policy_folders(run: Path) -> list[Path]:
    """Return the policy folders that may name a run: the one in use, and those it was promoted in that still exist.

    Raises:
        PermissionError: a folder cannot be looked at, so nobody can tell whether the run serves.
    """
    others = [folder for folder in _read_folders(run) if folder != paths.policy() and _exists(folder)]
    return [paths.policy(), *others]


def _exists(folder: Path) -> bool:
    try:
        return any(True for _ in (folder / "models").iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _read_folders(run: Path) -> list[Path]:
    records = jsonl.read(run / FILE, skip_broken=True)
    named = [record.get("policy") for record in records if isinstance(record, dict)]
    return [Path(folder) for folder in dict.fromkeys(named) if isinstance(folder, str) and folder]
