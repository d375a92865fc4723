"""Files of any kind as records in a stream: JSON lines, JSON arrays, CSV, Parquet and plain text; gz and zst too.

A record is what stands in one place of a file, before anything is known about its meaning. Memory holds a line, a
batch of a Parquet file, or one text document at a time.
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
from tuneline.stages.prepare.checks.problems import Problem, Wrong

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
    """What stands at one place: a JSON object, a table's row, or (of a text file) the whole text."""

    file: Path
    line: int
    value: Any


def files_in(path: Path) -> tuple[list[Path], list[Path]]:
    """(files that can be read, files that cannot be told) at a path: itself, or all below a folder, in order."""
    if path.is_file():
        return [path], []
    found = sorted(f for f in path.rglob("*") if f.is_file() and not any(p.startswith(".") for p in f.parts[-2:]))
    known = [f for f in found if plain_suffix(f) in SUFFIXES]
    return known, [f for f in found if plain_suffix(f) not in SUFFIXES]


def plain_suffix(path: Path) -> str:
    """The suffix without `.gz` or `.zst`."""
    return (Path(path.stem) if path.suffix in (".gz", ".zst") else path).suffix.lower()


def container(path: Path) -> str:
    """How the file holds its records, by its suffix; a `.json` file that is JSON lines is known by its start.

    Raises:
        BadData: the suffix says nothing.
    """
    kind = SUFFIXES.get(plain_suffix(path))
    if kind is None:
        raise BadData(f"{path}: {path.suffix or 'no suffix'}: known are {', '.join(SUFFIXES)}, also with .gz or .zst")
    if kind == JSON_ARRAY:
        with opened(path) as file:
            return JSON_ARRAY if file.read(PIECE_BYTES).lstrip(BOM).lstrip()[:1] == b"[" else JSON_LINES
    return kind


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's content, uncompressed, whatever its name says."""
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


def records(path: Path) -> Iterator[Record | Problem]:
    """All records of a file in order; what cannot be read is a problem, and reading goes on where it can."""
    kind = container(path)
    if kind == PARQUET:
        yield from _parquet(path)
        return
    try:
        with opened(path) as file:
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
    try:
        json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as wrong:
        return Problem("not_utf8", str(path), number, "not UTF-8", wrong.start + 1)
    except json.JSONDecodeError as wrong:
        return Problem("broken_json", str(path), number, f"not JSON: {wrong.msg}", wrong.colno)
    except RecursionError:
        pass
    return Problem("broken_json", str(path), number, f"not JSON: {error}")  # NaN, a lone surrogate, …


def _json_array(path: Path, file: IO[bytes]) -> Iterator[Record | Problem]:
    """Objects of a JSON array, one at a time: the file need not fit in memory."""
    decoder, text = json.JSONDecoder(), io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
    buffer, at, line, gap = text.read(PIECE_BYTES), 0, 1, _BEFORE_FIRST
    while True:
        skipped = gap.match(buffer, at)
        assert skipped
        line += buffer.count("\n", at, skipped.end())
        at, gap = skipped.end(), (_BETWEEN if skipped.end() > at or at else gap)
        if buffer.startswith("]", at):
            return
        try:
            value, end = decoder.raw_decode(buffer, at)
        except json.JSONDecodeError as error:
            piece = text.read(PIECE_BYTES)
            if not piece:
                yield Problem("broken_json", str(path), line + buffer.count("\n", at, error.pos), _told(error, buffer))
                return
            buffer, at = buffer[at:] + piece, 0
            continue
        yield Record(path, line, value)
        line += buffer.count("\n", at, end)
        at = end


def _told(error: json.JSONDecodeError, buffer: str) -> str:
    return f"not JSON: {error.msg if error.pos < len(buffer) else 'the array is not closed'}"


def _table(path: Path, file: IO[bytes]) -> Iterator[Record | Problem]:
    csv.field_size_limit(1 << 30)
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(text, delimiter="\t" if plain_suffix(path) == ".tsv" else ",")
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
    """A Parquet file's rows; their number stands for the line."""
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
    """Parquet gives every struct all fields of its column; those a row did not have are null."""
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


def escaped(value: Any) -> bool:
    """Whether text somewhere in a record holds bytes that are not UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def refuse_escaped(record: Record) -> None:
    if escaped(record.value):
        raise Wrong("not_utf8", "not UTF-8")
