"""Printing: text that others wrote is escaped, and a terminal that is not UTF-8, or is gone, raises nothing.

A terminal obeys control characters in what it shows: with them a model's answer, a file's name or a server's error can
write the clipboard (OSC 52), rename the window or overwrite earlier lines. Whatever reaches a terminal passes
`printable`: a process calls `guard_output` first, tables and colours are printed by `safe_console.SafeConsole`.
"""

import codecs
import io
import re
import sys

from tuneline.core.redaction import redact

UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and newline, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # these change the order in which characters are shown
    "\u2028\u2029\ud800-\udfff]"  # separators of lines; halves of characters, which no encoding takes
)
REPLACEMENTS = str.maketrans(
    {"–": "-", "—": "-", "−": "-", "…": "...", "→": "->", "×": "x", "·": ".", "±": "+/-", "\u202f": " ", "’": "'"}
)
"""What our own messages use beyond ASCII, for terminals that lack it."""
ERRORS = "tuneline-replace"
"""Name of the codecs error handler that prints what an encoding lacks as `REPLACEMENTS` or as an escape."""


def printable(text: str, *, one_line: bool = False) -> str:
    r"""Return `text` with every control character as an escape, such as `\u001b`; tabs and newlines stay.

    With `one_line` newlines are escaped too. In JSON the escapes mean the same as the characters they replace.
    """
    text = UNPRINTABLE.sub(_escape, text.replace("\r\n", "\n"))
    return text.replace("\n", r"\n") if one_line else text


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


class SafeStream(io.TextIOWrapper):
    """Standard output or error that passes on `printable` text without credentials.

    Rich consoles write to the `stream` below it.
    """

    def __init__(self, stream: io.TextIOWrapper) -> None:
        # Written through, so that what comes by this way and what comes by rich's keep their order.
        super().__init__(stream.buffer, stream.encoding, ERRORS, line_buffering=True, write_through=True)
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        super().write(printable(redact(text)))
        return len(text)

    def close(self) -> None:
        """Flush alone: the buffer is that of the stream below, which outlives this one where output is captured."""
        if not self.buffer.closed:
            self.flush()


def guard_output() -> None:
    """Make what this process prints printable, whoever in it prints; the first call of a command or a container."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and not isinstance(stream, SafeStream):
            stream.reconfigure(errors=ERRORS)
            setattr(sys, name, SafeStream(stream))


def echo(text: str, *, error: bool = False) -> None:
    """Print a line of printable text at once, on standard error if `error`; for processes whose output is not ours."""
    stream = sys.stderr if error else sys.stdout
    encoding = stream.encoding or "utf-8"
    stream.write(printable(redact(text)).encode(encoding, ERRORS).decode(encoding) + "\n")
    stream.flush()


def _replace_unencodable(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(REPLACEMENTS)
    return text.encode("ascii", "backslashreplace").decode(), error.end


codecs.register_error(ERRORS, _replace_unencodable)
