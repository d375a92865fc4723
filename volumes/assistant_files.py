"""What the assistant of `configs/gateway.yaml` reads, for the gateway's image: handlers, catalogue, documents.

A relative path is the same below the container's folder as below the one that it is deployed from, an absolute path is
the same there.
"""

import shlex
from collections.abc import Iterator
from pathlib import Path

from tuneline.configs.gateway import FILE, Assistant
from tuneline.core.errors import BadRecipe
from tuneline.core.paths import resolve

MCP, ADDRESSES = "mcp:", ("http://", "https://")
FILES = (".py", ".json", ".yaml", ".yml")
OWN = "tuneline"
"""Our own modules are in every image."""


def list_assistant_files(assistant: Assistant) -> dict[str, Path]:
    """Return path in the container → file or folder here; a relative one is below the container's folder.

    Raises:
        BadRecipe: one does not exist, or its relative path leads out of the folder.
    """
    files: dict[str, Path] = {}
    for number, source in enumerate(assistant.handlers):
        for path in _paths_of(source):
            files |= _place(path, f"assistant.handlers[{number}]")
    if assistant.catalogue:
        files |= _place(assistant.catalogue, "assistant.catalogue")
    if assistant.knowledge:
        files |= _place(assistant.knowledge, "assistant.knowledge")
    return files


def _paths_of(source: str) -> Iterator[Path]:
    """Yield the files of a source of handlers; an address has none."""
    if source.startswith(MCP):
        words = shlex.split(source.removeprefix(MCP))
        is_address = bool(words) and words[0].startswith(ADDRESSES)
        yield from (Path(word) for word in words[1:] if not is_address and resolve(Path(word)).exists())
    elif source.endswith(FILES) and not source.startswith(ADDRESSES):
        yield Path(source)
    elif not source.startswith(ADDRESSES) and (package := source.partition(".")[0]) != OWN:
        module = Path(f"{package}.py")
        yield module if resolve(module).exists() else Path(package)


def _place(path: Path, key: str) -> dict[str, Path]:
    local = resolve(path)
    if not local.exists():
        raise BadRecipe(f"{FILE}: {key}: {path}: no such file or folder, and only what is there can be deployed")
    if path.is_absolute():
        return {str(path): local}
    if ".." in path.parts:
        raise BadRecipe(f"{FILE}: {key}: {path}: leads out of the deployed folder; give its absolute path")
    return {str(path): local.absolute()}
