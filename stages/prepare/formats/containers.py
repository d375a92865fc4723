"""Reads files as a stream of records: JSON lines, JSON arrays, CSV, Parquet and plain text, also with gzip or zstd.

A record is a value at one place of a file, whatever it means. Memory holds one line, one batch of a Parquet file, or
one text document at a time.
"""

import csv
import gzip
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tuneline.core.errors import BadData
from tuneline.stages.prepare.checks.problems import Problem

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
BOM = b"\xef\xbb\xbf"
JSON_LINES, JSON_ARRAY, TABLE, PARQUET, TEXT = "json lines", "json array", "csv", "parquet", "text"
SUFFIXES = {
    ".jsonl": JSON_LINES,
    ".ndjson": JSON_LINES,
    ".json": JSON_ARRAY,
    ".csv": TABLE,
    ".tsv": TABLE,
    ".parquet": PARQUET,
    ".txt": TEXT,
    ".md": TEXT,
}
PIECE_BYTES, BUFFER_BYTES = 1 << 20, 1 << 16
PARQUET_ROWS = 1024
_BEFORE_FIRST, _BETWEEN = re.compile(r"\s*\[?\s*"), re.compile(r"[\s,]*")


@dataclass(frozen=True)
class Record:
    """The value at one place of a file: a JSON value, a row of a table, or the whole text of a text file."""

    file: Path
    line: int
    value: Any


def list_files(path: Path) -> tuple[list[Path], list[Path]]:
    """Return (files with a known suffix, other files) at a path: the file itself, or all files below a folder."""
    if path.is_file():
        return [path], []
    files = sorted(f for f in path.rglob("*") if f.is_file() and not any(p.startswith(".") for p in f.parts[-2:]))
    known = [file for file in files if uncompressed_suffix(file) in SUFFIXES]
    return known, [file for file in files if uncompressed_suffix(file) not in SUFFIXES]


def uncompressed_suffix(path: Path) -> str:
    """Return the file's suffix in lower case, not counting `.gz` or `.zst`."""
    return (Path(path.stem) if path.suffix in (".gz", ".zst") else path).suffix.lower()


def detect_container(path: Path) -> str:
    """Return the container format of a file by its suffix; for `.json` its start decides between array and lines.

    Raises:
        BadData: The suffix is unknown.
    """
    kind = SUFFIXES.get(uncompressed_suffix(path))
    if kind is None:
        raise BadData(f"{path}: {path.suffix or 'no suffix'}: known are {', '.join(SUFFIXES)}, also with .gz or .zst")
    if kind == JSON_ARRAY:
        with open_uncompressed(path) as file:
            return JSON_ARRAY if file.read(PIECE_BYTES).lstrip(BOM).lstrip()[:1] == b"[" else JSON_LINES
    return kind


@contextmanager
def open_uncompressed(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, decompressing it if its first bytes are those of gzip or zstd."""
    with path.open("rb") as raw:
        start = raw.read(4)
        raw.seek(0)
        if start.startswith(GZIP):
            with gzip.open(raw) as file:
                yield io.BufferedReader(file, BUFFER_BYTES)
        elif start == ZSTD:
            import zstandard

            with zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as stream:
                yield io.BufferedReader(stream, BUFFER_BYTES)
        else:
            yield raw


def read_records(path: Path) -> Iterator[Record | Problem]:
    """Yield all records of a file in order, and a problem for what cannot be read. Reading continues where it can."""
    kind = detect_container(path)
    if kind == PARQUET:
        yield from _parquet(path)
        return
    try:
        with open_uncompressed(path) as file:
            yield from {JSON_LINES: _json_lines, JSON_ARRAY: _json_array, TABLE: _table, TEXT: _text}[kind](path, file)
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        yield Problem("broken_json", str(path), 0, f"the compressed file is cut or damaged: {error}")
    except Exception as error:
        if type(error).__name__ != "ZstdError":
            raise
        yield Problem("broken_json", str(path), 0, f"the compressed file is cut or damaged: {error}")


def _json_lines(path: Path, file: IO[bytes]) -> Iterator[Record | Problem]:
    import orjson

    for number, line in enumerate(file, 1):
        if number == 1:
            line = line.removeprefix(BOM)
        if line.isspace():
            continue
        try:
            yield Record(path, number, orjson.loads(line))
        except orjson.JSONDecodeError as error:
            yield _unreadable(path, number, line.rstrip(b"\r\n"), error)


def _unreadable(path: Path, number: int, line: bytes, error: ValueError) -> Problem:
    """Return the problem of a line orjson refuses, with the column where Python's parser refuses it too."""
    try:
        json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as decode_error:
        return Problem("not_utf8", str(path), number, "not UTF-8", decode_error.start + 1)
    except json.JSONDecodeError as json_error:
        return Problem("broken_json", str(path), number, f"not JSON: {json_error.msg}", json_error.colno)
    except RecursionError:
        pass
    return Problem("broken_json", str(path), number, f"not JSON: {error}")  # NaN, a lone surrogate, …


def _json_array(path: Path, file: IO[bytes]) -> Iterator[Record | Problem]:
    """Yield the items of a JSON array one at a time. The file need not fit in memory."""
    decoder, text = json.JSONDecoder(), io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
    buffer, at, line, gap = text.read(PIECE_BYTES), 0, 1, _BEFORE_FIRST
    while True:
        separator = gap.match(buffer, at)
        assert separator
        line += buffer.count("\n", at, separator.end())
        at, gap = separator.end(), (_BETWEEN if separator.end() > at or at else gap)
        if buffer.startswith("]", at):
            return
        try:
            value, end = decoder.raw_decode(buffer, at)
        except json.JSONDecodeError as error:
            piece = text.read(PIECE_BYTES)
            if not piece:
                end_line = line + buffer.count("\n", at, error.pos)
                yield Problem("broken_json", str(path), end_line, _describe(error, buffer))
                return
            buffer, at = buffer[at:] + piece, 0
            continue
        yield Record(path, line, value)
        line += buffer.count("\n", at, end)
        at = end


def _describe(error: json.JSONDecodeError, buffer: str) -> str:
    return f"not JSON: {error.msg if error.pos < len(buffer) else 'the array is not closed'}"


def _table(path: Path, file: IO[bytes]) -> Iterator[Record | Problem]:
    csv.field_size_limit(1 << 30)
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(text, delimiter="\t" if uncompressed_suffix(path) == ".tsv" else ",")
    header = next(reader, None)
    if header is None:
        return
    line = reader.line_num + 1
    for cells in reader:
        if len(cells) != len(header) and cells:
            yield Problem("not_a_row", str(path), line, f"{len(cells)} cells, the header has {len(header)}")
        elif cells:
            yield Record(path, line, dict(zip(header, cells, strict=True)))
        line = reader.line_num + 1


def _parquet(path: Path) -> Iterator[Record | Problem]:
    """Yield the rows of a Parquet file; a record's line is the number of its row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        number = 0
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(PARQUET_ROWS):
                for value in batch.to_pylist():
                    number += 1
                    yield Record(path, number, _without_nulls(value))
    except (pa.ArrowException, OSError) as error:
        yield Problem("broken_json", str(path), 0, f"not a Parquet file: {error}")


def _without_nulls(value: Any) -> Any:
    """Return the value without null fields: Parquet gives every struct all fields of its column."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _text(path: Path, file: IO[bytes]) -> Iterator[Record | Problem]:
    content = file.read().removeprefix(BOM)
    try:
        yield Record(path, 1, content.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - (content.rfind(b"\n", 0, error.start) + 1) + 1
        yield Problem("not_utf8", str(path), line, "not UTF-8", column)


def has_invalid_utf8(value: Any) -> bool:
    """Return whether text in a record has bytes that are not UTF-8, which were read as lone surrogates."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False
