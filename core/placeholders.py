"""`{name}` in texts that users write, replaced by values. Only that: `str.format` would also pad, index and call."""

import string
from collections.abc import Mapping

MAX_CHARACTERS = 1_000_000
"""Of a text with its values: more than any model's context takes of one message."""


def fill(text: str, values: Mapping[str, str]) -> str:
    """Return the text with each `{name}` replaced by its value; `{{` and `}}` are braces.

    Raises:
        ValueError: a name has no value, braces do not match, there is more than a name in them, or the result is too
            long.
    """
    pieces: list[str] = []
    length = 0
    for literal, name, spec, conversion in string.Formatter().parse(text):
        if name is not None and (spec or conversion or not name.isidentifier()):
            raise ValueError(f"{{{name[:40]}…}}: braces may only contain a name; write a literal brace twice")
        if name is not None and name not in values:
            raise ValueError(f"{{{name}}}: no such value; known: {', '.join(values) or 'none'}")
        piece = literal if name is None else literal + values[name]
        length += len(piece)
        if length > MAX_CHARACTERS:
            raise ValueError(f"longer than {MAX_CHARACTERS:,} characters once its values are filled in")
        pieces.append(piece)
    return "".join(pieces)
