"""Damages files as disks, editors and attackers do: every damaged file is made from a whole one and a number."""

import copy
import json
import random
import re
from collections.abc import Callable
from typing import Any

Damage = Callable[[bytes, random.Random], bytes]

NASTY_TOKENS = (
    *("null", "true", "[]", "{}", "[[]]", '""', "''", "-1", "0", "1e999", ".inf", ".nan", "NaN", "-0.0", "1" * 5000),
    *("99999999999999999999", "9223372036854775807", "3000000000", "~", "*a", "&a", "<<", "!!python/name:os.system"),
    *("!!binary", "!!timestamp x", "!!int x", "2001-99-99", "? [a]", "- - -", "{{", "{x:>3000000000}", "{0.__class__}"),
    *(
        "<9-1>",
        "<1-99999999999999999999>",
        "(" * 300,
        "[" * 3000,
        "{a: " * 300,
        "\\ud800",
        "\\u0000",
        "../../x",
        "/dev/zero",
    ),
    *(
        "{%",
        "{% for i in range(99999) %}",
        "${x}",
        "😀" * 50,
        "\u2028",
        "\x00",
        "\x1b]52;c;x\x07",
        "#",
        ":",
        "-",
        "|",
        ">",
    ),
)
"""What stands in for a token of the file: values of other types, of absurd size, and what other layers interpret."""
NASTY_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", " ", "x", "\x00", "\ud800", "é" * 3, "../../x", "/dev/zero", "{x}", "a" * 5000, "1", "null", "NaN"),
    *([], {}, [[]], [None], {"": None}, [1, "a", None], {"a": {"a": {"a": 1}}}),
)
_TOKEN = re.compile(rb"\"(?:\\.|[^\"\\\n])*\"|[A-Za-z_][\w.]*|-?\d+(?:\.\d+)?|[^\s\w]")


def truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def flip_bits(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def overwrite(content: bytes, rng: random.Random) -> bytes:
    at, length = rng.randrange(len(content) + 1), rng.choice((1, 4, 16, 200))
    filler = rng.choice((b"\x00", b"\xff", b"\xc3", b"[", b"{", b'"', b"\n", None))
    return content[:at] + (rng.randbytes(length) if filler is None else filler * length) + content[at + length :]


def insert(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.randbytes(rng.choice((1, 3, 40))) + content[at:]


def remove(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + content[at + rng.choice((1, 2, 10, 300)) :]


def repeat(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content) + 1)
    piece = content[at : at + rng.choice((1, 30, 500))]
    return content[:at] + piece * rng.choice((2, 2, 50)) + content[at:]


def replace_tokens(content: bytes, rng: random.Random) -> bytes:
    """Put something nasty in the place of up to three words, numbers, texts or signs."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        tokens = list(_TOKEN.finditer(content))
        if tokens:
            token = rng.choice(tokens)
            nasty = rng.choice(NASTY_TOKENS).encode("utf-8", "surrogatepass")
            content = content[: token.start()] + nasty + content[token.end() :]
    return content


def replace_json_value(content: bytes, rng: random.Random) -> bytes:
    """Replace up to three values of a JSON document, or of one line of JSON lines, by others of any type."""
    lines = content.split(b"\n") if b"}\n{" in content else [content]
    number = rng.randrange(len(lines))
    try:
        document = json.loads(lines[number])
    except ValueError:
        return flip_bits(content, rng)
    for _ in range(rng.choice((1, 1, 2, 3))):
        document = _with_replacement(document, rng)
    lines[number] = json.dumps(document).encode()
    return b"\n".join(lines)


def _with_replacement(document: Any, rng: random.Random) -> Any:
    places: list[tuple[Any, Any]] = []

    def collect(value: Any) -> None:
        pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, item in pairs:
            places.append((value, key))
            collect(item)

    collect(document)
    if not places:
        return copy.deepcopy(rng.choice(NASTY_VALUES))  # which is changed by the next replacement
    parent, key = rng.choice(places)
    if isinstance(parent, dict) and rng.random() < 0.2:
        parent[rng.choice(("", "x", "a.b", "\x00", str(key).upper()))] = parent.pop(key)
    elif rng.random() < 0.1:
        del parent[key]
    else:
        parent[key] = copy.deepcopy(rng.choice(NASTY_VALUES))
    return document


def damage_header(content: bytes, rng: random.Random) -> bytes:
    """Damage the JSON at the beginning of a safetensors file, after its length."""
    length = int.from_bytes(content[:8], "little")
    header = rng.choice((flip_bits, replace_tokens, replace_json_value, replace_json_value))(
        content[8 : 8 + length], rng
    )
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


BYTES: tuple[Damage, ...] = (truncate, flip_bits, flip_bits, overwrite, insert, remove, repeat)
TEXT: tuple[Damage, ...] = (*BYTES, replace_tokens, replace_tokens, replace_tokens)
JSON: tuple[Damage, ...] = (*BYTES, replace_tokens, *(replace_json_value,) * 5)


def damage(content: bytes, kinds: tuple[Damage, ...], number: int) -> bytes:
    """Return the damaged file of this number; the same for the same content and number."""
    rng = random.Random(number)
    return rng.choice(kinds)(content, rng)
