"""Files that are replaced atomically, and their hashes."""

import hashlib
import os
from pathlib import Path

TEMPORARY = ".tmp"
"""Ending of the hidden file beside `path` that `write_atomic` writes first."""


def write_atomic(path: Path, text: str, *, private: bool = False) -> None:
    """Replace the content of `path` by `text`; a crash leaves the old or the new file, never a part of one.

    Only its owner may read a `private` file, whatever the umask and the file's mode before.
    A killed process leaves its temporary file too, which `remove_temporaries` removes.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        mode = 0o600 if private else 0o666
        with open(temporary, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries(folder: Path) -> None:
    """Remove what killed calls of `write_atomic` left in `folder` and below; nobody may be writing there."""
    for file in folder.rglob(f".*{TEMPORARY}"):
        file.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
