"""Reads files as a stream of records: JSON, CSV, Excel, Parquet, Arrow and plain text, also with gzip or zstd.

Memory holds one value, one batch of a Parquet file, or one text document at a time.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from tuneline.core.errors import BadData
from tuneline.core.user_files import MIB
from tuneline.stages.prepare.checks.problems import Problem
from tuneline.stages.prepare.formats.compressed_files import (
    MAX_TEXT_BYTES,
    MAX_TEXT_LINES,
    Unreadable,
    open_uncompressed,
)
from tuneline.stages.prepare.formats.json_files import BOM, describe_bytes, read_json_lines, read_json_values
from tuneline.stages.prepare.formats.layouts import detect_encoding, detect_json_layout, detect_table_layout
from tuneline.stages.prepare.formats.records import (
    ARROW,
    JSON_LINES,
    PARQUET,
    SPREADSHEET,
    TABLE,
    TEXT,
    Layout,
    Record,
)
from tuneline.stages.prepare.formats.tables import read_arrow, read_csv, read_parquet, read_spreadsheet

SUFFIXES = {
    ".jsonl": JSON_LINES,
    ".ndjson": JSON_LINES,
    ".json": JSON_LINES,
    ".csv": TABLE,
    ".tsv": TABLE,
    ".xlsx": SPREADSHEET,
    ".parquet": PARQUET,
    ".arrow": ARROW,
    ".txt": TEXT,
    ".md": TEXT,
}
HEAD_BYTES = 1 << 18
_BINARY = {SPREADSHEET: read_spreadsheet, PARQUET: read_parquet, ARROW: read_arrow}


def uncompressed_suffix(path: Path) -> str:
    """Return the file's suffix in lower case, not counting `.gz` or `.zst`."""
    return (Path(path.stem) if path.suffix in (".gz", ".zst") else path).suffix.lower()


def detect_layout(path: Path) -> Layout:
    """Return how the records of a file are written, by its suffix and its first bytes.

    Raises:
        BadData: The suffix is unknown.
    """
    suffix = uncompressed_suffix(path)
    kind = SUFFIXES.get(suffix)
    if kind is None:
        raise BadData(f"{path}: {path.suffix or 'no suffix'}: supported: {', '.join(SUFFIXES)}, also with .gz or .zst")
    if kind in _BINARY:
        return Layout(kind)
    head = b""
    with suppress(Unreadable, OSError), open_uncompressed(path) as file:  # whoever reads it reports it
        head = file.read(HEAD_BYTES)
    if kind == JSON_LINES:
        return detect_json_layout(head)
    if kind == TABLE:
        return detect_table_layout(head, "\t" if suffix == ".tsv" else ",")
    return Layout(kind, detect_encoding(head))


def read_records(path: Path, layout: Layout | None = None) -> Iterator[Record | Problem]:
    """Yield all records of a file in order, and a problem for what cannot be read. Reading continues where it can."""
    layout = layout or detect_layout(path)
    try:
        if layout.kind in _BINARY:
            yield from _BINARY[layout.kind](path)
        else:
            with open_uncompressed(path) as file:
                yield from _read_open(path, file, layout)
    except UnicodeDecodeError as error:
        text = f"not {layout.encoding.upper()}, as its first bytes say: {error.reason}"
        yield Problem("not_utf8", str(path), 0, text)
    except Unreadable as error:
        yield Problem("unreadable", str(path), error.line, str(error))
    except OSError as error:
        yield Problem("unreadable", str(path), 0, f"cannot be read: {error.strerror or error}")


def _read_open(path: Path, file: IO[bytes], layout: Layout) -> Iterator[Record | Problem]:
    if layout.kind == TABLE:
        yield from read_csv(path, file, layout)
    elif layout.kind == TEXT:
        yield from _read_text(path, file, layout)
    elif layout.kind == JSON_LINES:
        yield from read_json_lines(path, file, layout.encoding)
    else:
        yield from read_json_values(path, file, layout)


def _read_text(path: Path, file: IO[bytes], layout: Layout) -> Iterator[Record | Problem]:
    content = file.read(MAX_TEXT_BYTES + 1)
    if len(content) > MAX_TEXT_BYTES:
        raise Unreadable(f"larger than {MAX_TEXT_BYTES / MIB:g} MiB, the limit for one text; split it")
    if content.count(b"\n") > MAX_TEXT_LINES:
        raise Unreadable(f"more than {MAX_TEXT_LINES:,} lines, the limit for one text; split it")
    if layout.encoding != "utf-8-sig":
        yield Record(path, 1, content.decode(layout.encoding).removeprefix("\ufeff"))
        return
    content = content.removeprefix(BOM)
    try:
        yield Record(path, 1, content.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - (content.rfind(b"\n", 0, error.start) + 1) + 1
        yield Problem("not_utf8", str(path), line, describe_bytes(content, error), column)
