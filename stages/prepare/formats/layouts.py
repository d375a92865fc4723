"""Tells from the first bytes of a file how its records are written, whatever its suffix says of it."""

import csv
import io
import json
import re
from itertools import islice
from typing import Any

from tuneline.stages.prepare.formats.records import JSON_ARRAY, JSON_LINES, JSON_OBJECT, JSON_VALUES, TABLE, Layout

ROW_KEYS = frozenset(
    ("messages", "conversations", "conversation", "instruction", "prompt", "text", "query", "question", "chosen")
    + ("chat", "completion")
)
"""A JSON object with one of these keys is a row, not an object around rows."""
WRAPPERS = ("data", "train", "rows", "examples", "samples", "records", "dataset", "instances", "entries", "items")
"""Keys under which an object has the rows of a file."""
DELIMITERS = ",;\t|"
ROWS_COMPARED = 20
_ENCODINGS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_SCALAR = r'(?:"(?:[^"\\]|\\.)*"|[-+.\w]+|\{[^{}\[\]]*\})'
_BEFORE_ROWS = re.compile(rf'\{{\s*(?:"[^"\\]*"\s*:\s*{_SCALAR}\s*,\s*)*"([^"\\]*)"\s*:\s*\[\s*(?=[{{\[])')


def detect_encoding(head: bytes) -> str:
    """Return the encoding of a file that begins with these bytes: UTF-16 or UTF-32 if they show it, else UTF-8."""
    for mark, encoding in _ENCODINGS:
        if head.startswith(mark):
            return encoding
    if len(head) >= 4 and not head[1] and not head[3] and head[0]:
        return "utf-16-le"
    return "utf-16-be" if len(head) >= 4 and not head[0] and not head[2] and head[1] else "utf-8-sig"


def detect_json_layout(head: bytes) -> Layout:
    """Return how JSON is written in a file that begins with these bytes: a value a line, one array, or otherwise."""
    encoding = detect_encoding(head)
    text = head.decode(encoding, errors="replace").lstrip()
    if text.startswith("["):
        first = _decode(text, 1 + len(text[1:]) - len(text[1:].lstrip()))[0]
        if not _is_turn(first):
            return Layout(JSON_ARRAY, encoding)
        return Layout(JSON_LINES if _decode(text.partition("\n")[0], 0)[0] is not None else JSON_VALUES, encoding)
    if not text.startswith("{"):
        return Layout(JSON_LINES, encoding)
    if key := _key_of_rows(text):
        return Layout(JSON_OBJECT, encoding, key=key)
    return Layout(JSON_LINES if _has_a_value_a_line(text) else JSON_VALUES, encoding)


def _has_a_value_a_line(text: str) -> bool:
    """Return whether the first value ends where its line does; one that is broken is taken for a line."""
    value, end = _decode(text, 0)
    if value is None:
        first_line = text.partition("\n")[0].rstrip()
        return "\n" not in text or not first_line.endswith(("{", "[", ","))
    rest = text[end:].lstrip(" \t")
    return "\n" not in text[:end] and not (rest.startswith("{") or (rest.startswith("\r") and rest[1:2] not in "\n"))


def _key_of_rows(text: str) -> str:
    """Return the key under which an object has rows, or an empty string if it is a row itself."""
    match = _BEFORE_ROWS.match(text)
    if match is None or match[1] in ROW_KEYS - {"conversations"}:
        return ""
    whole, _ = _decode(text, 0)
    if isinstance(whole, dict) and (ROW_KEYS - {match[1]}) & whole.keys():
        return ""
    first, _ = _decode(text, match.end())
    if _is_turn(first) or (isinstance(first, list) and match[1] not in WRAPPERS):
        return ""
    is_row = isinstance(first, dict) and bool(ROW_KEYS & first.keys())
    return match[1] if is_row or match[1] in WRAPPERS else ""


def _is_turn(value: Any) -> bool:
    if not isinstance(value, dict) or "messages" in value or "conversations" in value:
        return False
    return "role" in value or "from" in value or {"human", "assistant"} <= value.keys()


def _decode(text: str, start: int) -> tuple[Any, int]:
    """Return (the JSON value that begins here, its end), or (None, 0) if none ends in the text."""
    try:
        return json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, 0


def detect_table_layout(head: bytes, delimiter: str) -> Layout:
    """Return the layout of a table that begins with these bytes: its encoding, and what is between its cells.

    `delimiter` is what its suffix means; another one is taken if it splits all lines alike and this one does not.
    """
    encoding = detect_encoding(head)
    text = head.decode(encoding, errors="replace").removeprefix("\ufeff")
    first_line = text.partition("\n")[0].strip()
    if match := re.fullmatch(r'"?sep=(.)"?', first_line, re.I):
        return Layout(TABLE, encoding, match[1], skipped_lines=1)
    widths = {mark: _widths(text, mark) for mark in DELIMITERS}
    regular = [mark for mark in DELIMITERS if len(set(widths[mark])) == 1 and widths[mark][0] > 1]
    if delimiter in regular or not regular:
        return Layout(TABLE, encoding, delimiter)
    return Layout(TABLE, encoding, max(regular, key=lambda mark: widths[mark][0]))


def _widths(text: str, delimiter: str) -> list[int]:
    """Return the number of cells of each of the first rows, with this between cells; a cut last row is not counted."""
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = list(islice(reader, ROWS_COMPARED + 1))
    except csv.Error:
        return []
    rows = [row for row in rows if row]
    return [len(row) for row in (rows[:-1] if len(rows) > 2 else rows)]
