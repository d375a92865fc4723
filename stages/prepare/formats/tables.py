"""Reads tables: CSV, Excel, Parquet and Arrow. A record's line is where its row begins, or the number of the row."""

import csv
import io
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self

from tuneline.core.errors import BadRequest
from tuneline.core.user_files import MIB, refuse_deep
from tuneline.stages.prepare.checks.problems import Problem
from tuneline.stages.prepare.formats.compressed_files import MAX_LINE_BYTES, Allowance, Unreadable
from tuneline.stages.prepare.formats.records import Layout, Record

ARROW_ROWS = 1024
"""Rows that are in memory at a time."""
BATCH_BYTES = 32 * MIB
"""Most that these rows may take, by the file's own figures."""


def read_csv(path: Path, file: IO[bytes], layout: Layout) -> Iterator[Record | Problem]:
    """Yield the rows of a table as objects whose keys are its header."""
    csv.field_size_limit(MAX_LINE_BYTES)
    errors = "surrogateescape" if layout.encoding == "utf-8-sig" else "strict"
    text = io.TextIOWrapper(file, layout.encoding, errors=errors, newline="")
    lines = _TableLines(text)
    for _ in range(layout.skipped_lines):
        next(lines, None)
    reader = csv.reader(lines, delimiter=layout.delimiter)

    def rows() -> Iterator[tuple[int, Sequence[str]]]:
        for cells in reader:
            lines.row_characters = 0
            yield layout.skipped_lines + reader.line_num, cells

    try:
        yield from _read_rows(path, rows(), layout.skipped_lines + 1)
    except csv.Error as error:
        raise Unreadable(f"not CSV: {error}", reader.line_num) from None


class _TableLines:
    """The lines of a table. Many of them may be one row: a line break can be inside quotes."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text, self._number = text, 0
        self.row_characters = 0
        """Read since the row began; whoever has read a row sets it to 0."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = self._text.readline(MAX_LINE_BYTES)
        self.row_characters += len(line)
        self._number += 1
        if self.row_characters >= MAX_LINE_BYTES:
            limit = f"a row of more than {MAX_LINE_BYTES / MIB:g} MiB"
            raise Unreadable(f"{limit}; is a quotation mark not closed?", self._number)
        if not line:
            raise StopIteration
        return line


def read_spreadsheet(path: Path) -> Iterator[Record | Problem]:
    """Yield the rows of an Excel file's first sheet, and a problem for each other sheet that has any.

    Raises:
        BadRequest: the library that reads Excel's files is not installed.
    """
    try:
        import openpyxl
    except ImportError:
        raise BadRequest(f"{path}: pip install 'tuneline[excel]' reads .xlsx; or save the sheet as CSV") from None
    try:
        with zipfile.ZipFile(path) as archive:
            Allowance(path).take(sum(member.file_size for member in archive.infolist()))
        yield from _read_book(path, openpyxl.load_workbook(path, read_only=True, data_only=True))
    except (Unreadable, GeneratorExit):
        raise
    except Exception as error:  # a zip file's, an XML parser's or openpyxl's own
        raise Unreadable(f"not an Excel file, or damaged: {type(error).__name__}: {error}") from None


def _read_book(path: Path, book: Any) -> Iterator[Record | Problem]:
    sheets = [sheet for sheet in book.worksheets if sheet.max_row]
    for sheet in sheets[:1]:
        cells = ([_cell_text(cell) for cell in row] for row in sheet.iter_rows(values_only=True))
        yield from _read_rows(path, enumerate(cells, 1), 1)
    for sheet in sheets[1:]:
        if any(any(row) for row in sheet.iter_rows(values_only=True, max_row=2)):
            yield Problem(
                "unread_part", str(path), 0, f"sheet {sheet.title!r} is not read: save it as a file of its own"
            )


def _read_rows(path: Path, rows: Iterator[tuple[int, Sequence[str]]], first_line: int) -> Iterator[Record | Problem]:
    """Yield rows as objects, from (line where the row ends, cells); the first has the names of the columns."""
    last_line, cells = next(rows, (0, []))
    header = [cell.strip() for cell in cells]
    if not header:
        return
    if doubled := [name for name, count in Counter(header).items() if name and count > 1]:
        names = ", ".join(header)
        text = f"two columns are called {doubled[0]!r} ({names}), and only one would be read: rename one"
        yield Problem("repeated_key", str(path), first_line, text)
        return
    line = last_line + 1
    for last_line, cells in rows:
        filled = any(cells)
        if len(cells) > len(header) and not any(cells[len(header) :]):
            cells = cells[: len(header)]
        if len(cells) != len(header) and filled:
            yield Problem("not_a_row", str(path), line, f"{len(cells)} cells, the header has {len(header)}")
        elif filled:
            yield Record(path, line, {name: cell for name, cell in zip(header, cells, strict=True) if name or cell})
        line = last_line + 1


def _cell_text(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell).lower() if isinstance(cell, bool) else str(cell)


def read_parquet(path: Path) -> Iterator[Record | Problem]:
    """Yield the rows of a Parquet file. Each struct has all fields of its column, null where a row has none."""
    import pyarrow.parquet as pq

    with _explained("a Parquet file"), pq.ParquetFile(path) as file:
        yield from _read_batches(path, _parquet_batches(file))


def _parquet_batches(file: Any) -> Iterator[Any]:
    for number in range(file.num_row_groups):
        yield from file.iter_batches(_rows_at_a_time(file.metadata.row_group(number)), row_groups=[number])


def _rows_at_a_time(group: Any) -> int:
    """Return how many rows of a row group fit the memory. A value that is stored once may be in every row."""
    row_bytes = 0
    for column in (group.column(index) for index in range(group.num_columns)):
        values = column.num_values if column.has_dictionary_page else 1
        row_bytes += column.total_uncompressed_size * values // max(1, group.num_rows)
    return max(1, min(ARROW_ROWS, BATCH_BYTES // max(1, row_bytes)))


@contextmanager
def _explained(kind: str) -> Iterator[None]:
    """Raise what Arrow raises of a damaged file as Unreadable."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, MemoryError, RecursionError, ValueError) as error:
        raise Unreadable(f"not {kind}, or damaged: {error}") from None


def read_arrow(path: Path) -> Iterator[Record | Problem]:
    """Yield the rows of an Arrow file, a stream as `save_to_disk` writes it, or one with a footer."""
    import pyarrow as pa

    with _explained("an Arrow file"), pa.OSFile(str(path)) as file:
        try:
            reader: Any = pa.ipc.open_stream(file)
            batches = iter(reader)
        except pa.ArrowInvalid:
            reader = pa.ipc.open_file(file)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        yield from _read_batches(path, map(_validated, batches))


def _validated(batch: Any) -> Any:
    """Return the batch. Raises ArrowInvalid if it points outside itself, which would end the process that reads it."""
    batch.validate(full=True)
    return batch


def _read_batches(path: Path, batches: Iterator[Any]) -> Iterator[Record | Problem]:
    number, allowance = 0, Allowance(path)
    for batch in batches:
        allowance.take(batch.nbytes)
        rows = max(1, min(ARROW_ROWS, BATCH_BYTES * batch.num_rows // max(1, batch.nbytes)))
        for start in range(0, batch.num_rows, rows):
            for value in _values(batch.slice(start, rows)):
                number += 1
                yield _to_record(path, number, value)


def _values(batch: Any) -> Iterator[Any]:
    """Yield the rows of a batch; in the place of one that has no form in Python, the exception."""
    try:
        yield from batch.to_pylist()
        return
    except (ValueError, OverflowError):  # bad UTF-8, a year beyond 9999
        pass
    for index in range(batch.num_rows):
        try:
            yield batch.slice(index, 1).to_pylist()[0]
        except (ValueError, OverflowError) as error:
            yield error


def _to_record(path: Path, number: int, value: Any) -> Record | Problem:
    try:
        if isinstance(value, Exception):
            raise value
        refuse_deep(value)
    except UnicodeDecodeError as error:
        return Problem("not_utf8", str(path), number, f"row {number} cannot be read: {error}")
    except (ValueError, OverflowError) as error:
        return Problem("broken_json", str(path), number, f"row {number} cannot be read: {error}")
    return Record(path, number, value)
