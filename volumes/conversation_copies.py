"""The assistant's conversations in a gateway's container: on its own disk, and copied to a Volume whole.

SQLite writes in place and maps a file into memory; of that a Volume could publish a half. So what is on the Volume is
a copy that SQLite made (sqlite.org/backup.html), under a name that says when its container started: the next container
begins with the newest. One container has an assistant (`GatewayContainer.check_assistant`); while a deployment replaces
it, what is said to the old one after the new one has started is lost with it.
"""

import shutil
import sqlite3
import tempfile
import time
import uuid
from contextlib import closing
from pathlib import Path

FILE = "assistant.db"
ENDING = ".db"


class ConversationCopies:
    """The folder of an assistant's conversations, begun with the newest copy in the folder `volume`."""

    def __init__(self, volume: Path) -> None:
        self._volume, self.folder = volume, Path(tempfile.mkdtemp(prefix="tuneline-assistant-"))
        volume.mkdir(parents=True, exist_ok=True)
        started = time.time_ns()
        earlier = self._list_earlier(str(started))
        if earlier:
            shutil.copyfile(earlier[-1], self.folder / FILE)
        self._own = f"{started:020}-{uuid.uuid4().hex[:8]}{ENDING}"
        self.traces = volume / self._own.removesuffix(ENDING)
        self._version: tuple[int, ...] = ()

    def publish(self) -> None:
        """Copy the conversations to the Volume if they have changed; its caller commits.

        Copies of containers that started before are removed: what was deleted since is in none.
        """
        database = self.folder / FILE
        version = tuple(
            part.stat().st_mtime_ns for part in (database, database.with_name(f"{FILE}-wal")) if part.exists()
        )
        if not version or version == self._version:
            return
        copy = self.folder / "copy"
        copy.unlink(missing_ok=True)
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        arriving = self._volume / f"{self._own}.part"
        shutil.copyfile(copy, arriving)
        arriving.chmod(0o600)
        arriving.replace(self._volume / self._own)
        self._version = version
        for earlier in self._list_earlier(self._own):
            earlier.unlink(missing_ok=True)

    def _list_earlier(self, name: str) -> list[Path]:
        """Return the copies of containers that started before the one of this name, the newest last."""
        return sorted(file for file in self._volume.glob(f"*{ENDING}") if file.name < name.zfill(20))
