"""JSON-lines files that grow by appending, and whose last line may have been cut by a crash.

Each record is a single write, so only the last line can be incomplete; it then lacks its newline. Before a program
appends to an existing file it calls `remove_cut_line`, or `end_cut_line` if other processes read or write the file.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def append(file: Path, record: Any) -> None:
    """Append one record as a line, in a single write; half a character, as file names may have, becomes `?`."""
    line = (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "replace")
    with file.open("ab", buffering=0) as out:
        out.write(line)


def read(file: Path, *, skip_broken: bool = False) -> list[Any]:
    """Return the records of a file's whole lines, oldest first, or an empty list if there is no such file.

    Raises:
        ValueError: a whole line is not JSON, unless `skip_broken`.
    """
    records = []
    for line in whole_lines(file):
        try:
            records.append(json.loads(line))
        except ValueError:
            if not skip_broken:
                raise
    return records


def whole_lines(file: Path, offset: int = 0) -> Iterator[bytes]:
    """Yield the lines that begin at or after byte `offset`, each with its newline; not a last one without it."""
    if not file.exists():
        return
    with file.open("rb") as lines:
        lines.seek(offset)
        for line in lines:
            if line.endswith(b"\n"):
                yield line


def remove_cut_line(file: Path) -> None:
    """Remove an incomplete last line, if there is one."""
    if not _is_cut(file):
        return
    with file.open("rb+") as content:
        content.truncate(content.read().rfind(b"\n") + 1)


def end_cut_line(file: Path) -> None:
    """Add the newline that an incomplete last line lacks, so that the next record begins a new line."""
    if _is_cut(file):
        with file.open("ab", buffering=0) as out:
            out.write(b"\n")


def _is_cut(file: Path) -> bool:
    if not file.exists() or not file.stat().st_size:
        return False
    with file.open("rb") as content:
        content.seek(-1, os.SEEK_END)
        return content.read(1) != b"\n"
