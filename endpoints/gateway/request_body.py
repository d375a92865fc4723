"""A request's body: parsed, checked against the limits and the API, and made into what a target is sent."""

from collections.abc import Iterator
from typing import Any

from tuneline.configs.gateway import NEVER_FORWARDED, Limits, Target
from tuneline.core.user_files import parse_json
from tuneline.endpoints.forced_tools import find_choice_mistake
from tuneline.endpoints.gateway.api_errors import ApiError
from tuneline.endpoints.gateway.request_schema import FIELDS, find_mistake

Body = dict[str, Any]
TOKEN_FIELDS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
SCHEMA_FIELDS = ("tools", "functions", "response_format", "text")
"""What an engine compiles to a grammar."""


def parse_body(api: str, content: bytes, limits: Limits) -> Body:
    """Return a request's body.

    Raises:
        ApiError: 400 that names the field: not JSON, not as the API has it, or beyond a limit.
    """
    try:
        body = parse_json(content)
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {str(error)[:200]}") from None
    if not isinstance(body, dict):
        raise ApiError(400, "the body is a JSON object with a `model`")
    if _depth(body, limits.depth) > limits.depth:
        raise ApiError(400, f"the body is nested more than {limits.depth} deep")
    if mistake := find_mistake(api, body):
        raise ApiError(400, f"{mistake[0] or 'the body'}: {mistake[1]}", param=mistake[0] or None)
    if api == "chat/completions" and (choice_mistake := find_choice_mistake(body)):
        raise ApiError(400, f"tool_choice: {choice_mistake}", param="tool_choice")
    _check_limits(body, limits)
    return body


def unknown_fields(api: str, body: Body) -> list[str]:
    """Return the fields of a body that OpenAI's API has not."""
    return [field for field in body if field not in FIELDS[api]]


def check_fields(api: str, body: Body, targets: list[Target]) -> None:
    """Check that every field is OpenAI's, or allowed by one of the targets.

    Raises:
        ApiError: 400 that names the field.
    """
    allowed = {field for target in targets for field in target.extra_fields} - NEVER_FORWARDED
    for field in unknown_fields(api, body):
        if field not in allowed:
            raise ApiError(400, f"{field}: not a field of this model's API", param=field, code="unknown_parameter")
    if "chat_template" in (body.get("chat_template_kwargs") or ()):
        field = "chat_template_kwargs.chat_template"
        raise ApiError(400, f"{field}: a template is a program and is not accepted", param=field)


def payload_for(api: str, body: Body, target: Target) -> Body:
    """Return what a target is sent: no field that it does not take, and usage in streams."""
    payload = {k: v for k, v in body.items() if k in FIELDS[api] or k in target.extra_fields}
    if body.get("stream") and target.usage_in_streams and api in ("chat/completions", "completions"):
        payload["stream_options"] = (body.get("stream_options") or {}) | {"include_usage": True}
    return payload


def wants_usage(body: Body) -> bool:
    """Return whether a caller asked for usage in its stream."""
    return bool((body.get("stream_options") or {}).get("include_usage"))


def _check_limits(body: Body, limits: Limits) -> None:
    if (body.get("n") or 1) > limits.choices:
        raise ApiError(400, f"n: {body['n']} is more than {limits.choices}", param="n")
    for field in TOKEN_FIELDS:
        if (body.get(field) or 0) > limits.max_tokens:
            raise ApiError(400, f"{field}: {body[field]} is more than {limits.max_tokens}", param=field)
    for field in SCHEMA_FIELDS:
        if (body.get(field)) and sum(1 for _ in _values(body[field])) > limits.schema_values:
            raise ApiError(400, f"{field}: more than {limits.schema_values} values in its schemas", param=field)


def _depth(value: Any, most: int) -> int:
    """Return how deep a value is nested; counting ends beyond `most`."""
    level, depth = [value], 0
    while level and depth <= most:
        depth += 1
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
    return depth


def _values(value: Any) -> Iterator[Any]:
    """Yield a value and all within it."""
    stack = [value]
    while stack:
        item = stack.pop()
        yield item
        if isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
