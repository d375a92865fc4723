"""Hashes of the files that a recipe names: fingerprints hold contents, not paths."""

import hashlib
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tuneline.core.paths import find


def hash_paths(value: Any) -> Any:
    if isinstance(value, Path):
        return "sha256:" + hash_content(find(value))[:16]
    if isinstance(value, BaseModel):
        return {name: hash_paths(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, tuple):
        return [hash_paths(item) for item in value]
    return value


def hash_content(path: Path) -> str:
    """SHA-256 of a file, or of a folder's file names and contents, read in pieces."""
    digest = hashlib.sha256()
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            digest.update(f"{file.relative_to(path)}\0".encode())
        with file.open("rb") as content:
            while piece := content.read(1 << 20):
                digest.update(piece)
    for file in included_files(path):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def included_files(path: Path) -> list[Path]:
    """Files a YAML file leans on: a grammar is also what it inherits, and the catalogue it is made from."""
    if path.suffix not in (".yaml", ".yml"):
        return []
    return [path.parent / name for name in re.findall(r"^(?:inherit|catalogue): *(\S+)", path.read_text(), re.M)]
