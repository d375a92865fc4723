"""`tool_choice: none`: an answer in words, also of a model that was tuned on calls alone.

llama-server and vLLM show the tools all the same and only leave the calls unparsed: what a model then writes as a call
is the answer's text. So the tools are not shown, and what a call begins with is not generated: llama-server gets a
grammar, vLLM `bad_words`. An answer whose form the request states is left to that.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from tuneline.engines.tool_calls import HERMES, LLAMA_4_START, MISTRAL, TAG

OPENERS = (TAG, HERMES, MISTRAL, LLAMA_4_START)
"""What calls begin with, wherever in an answer."""
BARE_OPENERS = ('{"name"', '{"type": "function"', '{"function"')
"""What a call without an opener begins with, which is the answer's beginning."""
BEGIN = "\0"
"""Stands for the beginning of an answer, which is in no answer."""
FORMS = ("response_format", "json_schema", "grammar", "structured_outputs", "guided_json", "guided_regex")
"""Keys of a request that state the form of its answer."""
TOOL_KEYS = ("tools", "tool_choice", "parallel_tool_calls")


def forbid_calls(body: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a chat request's body whose answer must not be a call, with its engine's `fields`."""
    without_tools = {key: value for key, value in body.items() if key not in TOOL_KEYS}
    return without_tools | ({} if any(body.get(key) for key in FORMS) else dict(fields))


def llama_cpp_fields() -> dict[str, Any]:
    """Return the fields with which llama-server generates no call."""
    bare = tuple(f"{BEGIN}{space}{text}" for text in BARE_OPENERS for space in ("", " ", "\n"))
    return {"grammar": exclude_texts(OPENERS + bare)}


def vllm_fields() -> dict[str, Any]:
    """Return the fields with which vLLM generates no call that has an opener."""
    return {"bad_words": list(OPENERS)}


@cache
def exclude_texts(texts: tuple[str, ...]) -> str:
    """Return a grammar (GBNF) of all texts in which none of `texts` occurs; one that starts with `BEGIN`, at the start.

    It is the automaton of Aho and Corasick (1975): a rule for each beginning of one of the texts.
    """
    states = [prefix for prefix in _list_prefixes(texts) if not _ends_with_any(prefix, texts)]
    names = {state: f"s{number}" for number, state in enumerate(states)}
    characters = sorted({character for text in texts for character in text} - {BEGIN})
    rules = [f"root ::= {names[_longest_suffix(BEGIN, states)]}"]
    for state, name in names.items():
        steps = {c: _longest_suffix(state + c, states) for c in characters if not _ends_with_any(state + c, texts)}
        followed = {c: after for c, after in steps.items() if after}
        others = "".join(map(_escape, sorted({*followed, *(set(characters) - steps.keys())} or {BEGIN})))
        ways = [f"[^{others}] {names['']}", *(f"[{_escape(c)}] {names[after]}" for c, after in followed.items())]
        rules.append(f"{name} ::= ({' | '.join(ways)})?")
    return "\n".join(rules)


def _list_prefixes(texts: Sequence[str]) -> Iterator[str]:
    yield from dict.fromkeys(text[:length] for text in texts for length in range(len(text)))


def _ends_with_any(text: str, texts: Sequence[str]) -> bool:
    return any(text.endswith(ending) for ending in texts)


def _longest_suffix(text: str, states: Sequence[str]) -> str:
    """Return the longest ending of a text that is one of `states`, among which is the empty one."""
    return next(text[start:] for start in range(len(text) + 1) if text[start:] in states)


def _escape(character: str) -> str:
    return f"\\x{ord(character):02X}"
