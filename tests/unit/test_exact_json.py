"""JSON is read as it is written: integers exact, and no key lost to another of the same name."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneline.core.exact_json import find_repeated_key, is_finite, parse_exact

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES, st.booleans())
def test_any_value_is_read_as_python_reads_it(value: object, ascii_only: bool) -> None:
    content = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    if any(0xD800 <= ord(character) < 0xE000 for character in json.dumps(value, ensure_ascii=False)):
        return
    assert parse_exact(content) == value == json.loads(content)
    assert find_repeated_key(content, value) is None


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_what_is_no_number_of_json_is_refused(constant: str) -> None:
    with pytest.raises(ValueError):
        parse_exact(f'{{"a": {constant}, "b": 9400111899223197428000}}'.encode())
    assert not is_finite({"a": [1, float("nan")]})


@pytest.mark.parametrize("text", ['{"a":1,"a":2}', '{"a" : 1, "a" : 2}', '[{"x":{"a":"\\":","a":2}}]'])
def test_a_key_that_stands_twice_is_named(text: str) -> None:
    assert find_repeated_key(text.encode(), json.loads(text)) == "a"
