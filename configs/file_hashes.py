"""Hashes of the files that a recipe names: fingerprints contain their contents, not their paths."""

import hashlib
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tuneline.configs.section import LEFT_OUT_UNLESS_SET, WITHOUT_CREDENTIALS
from tuneline.configs.yaml_loader import read_yaml
from tuneline.core.errors import BadRecipe
from tuneline.core.paths import resolve
from tuneline.core.redaction import redact_url

CHUNK_BYTES = 1 << 20
INCLUDING_KEYS = ("inherit", "catalogue")
"""Keys of a YAML file whose value is the name of another one beside it."""


def hash_paths(value: Any) -> Any:
    """Return a section, tuple or plain value as JSON-able settings: paths are hashes of content, credentials masked."""
    if isinstance(value, Path):
        return "sha256:" + hash_content(resolve(value))[:16]
    if isinstance(value, BaseModel):
        return {
            name: redact_url(getattr(value, name))
            if WITHOUT_CREDENTIALS in field.metadata
            else hash_paths(getattr(value, name))
            for name, field in type(value).model_fields.items()
            if LEFT_OUT_UNLESS_SET not in field.metadata or getattr(value, name) != field.default
        }
    if isinstance(value, tuple):
        return [hash_paths(item) for item in value]
    return value


def hash_content(path: Path) -> str:
    """Return the SHA-256 of a file and the files it includes, or of a folder's file names and contents."""
    digest = hashlib.sha256()
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            digest.update(f"{file.relative_to(path)}\0".encode())
        with file.open("rb") as content:
            while chunk := content.read(CHUNK_BYTES):
                digest.update(chunk)
    for file in included_files(path):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def included_files(path: Path) -> list[Path]:
    """Return the files that a YAML file refers to: what a grammar inherits, and the catalogue it is made from.

    Raises:
        BadRecipe: it cannot be read, or such a file does not exist.
    """
    if path.suffix not in (".yaml", ".yml"):
        return []
    content = read_yaml(path, BadRecipe)
    items = content.items() if isinstance(content, dict) else ()
    names = [(key, name) for key, name in items if key in INCLUDING_KEYS and isinstance(name, str)]
    for key, name in names:
        if not (path.parent / name).is_file():
            raise BadRecipe(f"{path}: {key}: {name}: no such file beside it")
    return [path.parent / name for _, name in names]
