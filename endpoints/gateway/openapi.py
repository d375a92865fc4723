"""The gateway's API as an OpenAPI document, made of what it checks bodies against."""

from collections.abc import Sequence
from typing import Any

from tuneline.endpoints.gateway.feedback import MAX_CORRECTION, RATINGS
from tuneline.endpoints.gateway.request_schema import FIELDS, body_schema

JSON = "application/json"
STATUSES = ("400", "401", "403", "404", "405", "408", "413", "429", "502", "503", "504")
"""Of errors, which all have one shape."""
FEEDBACK: dict[str, Any] = {
    "type": "object",
    "required": ["id"],
    "properties": {
        "id": {"type": "string", "pattern": "^req_", "maxLength": 64},
        "rating": {"enum": list(RATINGS)},
        "value": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
        "correction": {"type": ["string", "null"], "maxLength": MAX_CORRECTION},
    },
}


def describe_api(models: Sequence[str]) -> dict[str, Any]:
    """Return the document (OpenAPI 3.1) for a key that may ask these models."""
    posts = {f"/v1/{api}": _with_model(body_schema(api), models) for api in FIELDS} | {"/v1/feedback": FEEDBACK}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tuneline's gateway", "version": "1"},
        "security": [{"key": []}],
        "paths": {path: {"post": _post(body)} for path, body in posts.items()}
        | {path: {"get": {"responses": _responses("200", kind)}} for path, kind in _gets().items()},
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": _error()},
        },
    }


def _gets() -> dict[str, str]:
    """Return path → the type of its answer."""
    return {"/v1/models": JSON, "/health": JSON, "/ready": JSON, "/openapi.json": JSON, "/metrics": "text/plain"}


def _with_model(schema: dict[str, Any], models: Sequence[str]) -> dict[str, Any]:
    properties = schema["properties"] | {"model": {"enum": list(models)}}
    return schema | {"properties": properties}


def _post(body: dict[str, Any]) -> dict[str, Any]:
    content = {JSON: {"schema": body}}
    return {"requestBody": {"required": True, "content": content}, "responses": _responses("200", JSON)}


def _responses(status: str, kind: str) -> dict[str, Any]:
    error = {"description": "an error", "content": {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}}
    good: dict[str, Any] = {"description": "the answer", "content": {kind: {}}}
    if kind == JSON:
        good["content"]["text/event-stream"] = {}
    return {status: good} | dict.fromkeys(STATUSES, error)


def _error() -> dict[str, Any]:
    text = {"type": ["string", "null"]}
    fields = {"message": {"type": "string"}, "type": {"type": "string"}, "param": text, "code": text}
    error = {"type": "object", "required": list(fields), "properties": fields}
    return {"type": "object", "required": ["error"], "properties": {"error": error}}
