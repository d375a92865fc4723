"""Files that users bring: text and JSON, read whole and within limits, so that no file can exhaust the machine.

What is not text, not JSON, too large or too deep is an error with the file, the line and the column.
"""

import json
import math
import stat
from pathlib import Path
from typing import Any

from tuneline.core.errors import TunelineError

MIB = 1 << 20
MAX_DEPTH = 100
"""Objects and lists inside each other. Schemas of tools and their arguments are about ten deep; Python's recursion
limit of 1000 leaves ten calls a level to the libraries that walk them."""
MAX_BYTES = 64 * MIB
"""Of a file that is read whole. The largest that is meant to be is a tokenizer.json: 17 MB for Llama 3, 28 MB for
Llama 4."""


def read_text(file: Path, error: type[TunelineError], max_bytes: int = MAX_BYTES) -> str:
    """Return the text of a UTF-8 file, without a byte order mark.

    Raises:
        error: there is no such file, it is a folder or a device, too large, or not UTF-8.
    """
    content = _read_bytes(file, error, max_bytes)
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as problem:
        line_start = content.rfind(b"\n", 0, problem.start) + 1
        place = f"{file}:{content.count(10, 0, problem.start) + 1}:{problem.start - line_start + 1}"
        raise error(f"{place}: not UTF-8; save the file as UTF-8") from None


def read_json(file: Path, error: type[TunelineError], max_bytes: int = MAX_BYTES) -> Any:
    """Return the value in a JSON file.

    Raises:
        error: as for `read_text`; or it is not JSON, or nested too deep.
    """
    text = read_text(file, error, max_bytes)
    try:
        return parse_json(text)
    except json.JSONDecodeError as problem:
        raise error(f"{file}:{problem.lineno}:{problem.colno}: not JSON: {problem.msg}") from None
    except ValueError as problem:
        raise error(f"{file}: {problem}") from None


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: not JSON (NaN, numbers beyond a double and lone surrogates are not), not UTF-8, or nested too deep.
    """
    import orjson

    content = text.encode() if isinstance(text, str) else text
    value = orjson.loads(content)
    if content.count(b"[") + content.count(b"{") > MAX_DEPTH:
        refuse_deep(value)
    return value


def refuse_deep(value: Any, max_depth: int | None = None) -> None:
    """Raise ValueError if objects and lists are nested more than `max_depth` deep; None is `MAX_DEPTH`."""
    max_depth = MAX_DEPTH if max_depth is None else max_depth
    level, depth = [value], 0
    while level := [child for item in level for child in _containers_in(item)]:
        depth += 1
        if depth > max_depth:
            raise ValueError(f"nested more than {max_depth} deep")


def refuse_non_json(value: Any, key: str) -> None:
    """Raise ValueError, with the key, if a value read from another format has no form in JSON."""
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                raise ValueError(f"{key}.{name}: keys must be text; put it in quotes")
            refuse_non_json(item, f"{key}.{name}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            refuse_non_json(item, f"{key}.{number}")
    elif not isinstance(value, str | int | float | None) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"{key}: {value!r} is not a JSON value; put it in quotes if it is text")


def _containers_in(item: Any) -> list[Any]:
    items = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    return [child for child in items if isinstance(child, dict | list)]


def _read_bytes(file: Path, error: type[TunelineError], max_bytes: int) -> bytes:
    try:
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode):  # reading a pipe or a device may never end
            raise error(f"{file}: {'a folder' if stat.S_ISDIR(mode) else 'a device or a pipe'}, not a file")
        with file.open("rb") as opened:
            content = opened.read(max_bytes + 1)
    except FileNotFoundError:
        raise error(f"{file}: no such file") from None
    except OSError as problem:
        raise error(f"{file}: cannot be read: {problem.strerror}") from None
    if len(content) > max_bytes:
        raise error(f"{file}: larger than {max_bytes / MIB:g} MiB, the limit for such a file")
    return content
