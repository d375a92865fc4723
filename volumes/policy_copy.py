"""A copy of the policy Volume on the container's own disk, which requests are checked against.

While a Volume is reloaded it appears empty (modal.com/docs/guide/volumes): a key that is looked up there would be
unknown for a moment, every few seconds.
"""

import os
import tempfile
from pathlib import Path

from tuneline.core.files import write_atomic
from tuneline.volumes.mounts import MOUNTS, VOLUMES


class PolicyCopy:
    """The files of the policy Volume as they were when it was last read whole."""

    def __init__(self, source: Path = Path(MOUNTS["policy"])) -> None:
        self._source, self.folder = source, Path(tempfile.mkdtemp(prefix="tuneline-policy-"))

    def use(self) -> None:
        """Let this process, and those it starts, read the copy."""
        os.environ["TUNELINE_POLICY"] = str(self.folder)

    def refresh(self) -> None:
        """Reload the Volume, then copy what changed and remove what is gone; if it cannot be reloaded nothing changes.

        Raises:
            modal.exception.Error: Modal does not answer. OSError: a file cannot be read.
        """
        VOLUMES["policy"].reload()
        self.copy()

    def copy(self) -> None:
        """Bring the copy up to date with what the Volume shows now."""
        texts = {path.relative_to(self._source): path.read_text("utf-8") for path in _list_files(self._source)}
        for name, text in texts.items():
            copied = self.folder / name
            if not copied.exists() or copied.read_text("utf-8") != text:
                copied.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(copied, text)
        for copied in _list_files(self.folder):
            if copied.relative_to(self.folder) not in texts:
                copied.unlink()


def _list_files(folder: Path) -> list[Path]:
    """Return the files of a policy folder; locks and what a killed writer left begin with a dot."""
    return [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
