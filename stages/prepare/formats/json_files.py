"""Reads JSON: a value a line, the items of an array one at a time, or values one after the other."""

import io
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from tuneline.core.exact_json import find_repeated_key, parse_exact
from tuneline.core.user_files import MAX_DEPTH, MIB, refuse_deep
from tuneline.stages.prepare.checks.problems import Problem
from tuneline.stages.prepare.formats.compressed_files import MAX_LINE_BYTES, Unreadable, read_lines
from tuneline.stages.prepare.formats.records import JSON_ARRAY, JSON_OBJECT, Layout, Record

BOM = b"\xef\xbb\xbf"
PIECE_CHARACTERS = 1 << 20
MAX_BRACKETS = 1_000_000
"""Lists and objects in one record: each takes 64 bytes and more."""
_BETWEEN = re.compile(r"[\s,]*")
_COMMENT = (b"//", b"#", b"/*")


def read_json_lines(path: Path, file: IO[bytes], encoding: str) -> Iterator[Record | Problem]:
    """Yield the value of each line."""
    lines: Iterable[bytes] = read_lines(file)
    if encoding != "utf-8-sig":
        lines = (line.encode("utf-8", "surrogatepass") for line in read_lines(io.TextIOWrapper(file, encoding)))
    for number, line in enumerate(lines, 1):
        if number == 1:
            line = line.removeprefix(BOM)
        if line.isspace() or not line:
            continue
        brackets = line.count(b"[") + line.count(b"{")
        try:
            refuse_brackets(brackets)
            value = parse_exact(line)
            if brackets > MAX_DEPTH:
                refuse_deep(value)
        except ValueError as error:
            yield describe_line(path, number, line.strip(b"\r\n"), error)
            continue
        if key := find_repeated_key(line, value):
            yield _repeated(path, number, key)
        else:
            yield Record(path, number, value)


def refuse_brackets(count: int) -> None:
    """Raise ValueError if a record has more opening brackets than are read."""
    if count > MAX_BRACKETS:
        raise ValueError(f"more than {MAX_BRACKETS:,} lists and objects in one record")


def describe_line(path: Path, number: int, line: bytes, error: ValueError) -> Problem:
    """Return the problem of a line that is no JSON, with what is known of the cause and where it is."""
    text = line.strip()
    if line.count(b"[") + line.count(b"{") > MAX_BRACKETS:  # too many to read it once more
        return Problem("broken_json", str(path), number, f"not a row: {error}")
    if text.startswith(_COMMENT):
        return Problem("broken_json", str(path), number, "a comment, which JSON does not have: remove the line")
    try:
        json.loads(line.decode("utf-8"), parse_constant=_refuse)
    except UnicodeDecodeError as decode_error:
        return Problem("not_utf8", str(path), number, describe_bytes(line, decode_error), decode_error.start + 1)
    except json.JSONDecodeError as json_error:
        if text.endswith(b",") and _is_json(text[:-1]):
            return Problem("broken_json", str(path), number, "a comma after the value: remove it", len(line))
        return Problem("broken_json", str(path), number, f"not JSON: {json_error.msg}", json_error.colno)
    except ValueError as other:
        return Problem("broken_json", str(path), number, str(other))
    except RecursionError:
        pass
    surrogate = re.search(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}", line) if "surrogate" in str(error) else None
    if surrogate:
        return Problem("broken_json", str(path), number, _half_a_character(surrogate[0].decode()))
    return Problem("broken_json", str(path), number, f"not JSON: {error}")


def describe_bytes(content: bytes, error: UnicodeDecodeError) -> str:
    """Return what is at the place where text is not UTF-8, and what it reads as in Windows-1252."""
    near = content[max(0, error.start - 12) : error.start + 12]
    guess = near.decode("cp1252", errors="ignore").strip()
    return f"not UTF-8 (as Windows-1252 it reads {guess!r})"


def describe_characters(value: Any) -> tuple[str, str] | None:
    """Return (kind, text) of the problem of a value with lone surrogates, or None if it has none."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        code = ord(error.object[error.start])
        if 0xDC80 <= code <= 0xDCFF:  # a byte that was read with `surrogateescape`
            start = max(0, error.start - 12)
            near = error.object[start : error.start + 12].encode("utf-8", "surrogateescape")
            return "not_utf8", describe_bytes(near, UnicodeDecodeError("utf-8", near, error.start - start, 1, ""))
        return "broken_json", _half_a_character(f"\\u{code:04x}")
    return None


def read_json_values(path: Path, file: IO[bytes], layout: Layout) -> Iterator[Record | Problem]:
    """Yield the items of an array, or the values of a file one after the other. The file need not fit in memory."""
    errors = "surrogateescape" if layout.encoding == "utf-8-sig" else "strict"
    reader = _ValueReader(io.TextIOWrapper(file, layout.encoding, errors=errors, newline=""))
    if layout.kind == JSON_ARRAY:
        reader.skip("[")
    elif layout.kind == JSON_OBJECT:
        reader.skip_to_rows(layout.key)
    closing = "]" if layout.kind in (JSON_ARRAY, JSON_OBJECT) else ""
    while not (closing and reader.at(closing)):
        try:
            line, value, text = reader.read()
        except EOFError:
            if closing:
                yield Problem("broken_json", str(path), reader.line, "not JSON: the array is not closed")
            return
        except json.JSONDecodeError as error:
            end = len(reader.buffer.rstrip())
            line = reader.line + reader.buffer.count("\n", reader.position, min(error.pos, end))
            cut = bool(closing) and error.pos >= end
            yield Problem(
                "broken_json", str(path), line, f"not JSON: {'the array is not closed' if cut else error.msg}"
            )
            return
        except RecursionError:
            yield Problem("broken_json", str(path), reader.line, "not JSON: nested too deeply")
            return
        except ValueError as error:  # an integer of thousands of digits
            yield Problem("broken_json", str(path), reader.line, f"not JSON: {error}")
            return
        if too_deep := _refusal_of_depth(value):
            yield Problem("broken_json", str(path), line, too_deep)
        elif reader.constants:
            yield Problem("broken_json", str(path), line, f"{reader.constants[0]} is not JSON: write null or text")
        elif key := find_repeated_key(text.encode("utf-8", "surrogatepass"), value):
            yield _repeated(path, line, key)
        else:
            yield Record(path, line, value)
    if closing:
        yield from _report_rest(path, reader)


def _refusal_of_depth(value: Any) -> str:
    try:
        refuse_deep(value)
    except ValueError as error:
        return f"not a row: {error}"
    return ""


def _report_rest(path: Path, reader: "_ValueReader") -> Iterator[Problem]:
    """Yield a problem if there is more after the array that was read."""
    reader.skip("]")
    with suppress(EOFError):
        reader.fill(64)
    rest = reader.buffer[reader.position : reader.position + 60].strip()
    if rest.strip("}\x00 \r\n\t"):
        yield Problem(
            "unread_part", str(path), reader.line, f"the rows are followed by {rest[:40]!r}, which is not read"
        )


class _ValueReader:
    """Reads values one after the other from text; `line` is where the next one begins."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text, self.buffer, self.position, self.line = text, "", 0, 1
        self.constants: list[str] = []
        """NaN and Infinity in the value that was read last."""
        self._decoder = json.JSONDecoder(parse_constant=self.constants.append)

    def fill(self, characters: int) -> None:
        """Read on until so many characters are ahead. Raises EOFError at the end of the file."""
        while len(self.buffer) - self.position < characters:
            piece = self._text.read(PIECE_CHARACTERS)
            if not piece:
                raise EOFError
            self.buffer, self.position = self.buffer[self.position :] + piece, 0

    def at(self, character: str) -> bool:
        """Return whether this is the next character after spaces and commas."""
        while True:
            separator = _BETWEEN.match(self.buffer, self.position)
            assert separator
            self._pass_over(separator.end())
            try:
                self.fill(1)
            except EOFError:
                return False
            if self.buffer[self.position] not in " \t\r\n,":
                return self.buffer[self.position] == character

    def skip(self, character: str) -> None:
        """Go past the next character, if it is this one."""
        if self.at(character):
            self._pass_over(self.position + 1)

    def skip_to_rows(self, key: str) -> None:
        """Go past the beginning of the array under a key of the object that the file is."""
        self.at("{")
        begin = re.compile(rf'"{re.escape(key)}"\s*:\s*\[').search(self.buffer, self.position)
        assert begin
        self._pass_over(begin.end())

    def read(self) -> tuple[int, Any, str]:
        """Return (its line, a value, its text). Raises EOFError if there is none, JSONDecodeError if it is broken."""
        if self.at("") or self.position == len(self.buffer):
            raise EOFError
        while True:
            self.constants.clear()
            try:
                value, end = self._decoder.raw_decode(self.buffer, self.position)
            except json.JSONDecodeError:
                size = len(self.buffer) - self.position
                with suppress(EOFError):
                    self.fill(2 * size + 1)  # doubled, or a long value would be read from its start for every piece
                if len(self.buffer) - self.position == size:
                    raise
                self._refuse_long(size)
                continue
            if end == len(self.buffer) and self._may_go_on(end):
                continue
            line, text = self.line, self.buffer[self.position : end]
            self._pass_over(end)
            return line, value, text

    def _refuse_long(self, size: int) -> None:
        """Raise Unreadable if a value that did not end in `size` characters is too large, or has too many in it."""
        brackets = sum(self.buffer.count(bracket, self.position, self.position + size) for bracket in "[{")
        if size > MAX_LINE_BYTES or brackets > MAX_BRACKETS:
            raise Unreadable(f"no JSON value ends within {MAX_LINE_BYTES / MIB:g} MiB, the limit", self.line)

    def _may_go_on(self, end: int) -> bool:
        """Read on after a value that ends with the buffer; return whether there was more: a number may go on."""
        try:
            self.fill(end - self.position + 1)
        except EOFError:
            return False
        return True

    def _pass_over(self, end: int) -> None:
        self.line += self.buffer.count("\n", self.position, end)
        self.position = end


def _repeated(path: Path, line: int, key: str) -> Problem:
    text = f"the key {key!r} occurs twice in one object, and only one of its values would be read"
    return Problem("repeated_key", str(path), line, text)


def _half_a_character(escape: str) -> str:
    return f"{escape} is half of a character (an emoji cut in two): remove it, or write the whole character"


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON: write null or text")
