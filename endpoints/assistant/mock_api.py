"""A local server made from an OpenAPI document: it answers with what the document says an answer looks like.

For trying an assistant before it may touch the real API. Nothing is stored; an answer repeats the arguments it has
properties for.
"""

import json
import random
from collections.abc import Mapping
from typing import Any

from tuneline.stages.prepare.synthesis.schema_values import is_constrained, make_values
from tuneline.stages.tool_import.openapi import Api, Operation

MAX_DEPTH = 4
"""Of examples made from schemas that contain themselves."""
SEED = 0
"""Of examples made by a schema's format, pattern and bounds: the same answer each time."""
_EXAMPLES: dict[str, Any] = {"string": "text", "integer": 1, "number": 1.5, "boolean": True, "null": None}


def build_mock(api: Api) -> Any:
    """Return an ASGI app that has the API's operations at its base path."""
    from urllib.parse import urlsplit

    from starlette.applications import Starlette
    from starlette.routing import Route

    base = urlsplit(api.url).path.rstrip("/")
    # Paths without parameters first, as OpenAPI says: `/pets/mine` is not `/pets/{id}`.
    ordered = sorted(api.operations, key=lambda operation: operation.path.count("{"))
    routes = [Route(base + op.path, _make_endpoint(op), methods=[op.method.upper()]) for op in ordered]
    return Starlette(routes=routes)


def _make_endpoint(operation: Operation) -> Any:
    from starlette.requests import Request
    from starlette.responses import JSONResponse

    async def answer(request: Request) -> JSONResponse:
        sent: dict[str, Any] = {**request.query_params, **request.path_params}
        if operation.path.endswith("}"):  # what is looked up by `{petId}` has it as its `id`
            sent.setdefault("id", list(request.path_params.values())[-1])
        body = await request.body()
        if body and "json" in request.headers.get("content-type", ""):
            value = json.loads(body)
            sent |= value if isinstance(value, dict) else {"body": value}
        example = make_example(operation.answer, operation.answer) if operation.answer else {"ok": True}
        return JSONResponse(_repeat(example, sent))

    return answer


def make_example(schema: Any, root: Mapping[str, Any], depth: int = 0) -> Any:
    """Return a value that a schema allows: its own example if it has one."""
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
        return None
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    for key in ("examples", "enum"):
        if schema.get(key):
            return schema[key][0]
    if "$ref" in schema:
        return make_example(root.get("$defs", {}).get(schema["$ref"].rpartition("/")[2]), root, depth + 1)
    for key in ("allOf", "anyOf", "oneOf"):
        if schema.get(key):
            parts = [make_example(part, root, depth + 1) for part in schema[key]]
            objects = [part for part in parts if isinstance(part, dict)]
            return {k: v for part in objects for k, v in part.items()} if key == "allOf" and objects else parts[0]
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: make_example(part, root, depth + 1) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [make_example(schema.get("items", {}), root, depth + 1)]
    made = make_values(schema, random.Random(SEED), 1) if is_constrained(schema) else []
    return made[0] if made else _EXAMPLES.get(kind)


def _repeat(example: Any, sent: Mapping[str, Any]) -> Any:
    """Return an example with what was sent in the properties of the same names."""
    if not isinstance(example, dict):
        return example
    return {name: _typed(sent[name], value) if name in sent else value for name, value in example.items()}


def _typed(sent: Any, example: Any) -> Any:
    """Return what an address had as text in the type that the answer has."""
    if isinstance(sent, str) and isinstance(example, int | float) and not isinstance(example, bool):
        try:
            return type(example)(sent)
        except ValueError:
            return sent
    return sent
