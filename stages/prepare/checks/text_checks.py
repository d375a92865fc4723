"""Checks of one row's text: control tokens, broken characters, mojibake, secrets and personal data; and its repair."""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import orjson

from tuneline.stages.prepare.checks import personal_data
from tuneline.stages.prepare.checks.problems import RowError

CONTROL_TOKEN = re.compile(r"<\|[a-z0-9_]+\|>")
"""The form of Llama's control tokens, `<|eot_id|>` and others."""
BAD_CHARACTERS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd\ufeff\ufdd0-\ufdef]")
"""Control characters, the replacement character, byte order marks, and code points that are no characters."""
_MAYBE_MOJIBAKE = re.compile("[Â-ô][\x80-¿€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|√[^\\s\\d]|[├┬][^\\s─-╿]")
"""A lead and a continuation byte of UTF-8, decoded as Windows-1252, Mac Roman or an old DOS code page."""
_BAD_BYTES = bytes({*range(0x20), 0x7F, 0xEF} - {*b"\t\n\r"})
_MOJIBAKE_BYTES = b"\xc2\xc5\xc6\xcb\xe2"
"""The UTF-8 of whatever the pattern above matches contains one of these bytes."""


def check_text(text: str, control_tokens: Collection[str] = ()) -> Iterator[RowError]:
    """Yield at most one problem of each kind: control tokens, bad characters, mojibake, secrets, personal data.

    `control_tokens` are those of the base that have another form than Llama's.
    """
    if token := find_control_token(text, control_tokens):
        yield RowError("control_token", f"the text holds {token}")
    if personal_data.contains_any_byte(text, _BAD_BYTES) and (bad := BAD_CHARACTERS.search(text)):
        yield RowError("bad_character", f"the text holds U+{ord(bad[0]):04X}, near {_near(text, bad.start())}")
    if not text.isascii() and (broken := find_mojibake(text)):
        yield RowError("mojibake", f"the text looks decoded wrongly: {broken!r}")
    for kind, match in personal_data.first_of_each_kind(text).items():
        quote = personal_data.quote_match(text, match)
        yield RowError(match.severity, f"the text holds {kind}: {match.preview}", quote)


def check_tools(tools: Sequence[Any], control_tokens: Collection[str] = ()) -> Iterator[RowError]:
    """Yield a problem for each tool whose name, description or schema holds a control token; names alone hold none."""
    for tool in tools:
        if isinstance(tool, dict) and (token := find_control_token(orjson.dumps(tool).decode(), control_tokens)):
            name = tool.get("function", {}).get("name")
            yield RowError("control_token", f"tool {name!r}: what is said of it holds {token}")


def find_control_token(text: str, control_tokens: Collection[str] = ()) -> str | None:
    """Return the first control token in a text: one of Llama's form, else one of `control_tokens`; None without any."""
    if "<|" in text and (token := CONTROL_TOKEN.search(text)):
        return token[0]
    return next((token for token in control_tokens if token in text), None)


def repair_text(text: str) -> str:
    """Return the text with mojibake decoded correctly, bad characters removed, secrets and personal data masked."""
    from ftfy import fix_encoding

    if not text.isascii() and find_mojibake(text):
        text = "\n".join(fix_encoding(line) for line in text.split("\n"))
    return personal_data.mask_sensitive(BAD_CHARACTERS.sub("", text))


def find_mojibake(text: str) -> str | None:
    """Return the first word that shows that the text was decoded wrongly, or None."""
    from ftfy import fix_encoding
    from ftfy.badness import is_bad

    if not personal_data.contains_any_byte(text, _MOJIBAKE_BYTES) or not _MAYBE_MOJIBAKE.search(text):
        return None  # a hundred times faster than ftfy's own check
    for line in text.split("\n"):
        if is_bad(line) and fix_encoding(line) != line:
            return next((word for word in line.split() if is_bad(word)), line)[:40]
    return None


def _near(text: str, at: int) -> str:
    return repr(BAD_CHARACTERS.sub("?", text[max(0, at - 12) : at + 12]))
