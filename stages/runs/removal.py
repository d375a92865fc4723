"""What can be removed of a run to free space, and its removal: large files by kind, or the whole run.

The manifest of a stage keeps what was removed by name and hash, so that the stages after it stay what they are, and
whoever needs a removed file is told so. A later pipeline run makes it again if one of its stages needs it.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tuneline.core import artifacts
from tuneline.core.artifacts import SCRATCH
from tuneline.core.locks import pipeline_lock, run_lock
from tuneline.stages.convert import IMATRIX
from tuneline.stages.convert.scratch import find_local_scratch
from tuneline.stages.convert.task import MERGED
from tuneline.stages.line import ORDER

Kind = Literal["checkpoints", "merged", "quantizations"]
KINDS: tuple[Kind, ...] = ("checkpoints", "merged", "quantizations")
"""checkpoints: unfinished work, from which a stopped stage continues. merged: the merged checkpoint. quantizations: all
GGUF files, the 16-bit ones included, and quantized checkpoints."""


@dataclass(frozen=True)
class Removable:
    """A file or folder that can be removed."""

    path: Path
    kind: str
    bytes: int
    why: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return asdict(self) | {"path": str(self.path)}


def list_removable(run: Path, kinds: Sequence[str]) -> list[Removable]:
    """Return what there is of these kinds in the run's folder, and in the local scratch of its stages."""
    listers: dict[str, Callable[[Path], Iterator[Path]]] = {
        "checkpoints": _list_scratch,
        "merged": lambda run: _existing(run / "convert" / MERGED),
        "quantizations": _list_quantizations,
    }
    listed = [(path, kind) for kind in kinds for path in listers[kind](run)]
    return [Removable(path, kind, measure(path)) for path, kind in listed if not _leads_out(run, path)]


def _leads_out(run: Path, path: Path) -> bool:
    """Return whether a folder between the run's and `path` is a link: what is there is not the run's."""
    between = [parent for parent in path.parents if parent != run and parent.is_relative_to(run)]
    return any(parent.is_symlink() for parent in between)


def measure(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; links are not followed."""
    files = [path] if not path.is_dir() or path.is_symlink() else path.rglob("*")
    return sum(file.lstat().st_size for file in files if file.is_symlink() or file.is_file())


def _existing(path: Path) -> Iterator[Path]:
    if path.exists():
        yield path


def _list_scratch(run: Path) -> Iterator[Path]:
    for scratch in sorted(run.glob(f"*/{SCRATCH}")):
        if local := find_local_scratch(scratch):
            yield local
        yield scratch


def _list_quantizations(run: Path) -> Iterator[Path]:
    """Yield GGUF files, each with the Modelfile that is of no use without it, and folders of quantized checkpoints."""
    for path in sorted((run / "convert").glob("*")):
        is_weights = path.suffix in (".gguf", ".Modelfile") and path.name != IMATRIX
        if is_weights or (path.is_dir() and path.name not in (MERGED, SCRATCH)):
            yield path


def remove(run: Path, removables: Sequence[Removable]) -> None:
    """Remove files and folders of a run, after recording that in the manifests of their stages.

    Raises:
        Locked: a process works on the run.
    """
    with pipeline_lock(run, "remove"), run_lock(run, "remove"):
        for stage in ORDER:
            if artifacts.is_finished(run / stage):
                _record(run / stage, [item.path for item in removables])
        for item in removables:
            remove_path(item.path)


def _record(stage: Path, removed: Sequence[Path]) -> None:
    names = artifacts.read_artifact(stage).manifest.files
    gone = [name for name in names if any((stage / name).is_relative_to(path) for path in removed)]
    if gone:
        artifacts.record_removal(stage, gone)


def remove_run(run: Path) -> None:
    """Remove a run with all that belongs to it; the ledger keeps what it cost.

    Raises:
        Locked: a process works on the run.
    """
    with pipeline_lock(run, "remove"), run_lock(run, "remove"):
        for scratch in _list_scratch(run):
            if not scratch.is_relative_to(run):
                remove_path(scratch)
        gone = run.rename(run.with_name(f".removed-{run.name}"))  # at once: no half of a run is left under its name
    remove_path(gone)


def remove_path(path: Path) -> None:
    """Remove a file, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
