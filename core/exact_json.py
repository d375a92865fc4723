"""JSON as it is written: numbers stay what they are, in whichever kind of file they are.

orjson reads integers beyond 64 bits as floats, and keeps the last of two values of one key. Both are found without
parsing twice: a run of 19 digits, and a number of keys that differs from that of the value read.
"""

import json
import math
from collections import Counter
from typing import Any

_DIGITS = bytes(0x30 if chr(code).isdigit() and code < 0x80 else 0x20 for code in range(256))
_LONG_NUMBER = b"0" * 19


def parse_exact(content: bytes) -> Any:
    """Return the value of a JSON text whose integers are exact, however large.

    Raises:
        ValueError: not JSON. NaN, numbers beyond a double and lone surrogates are not.
    """
    import orjson

    value = orjson.loads(content)
    return json.loads(content, parse_constant=_refuse) if has_long_number(content) else value


def has_long_number(content: bytes) -> bool:
    """Return whether a text has so many digits in a row that orjson might round the number."""
    return _LONG_NUMBER in content.translate(_DIGITS)


def find_repeated_key(content: bytes, value: Any) -> str | None:
    """Return a key that an object in a JSON text has twice, or None; `value` is what was read from the text."""
    import orjson

    try:
        if content.count(b'":') == orjson.dumps(value).count(b'":'):
            return None
    except TypeError:  # an integer beyond 64 bits
        pass
    repeated: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> None:
        keys = Counter(key for key, _ in pairs)
        repeated.extend(key for key, count in keys.items() if count > 1)

    json.loads(content, object_pairs_hook=collect)
    return repeated[0] if repeated else None


def is_finite(value: Any) -> bool:
    """Return whether all numbers in a value have a form in JSON, which NaN and Infinity have not."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(is_finite, value.values()))
    return all(map(is_finite, value)) if isinstance(value, list) else True


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
