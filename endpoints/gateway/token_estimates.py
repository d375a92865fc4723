"""Tokens of requests whose upstream does not tell them: the caller left, the stream broke off, or it never does."""

from typing import Any

from tuneline.endpoints.assistant.history import CHARACTERS_PER_TOKEN

PROMPT_FIELDS = ("messages", "prompt", "input", "system", "instructions", "tools", "functions", "response_format")
DATA_URL = "data:"
"""How an image or a sound in a prompt begins, whose tokens its length does not tell."""


def estimate_prompt_tokens(body: dict[str, Any]) -> int:
    """Return about how many tokens a request's prompt has."""
    return estimate_tokens(sum(_count_characters(body.get(field)) for field in PROMPT_FIELDS))


def estimate_tokens(characters: int) -> int:
    """Return about how many tokens a text has."""
    return round(characters / CHARACTERS_PER_TOKEN)


def _count_characters(value: Any) -> int:
    count, stack = 0, [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            stack += [*item, *item.values()]
        elif isinstance(item, list):
            stack += item
        elif isinstance(item, str) and not item.startswith(DATA_URL):
            count += len(item)
    return count
