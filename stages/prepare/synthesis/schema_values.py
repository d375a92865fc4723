"""Values that a JSON Schema allows, made from its own keywords: examples for made-up rows and for mocked answers.

`const`, `enum` and `examples` are taken as they are; `format`, `pattern`, `multipleOf` and the bounds of numbers and
texts are met. Each value is checked by a validator before it is returned, so a schema that asks for more than is known
here gives none. Formats are those of JSON Schema 2020-12 (section 7.3), and `url` and `phone`, which people write.
"""

import random
import string
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

Schema = Mapping[str, Any]
CONSTRAINTS = (
    *("const", "enum", "examples", "format", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    *("multipleOf", "minLength", "maxLength"),
)
"""Keywords that say which values of a type are meant."""
LONG_TEXT = 120
"""A `maxLength` from here on says nothing of a word or a sentence."""
TRIES = 200
WIDTH = 100
"""From a bound to the other, where a schema states only one."""
MAX_REPEATS = 6
"""Of what a pattern repeats without a limit."""
NAMES = ("anna", "marco", "wayan", "sofia", "peter", "nina", "ravi", "olga", "karim", "lena")
WORDS = ("harbour", "garden", "office", "studio", "market", "bridge", "river", "summit", "coast", "valley")
DOMAINS = ("example.com", "example.org", "example.net")


def is_constrained(schema: Schema) -> bool:
    """Return whether a schema says more of a plain value than its type."""
    if schema.get("type", "string") not in ("string", "integer", "number"):
        return False
    keywords = [key for key in CONSTRAINTS if schema.get(key) not in (None, [], "")]
    lengths = {"minLength", "maxLength"}
    is_loose = int(schema.get("minLength") or 0) <= 1 and int(schema.get("maxLength") or LONG_TEXT) >= LONG_TEXT
    return bool(set(keywords) - (lengths if is_loose else set()))


def make_values(schema: Schema, rng: random.Random, count: int) -> list[Any]:
    """Return up to `count` different values of a text or a number that a schema allows; none if none was found."""
    import jsonschema_rs

    try:
        validator = jsonschema_rs.validator_for(dict(schema), validate_formats=True, offline=True)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError):
        return []
    values: list[Any] = []
    for _ in range(TRIES):
        value = make_plain_value(schema, rng)
        if value is not None and value not in values and validator.is_valid(value):
            values.append(value)
        if len(values) == count:
            break
    return values


def make_plain_value(schema: Schema, rng: random.Random) -> Any:
    """Return a text or a number by a schema's keywords, which a validator has yet to accept; None if there is none."""
    if "const" in schema:
        return schema["const"]
    for key in ("enum", "examples"):
        if schema.get(key):
            return rng.choice(schema[key])
    if schema.get("type") in ("integer", "number"):
        return _make_number(schema, rng)
    make = FORMATS.get(str(schema.get("format")))
    if make:
        return make(rng)
    return make_match(str(schema["pattern"]), rng) if schema.get("pattern") else _make_text(schema, rng)


def _make_number(schema: Schema, rng: random.Random) -> int | float:
    """Return a number within a schema's bounds, a multiple of what it says, whole if that is allowed."""
    low, high = schema.get("minimum"), schema.get("maximum")
    step = schema.get("multipleOf") or (1 if schema.get("type") == "integer" else 0.5)
    for key, is_low in (("exclusiveMinimum", True), ("exclusiveMaximum", False)):
        bound = schema.get(key)
        if isinstance(bound, int | float) and not isinstance(bound, bool):
            low, high = (bound + step, high) if is_low else (low, bound - step)
    if low is None:
        low = high - WIDTH * step if high is not None else step
    high = low + WIDTH * step if high is None else high
    first, last = -(-low // step), high // step
    value = rng.randint(int(first), int(max(first, last))) * step
    return int(value) if float(value).is_integer() else round(value, 10)


def _make_text(schema: Schema, rng: random.Random) -> str:
    """Return words of a length that a schema allows."""
    low, high = int(schema.get("minLength") or 1), int(schema.get("maxLength") or LONG_TEXT)
    text = rng.choice(WORDS)
    while len(text) < low:
        text += f" {rng.choice(WORDS)}"
    return text[:high].strip()


def _date(rng: random.Random) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=15 * rng.randrange(2 * 365 * 96))


def _email(rng: random.Random) -> str:
    return f"{rng.choice(NAMES)}.{rng.choice(WORDS)}@{rng.choice(DOMAINS)}"


def _host(rng: random.Random) -> str:
    return f"{rng.choice(WORDS)}{rng.randrange(1, 100)}.{rng.choice(DOMAINS)}"


def _address(rng: random.Random) -> str:
    return f"https://{_host(rng)}/{rng.choice(WORDS)}/{rng.randrange(1, 1000)}"


FORMATS: dict[str, Callable[[random.Random], str]] = {
    "email": _email,
    "idn-email": _email,
    "date": lambda rng: _date(rng).strftime("%Y-%m-%d"),
    "date-time": lambda rng: _date(rng).strftime("%Y-%m-%dT%H:%M:%SZ"),
    "time": lambda rng: _date(rng).strftime("%H:%M:%SZ"),
    "duration": lambda rng: f"P{rng.randrange(1, 30)}D",
    "uri": _address,
    "url": _address,
    "iri": _address,
    "uri-reference": lambda rng: f"/{rng.choice(WORDS)}/{rng.randrange(1, 1000)}",
    "hostname": _host,
    "idn-hostname": _host,
    "ipv4": lambda rng: f"192.0.2.{rng.randrange(1, 255)}",  # RFC 5737: for documentation
    "ipv6": lambda rng: f"2001:db8::{rng.randrange(1, 0xFFFF):x}",  # RFC 3849
    "uuid": lambda rng: str(UUID(int=rng.getrandbits(128), version=4)),
    "phone": lambda rng: f"+1202555{rng.randrange(100, 200):04d}",
}
"""Format → a value of it."""


def make_match(pattern: str, rng: random.Random) -> str | None:
    """Return a text that a regular expression matches; None if it has parts that are not made here."""
    import re
    from re import _parser as parser  # type: ignore[attr-defined]

    try:
        return "".join(_expand(part, rng) for part in parser.parse(pattern))
    except (re.error, KeyError, OverflowError):
        return None


def _expand(part: Any, rng: random.Random) -> str:
    """Return a text of a part of a parsed expression. Raises KeyError for a kind of part that is not made here."""
    kind, value = str(part[0]), part[1]
    if kind == "LITERAL":
        return chr(value)
    if kind in ("ANY", "NOT_LITERAL"):
        return rng.choice(string.ascii_lowercase)
    if kind == "AT":
        return ""
    if kind == "IN":
        return rng.choice(_members(value))
    if kind == "BRANCH":
        return "".join(_expand(inner, rng) for inner in rng.choice(value[1]))
    if kind == "SUBPATTERN":
        return "".join(_expand(inner, rng) for inner in value[3])
    if kind in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        low, high, inner = value
        times = rng.randint(low, min(int(high), low + MAX_REPEATS))
        return "".join(_expand(item, rng) for _ in range(times) for item in inner)
    raise KeyError(kind)


CATEGORIES = {
    "CATEGORY_DIGIT": string.digits,
    "CATEGORY_WORD": string.ascii_lowercase + string.digits,
    "CATEGORY_SPACE": " ",
    "CATEGORY_NOT_DIGIT": string.ascii_lowercase,
    "CATEGORY_NOT_SPACE": string.ascii_lowercase + string.digits,
    "CATEGORY_NOT_WORD": "-. ",
}


def _members(members: Any) -> list[str]:
    """Return characters of a set; of one that is negated, letters, digits and marks that are not in it."""
    is_negated = str(members[0][0]) == "NEGATE"
    characters: set[str] = set()
    for kind, value in members[1:] if is_negated else members:
        if str(kind) == "LITERAL":
            characters.add(chr(value))
        elif str(kind) == "RANGE":
            characters |= {chr(code) for code in range(value[0], min(value[1], value[0] + 255) + 1)}
        else:
            characters |= set(CATEGORIES[str(value)])
    others = set(string.ascii_letters + string.digits + "-_ ") - characters
    return sorted(others if is_negated else characters)
