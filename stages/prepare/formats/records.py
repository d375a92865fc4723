"""A record: the value at one place of a file, whatever it means. And what a file is, as its first bytes show."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

JSON_LINES, JSON_ARRAY, JSON_VALUES, JSON_OBJECT = "json lines", "json array", "json values", "json object"
TABLE, SPREADSHEET, PARQUET, ARROW, TEXT = "csv", "xlsx", "parquet", "arrow", "text"


@dataclass(frozen=True)
class Record:
    """The value at one place of a file: a JSON value, a row of a table, or the whole text of a text file."""

    file: Path
    line: int
    value: Any


@dataclass(frozen=True)
class Layout:
    """How the records of a file are written."""

    kind: str
    encoding: str = "utf-8-sig"
    delimiter: str = ","
    """What stands between the cells of a table."""
    skipped_lines: int = 0
    """Lines before the header of a table, as Excel's `sep=;`."""
    key: str = ""
    """The key that has the rows, if the file is one object around them."""

    def __str__(self) -> str:
        details = [self.kind]
        if self.kind == TABLE and self.delimiter != ",":
            details.append(f"{'tabs' if self.delimiter == chr(9) else repr(self.delimiter)} between cells")
        if self.key:
            details.append(f"the rows are under {self.key!r}")
        if self.encoding != "utf-8-sig":
            details.append(self.encoding.upper())
        return ", ".join(details)
