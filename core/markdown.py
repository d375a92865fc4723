"""Text of others in Markdown of ours: shown as it is, never read as markup.

Markdown is GitHub's, which the hub shows too: https://github.github.com/gfm/. Any ASCII punctuation may have a
backslash before it there; only what could begin markup gets one, so that a card stays readable as a file.
"""

import re

_BREAKS = re.compile("[\x00-\x20\x7f-\x9f\u2028-\u202e\u2066-\u2069]+")
"""Line breaks, other control characters and marks that turn the direction of writing: a line has one space for them."""
_MARKUP = re.compile(r"[\\`*\[\]<>|~&$]|_(?![A-Za-z0-9])|(?<![A-Za-z0-9])_|(?<!\S)#|:(?=\S)|(?<=www)\.|[-+=]+(?=\s*$)")
"""Emphasis, code, links, HTML, table cells, entities, formulas, headings, addresses; lines under a heading."""
_BLOCK = re.compile(r"^(\s*)(?:([-+=])|(\d{1,9})([.)]))(?=\s|[-+=]|$)")
"""What a list or a rule begins with, at the beginning of a text."""
_URL = re.compile(r"https?://[A-Za-z0-9][^\s<>\x00-\x1f]*")


class Markdown(str):
    """Text that is Markdown already: `escape_markdown` leaves it."""

    __slots__ = ()


def escape_markdown(value: object) -> str:
    """Return a value as one line of Markdown that shows its text."""
    if isinstance(value, Markdown):
        return value
    line = _MARKUP.sub(lambda mark: "".join(f"\\{character}" for character in mark[0]), _BREAKS.sub(" ", str(value)))
    return _BLOCK.sub(lambda mark: f"{mark[1]}\\{mark[2]}" if mark[2] else f"{mark[1]}{mark[3]}\\{mark[4]}", line)


def code_span(value: object, *, in_table: bool = False) -> Markdown:
    """Return a value as inline code; in a table, `|` would end the cell even in code and has a backslash there."""
    text = _BREAKS.sub(" ", str(value))
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith(("`", " ")) or text.endswith(("`", " ")) or not text else ""
    text = text.replace("|", "\\|") if in_table else text
    return Markdown(f"{fence}{space}{text}{space}{fence}")


def autolink(url: str) -> Markdown:
    """Return a link to a page of the web that shows its address; any other text is shown and links nowhere."""
    return Markdown(f"<{url}>" if _URL.fullmatch(url) else escape_markdown(url))
