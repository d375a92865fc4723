"""The journal of a pass: which tensors are finished, so that a killed pass continues after them."""

import hashlib
import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

from tuneline.stages.convert.onepass.output_files import OutputFile


class Journal:
    """The names of finished tensors, in a file.

    An existing journal counts only if it is about the same files and all of them are there in full size. If it is not
    `durable`, it also must be from the same start of the machine.
    """

    def __init__(self, path: Path, files: Sequence[OutputFile], *, durable: bool) -> None:
        self.path, self.durable = path, durable
        plan = json.dumps([[file.describe() for file in files], "" if durable else _boot_id()])
        self.plan = hashlib.sha256(plan.encode()).hexdigest()
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        complete = all(file.path.exists() and file.path.stat().st_size == file.size for file in files)
        self.finished = set(lines[1:]) if lines[:1] == [self.plan] and complete else set()
        self.resumes = bool(self.finished)

    def begin(self) -> None:
        """Write the journal's first line, unless it is resumed."""
        if not self.resumes:
            self.path.write_text(f"{self.plan}\n")

    def add(self, names: Sequence[str]) -> None:
        """Append finished tensors."""
        with self.path.open("a") as file:
            file.write("".join(f"{name}\n" for name in names))
            file.flush()
            if self.durable:
                os.fsync(file.fileno())


def _boot_id() -> str:
    """Return what identifies this start of this machine. random(4)"""
    file = Path("/proc/sys/kernel/random/boot_id")
    return file.read_text(encoding="utf-8").strip() if file.exists() else uuid.uuid4().hex
