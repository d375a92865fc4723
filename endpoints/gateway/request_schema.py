"""What the body of a request may be: the fields of OpenAI's API with their types, by path below `/v1/`.

An engine answers 500 to shapes it did not expect, and some of its own fields make it compute for minutes. So types are
checked here, and a field that is not listed needs a target's `extra_fields`.
"""

from functools import cache
from typing import Any

import jsonschema_rs

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": ["number", "null"]}
COUNT: Schema = {"type": ["integer", "null"], "minimum": 0}
FLAG: Schema = {"type": ["boolean", "null"]}
OBJECT: Schema = {"type": "object"}
ANY: Schema = {}
NAME: Schema = {"type": "string", "pattern": "^[a-zA-Z0-9_.-]{1,64}$"}
PARTS: Schema = {"type": "array", "items": {"type": "object", "properties": {"type": TEXT}, "required": ["type"]}}
STOP: Schema = {"anyOf": [{"type": ["string", "null"]}, {"type": "array", "maxItems": 16, "items": TEXT}]}
CALL: Schema = {
    "type": "object",
    "required": ["type", "function"],
    "properties": {
        "id": TEXT,
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "required": ["name", "arguments"],
            "properties": {"name": TEXT, "arguments": TEXT},
        },
    },
}
MESSAGE: Schema = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool", "function"]},
        "content": {"anyOf": [{"type": ["string", "null"]}, PARTS]},
        "name": TEXT,
        "tool_call_id": TEXT,
        "tool_calls": {"anyOf": [{"type": "null"}, {"type": "array", "items": CALL}]},
    },
    "if": {"properties": {"role": {"const": "assistant"}}},
    "else": {"required": ["content"]},
}
FUNCTION: Schema = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": NAME, "description": TEXT, "parameters": OBJECT, "strict": FLAG},
}
TOOL: Schema = {
    "type": "object",
    "required": ["type"],
    "properties": {"type": TEXT, "function": FUNCTION},
    "if": {"properties": {"type": {"const": "function"}}},
    "then": {"required": ["function"]},
}
SAMPLING: Schema = {
    "model": TEXT,
    "temperature": NUMBER | {"minimum": 0, "maximum": 5},
    "top_p": NUMBER | {"minimum": 0, "maximum": 1},
    "frequency_penalty": NUMBER | {"minimum": -2, "maximum": 2},
    "presence_penalty": NUMBER | {"minimum": -2, "maximum": 2},
    "max_tokens": COUNT,
    "n": {"type": ["integer", "null"], "minimum": 1},
    "seed": {"type": ["integer", "null"], "minimum": -(2**63), "maximum": 2**63 - 1},
    "stop": STOP,
    "stream": FLAG,
    "stream_options": {"type": ["object", "null"]},
    "logit_bias": {"type": ["object", "null"]},
    "user": TEXT,
}
METADATA: Schema = {"type": ["object", "null"]}
CHAT: Schema = {
    **SAMPLING,
    "metadata": METADATA,
    "messages": {"type": "array", "minItems": 1, "items": MESSAGE},
    "tools": {"type": ["array", "null"], "items": TOOL},
    "tool_choice": {"anyOf": [{"enum": ["none", "auto", "required", None]}, OBJECT]},
    "functions": {"type": "array", "items": FUNCTION},
    "function_call": ANY,
    "parallel_tool_calls": FLAG,
    "response_format": {
        "anyOf": [
            {"type": "null"},
            {
                "type": "object",
                "required": ["type"],
                "properties": {"type": {"enum": ["text", "json_object", "json_schema"]}, "json_schema": OBJECT},
                "if": {"properties": {"type": {"const": "json_schema"}}},
                "then": {"required": ["json_schema"]},
            },
        ]
    },
    "logprobs": FLAG,
    "top_logprobs": COUNT | {"maximum": 20},
    "max_completion_tokens": COUNT,
    **dict.fromkeys(
        (
            *("audio", "modalities", "moderation", "prediction", "prompt_cache_key", "prompt_cache_options"),
            *("prompt_cache_retention", "reasoning_effort", "safety_identifier", "service_tier", "store", "verbosity"),
            "web_search_options",
        ),
        ANY,
    ),
}
PROMPT: Schema = {"anyOf": [TEXT, {"type": "array", "minItems": 1}]}
COMPLETION: Schema = {
    **SAMPLING,
    "prompt": PROMPT,
    "best_of": {"type": ["integer", "null"], "minimum": 1, "maximum": 8},
    "echo": FLAG,
    "logprobs": COUNT | {"maximum": 20},
    "suffix": {"type": ["string", "null"]},
}
EMBEDDING: Schema = {
    "model": TEXT,
    "input": PROMPT,
    "dimensions": COUNT,
    "encoding_format": {"enum": ["float", "base64"]},
    "user": TEXT,
}
RESPONSE: Schema = {
    **{name: SAMPLING[name] for name in ("model", "temperature", "top_p", "stream", "stream_options", "user")},
    "metadata": METADATA,
    "input": {"type": ["string", "array"]},
    "tools": {"type": "array", "items": OBJECT},
    "max_output_tokens": COUNT,
    **dict.fromkeys(
        (
            *("access_programs", "background", "context_management", "conversation", "image", "include"),
            *("instructions", "max_tool_calls"),
            *("moderation", "parallel_tool_calls", "previous_response_id", "prompt", "prompt_cache_key", "reasoning"),
            *("prompt_cache_options", "prompt_cache_retention", "safety_identifier", "service_tier", "store", "text"),
            *("tool_choice", "top_logprobs", "truncation"),
        ),
        ANY,
    ),
}
ANTHROPIC_MESSAGE: Schema = {
    **{name: SAMPLING[name] for name in ("model", "temperature", "top_p", "max_tokens", "stream")},
    "metadata": METADATA,
    "messages": {"type": "array", "minItems": 1, "items": {"type": "object", "required": ["role", "content"]}},
    "tools": {"type": "array", "items": OBJECT},
    **dict.fromkeys(("system", "stop_sequences", "tool_choice", "top_k", "thinking", "service_tier"), ANY),
}
FIELDS: dict[str, Schema] = {
    "chat/completions": CHAT,
    "completions": COMPLETION,
    "embeddings": EMBEDDING,
    "responses": RESPONSE,
    "messages": ANTHROPIC_MESSAGE,
}
"""Path below `/v1/` → field → its schema."""
REQUIRED = {"completions": "prompt", "embeddings": "input", "responses": "input"}


def find_mistake(api: str, body: dict[str, Any]) -> tuple[str, str] | None:
    """Return (field, what is wrong with it) of the first wrong field, or None if the body is as the API has it."""
    error = next(_validator(api).iter_errors(body), None)
    if error is None:
        return None
    field = ".".join(str(part) for part in error.instance_path)
    return field, error.message[:200] if len(error.message) <= 200 else "not valid in OpenAI's API"


def body_schema(api: str) -> Schema:
    """Return the JSON Schema (2020-12) of a body."""
    return {"type": "object", "required": ["model", REQUIRED.get(api, "messages")], "properties": FIELDS[api]}


@cache
def _validator(api: str) -> Any:
    schema = body_schema(api)
    properties = {"metadata": METADATA} | schema["properties"]  # the gateway looks for a task in it on every path
    return jsonschema_rs.Draft202012Validator(schema | {"properties": properties})
