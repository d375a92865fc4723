"""Calls of an OpenAPI operation: a tool's arguments as an HTTP request, by httpx2."""

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from tuneline.core.environment import read_stated_variable
from tuneline.core.errors import BadRequest
from tuneline.core.redaction import redact_url
from tuneline.stages.tool_import.openapi import BODY, FORM, JSON, MULTIPART, Api, Operation, Parameter, SecurityScheme

MAX_RESPONSE_BYTES = 1 << 20
"""Of an answer; a model reads far less."""
_SEPARATORS = {"form": ",", "simple": ",", "spaceDelimited": " ", "pipeDelimited": "|"}


class CallFailed(Exception):
    """The API answered with an error, or the arguments make no request; the message is for the model."""


class ApiCaller:
    """Calls an API's operations with one HTTP client; close it, or use it in `async with`."""

    def __init__(self, api: Api) -> None:
        import httpx2

        self._api = api
        self._base = (read_stated_variable(api.url_variable) or api.url).rstrip("/")
        if not self._base.startswith(("http://", "https://")):
            raise BadRequest(f"{api.title}: {self._base or 'no address'!r}: `export {api.url_variable}=https://…`")
        # An API that redirects could lead a request, and its key, anywhere.
        self._client = httpx2.AsyncClient(follow_redirects=False, timeout=None)

    async def __aenter__(self) -> "ApiCaller":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.aclose()

    async def call(self, operation: Operation, arguments: Mapping[str, Any]) -> Any:
        """Return what the API answers: JSON as a value, anything else as text.

        Raises:
            CallFailed: an argument is no part of an address, or the API answered with an error.
        """
        import httpx2

        request = self._request(operation, arguments)
        try:
            async with self._client.stream(**request) as response:
                content = b""
                async for part in response.aiter_bytes():
                    content += part
                    if len(content) > MAX_RESPONSE_BYTES:
                        break
        except httpx2.HTTPError as error:
            where = redact_url(self._base)
            raise CallFailed(f"{where} does not answer: {type(error).__name__}") from None
        text = content[:MAX_RESPONSE_BYTES].decode("utf-8", "replace")
        if not response.is_success:
            raise CallFailed(f"HTTP {response.status_code}: {text[:300]}")
        if len(content) > MAX_RESPONSE_BYTES or not text:
            return text or f"HTTP {response.status_code}"
        try:
            return json.loads(text)
        except ValueError:
            return text

    def _request(self, operation: Operation, arguments: Mapping[str, Any]) -> dict[str, Any]:
        path = operation.path
        query: list[tuple[str, str]] = []
        headers, cookies = dict[str, str](), dict[str, str]()
        for argument, parameter in operation.places.items():
            if argument not in arguments or arguments[argument] is None:
                continue
            value = arguments[argument]
            if parameter.place == "path":
                path = path.replace(f"{{{parameter.name}}}", _path_part(parameter, value))
            elif parameter.place == "query":
                query += _query_pairs(parameter, value)
            else:
                (headers if parameter.place == "header" else cookies)[parameter.name] = _joined(parameter, value)
        request = {"method": operation.method.upper(), "url": self._base + path, **self._body(operation, arguments)}
        self._sign(operation, headers, query, cookies)
        if cookies:
            headers["Cookie"] = "; ".join(f"{name}={quote(value)}" for name, value in cookies.items())
        return request | {"params": query, "headers": headers} if query else request | {"headers": headers}

    def _body(self, operation: Operation, arguments: Mapping[str, Any]) -> dict[str, Any]:
        if operation.media_type is None:
            return {}
        fields = {name: value for name, value in arguments.items() if name not in operation.places}
        body = fields.get(BODY) if operation.has_whole_body else fields
        if operation.media_type == FORM:
            return {"data": {name: _scalar(value) for name, value in (body or {}).items()}}
        if operation.media_type == MULTIPART:
            return {"files": {name: (None, _scalar(value)) for name, value in (body or {}).items()}}
        if operation.media_type == JSON:
            return {"json": body}
        return {"content": json.dumps(body), "headers": {"Content-Type": operation.media_type}}

    def _sign(
        self, operation: Operation, headers: dict[str, str], query: list[tuple[str, str]], cookies: dict[str, str]
    ) -> None:
        for scheme in (self._api.schemes.get(name) for name in operation.security):
            if scheme is None or not (key := read_stated_variable(scheme.variable)):
                continue
            if scheme.place == "query":
                query.append((scheme.field_name, key))
            else:
                (cookies if scheme.place == "cookie" else headers)[scheme.field_name] = _credential(scheme, key)


def _credential(scheme: SecurityScheme, key: str) -> str:
    """Return a key as its header has it; `user:password` for basic authentication."""
    if scheme.kind == "apiKey":
        return key
    if scheme.kind == "basic":
        import base64

        return "Basic " + base64.b64encode(key.encode()).decode()
    return f"Bearer {key}"


def _path_part(parameter: Parameter, value: Any) -> str:
    text = _joined(parameter, value)
    if text.strip() in ("", ".", ".."):  # a client would read them as another path
        raise CallFailed(f"{parameter.name}: {text!r} cannot be part of a path")
    return quote(text, safe="")


def _query_pairs(parameter: Parameter, value: Any) -> Iterator[tuple[str, str]]:
    if parameter.style == "deepObject" and isinstance(value, Mapping):
        yield from ((f"{parameter.name}[{key}]", _scalar(item)) for key, item in value.items())
    elif parameter.explode and isinstance(value, list):
        yield from ((parameter.name, _scalar(item)) for item in value)
    elif parameter.explode and isinstance(value, Mapping):
        yield from ((str(key), _scalar(item)) for key, item in value.items())
    else:
        yield parameter.name, _joined(parameter, value)


def _joined(parameter: Parameter, value: Any) -> str:
    """Return a value in one text, as OpenAPI's styles write it."""
    if isinstance(value, Mapping):
        pairs = [f"{k}={_scalar(v)}" if parameter.explode else f"{k},{_scalar(v)}" for k, v in value.items()]
        return ",".join(pairs)
    if isinstance(value, list):
        return _SEPARATORS.get(parameter.style, ",").join(map(_scalar, value))
    return _scalar(value)


def _scalar(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
