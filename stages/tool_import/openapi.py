"""Operations of an OpenAPI 3 document as tools: what a model is shown, and how a call of it becomes a request.

`openapi-pydantic` checks the document; schemas are taken from the document as it is written, since a library's model of
them drops what it does not know.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tuneline.configs.section import explain_first
from tuneline.configs.yaml_loader import parse_yaml, read_yaml
from tuneline.core.errors import BadData
from tuneline.core.redaction import redact_url
from tuneline.core.user_files import parse_json, read_json
from tuneline.stages.tool_import.imported import ImportedTools, make_catalogue, to_tool_name
from tuneline.stages.tool_import.openapi_schemas import SchemaReader

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
SAFE_METHODS = ("get", "head", "options", "trace")
"""They change nothing on the server (RFC 9110, 9.2.1)."""
IGNORED_HEADERS = ("accept", "content-type", "authorization")
"""Header parameters that the specification tells to ignore."""
JSON, FORM, MULTIPART = "application/json", "application/x-www-form-urlencoded", "multipart/form-data"
BODY = "body"
"""The argument of a body that is not an object of named properties, or one of whose names is a parameter's."""
MAX_DESCRIPTION = 500
"""Characters of a tool's description: a model reads it with every request."""
_FLAT_KEYS = frozenset(("type", "properties", "required", "title", "description", "examples", "additionalProperties"))
"""Keywords of a body whose properties can be arguments of their own without losing anything."""


@dataclass(frozen=True)
class Parameter:
    """Where an argument goes in a request, and how it is written there (OpenAPI's `in`, `style` and `explode`)."""

    name: str
    place: str
    style: str
    explode: bool


@dataclass(frozen=True)
class Operation:
    """An operation as a tool, and what it takes to call it."""

    name: str
    method: str
    path: str
    description: str
    parameters: dict[str, Any] = field(repr=False)
    """The JSON Schema of all arguments."""
    places: dict[str, Parameter]
    """By argument; the others belong to the body."""
    media_type: str | None
    """Of the body; None without one."""
    has_whole_body: bool
    """Whether the argument `body` is the body; otherwise the arguments that have no place are its properties."""
    security: tuple[str, ...]
    """Names of the security schemes that it asks for."""
    answer: dict[str, Any] = field(default_factory=dict, repr=False)
    """The JSON Schema of what it answers with, if the document says."""

    @property
    def is_safe(self) -> bool:
        return self.method in SAFE_METHODS


@dataclass(frozen=True)
class SecurityScheme:
    """How an API knows its callers. The document has no key, and none is stored: `variable` names where it is."""

    name: str
    kind: str
    """`apiKey`, `bearer` or `basic`; anything else is passed as a bearer token."""
    place: str
    """`header`, `query` or `cookie`."""
    field_name: str
    variable: str


@dataclass(frozen=True)
class Api:
    """An API: its operations, address and security, and what was left out."""

    title: str
    url: str
    url_variable: str
    operations: tuple[Operation, ...]
    schemes: dict[str, SecurityScheme]
    notes: tuple[str, ...]

    def to_tools(self) -> ImportedTools:
        """Return its operations as a catalogue."""
        tools = {op.name: {"description": op.description, "parameters": op.parameters} for op in self.operations}
        return ImportedTools(make_catalogue(tools), (*self.notes, *self._describe_calls()))

    def _describe_calls(self) -> Iterator[str]:
        yield f"calls go to {redact_url(self.url) or 'no address'}; {self.url_variable} is another"
        used = {name for operation in self.operations for name in operation.security}
        for scheme in self.schemes.values():
            if scheme.name in used:
                yield f"{scheme.name} ({scheme.kind}): `export {scheme.variable}=…`; the catalogue has no key"


def load_document(file: Path) -> dict[str, Any]:
    """Return the OpenAPI document in a JSON or YAML file, with texts for keys.

    Raises:
        BadData: unreadable, or not OpenAPI 3.0 or 3.1.
    """
    value = read_json(file, BadData) if file.suffix == ".json" else read_yaml(file, BadData)
    return _check_document(value, str(file))


def parse_document(text: str, source: str) -> dict[str, Any]:
    """Return the OpenAPI document in a text; `source` is named in errors. Raises BadData as `load_document`."""
    try:
        value = parse_json(text) if text.lstrip().startswith("{") else parse_yaml(text, Path(source), BadData)
    except ValueError as error:
        raise BadData(f"{source}: {error}") from None
    return _check_document(value, source)


def is_document(value: Any) -> bool:
    """Return whether a value is a description of an HTTP API, of whatever version."""
    return isinstance(value, Mapping) and ("openapi" in value or "swagger" in value)


def read_api(document: dict[str, Any], source: str) -> Api:
    """Return what an OpenAPI document describes.

    Raises:
        BadData: it has no operation that can be called.
    """
    title = str(document["info"]["title"])
    prefix = _variable(title)
    notes: list[str] = []
    operations: dict[str, Operation] = {}
    for path, item in document.get("paths", {}).items():
        for method in METHODS:
            if isinstance(item, Mapping) and isinstance(item.get(method), Mapping):
                _add_operation(document, path, item, method, operations, notes)
    if not operations:
        raise BadData(f"{source}: no operation that can be called; {'; '.join(notes[:3]) or 'paths is empty'}")
    schemes = _read_schemes(document, prefix)
    servers = document.get("servers") or [{}]
    return Api(title, _server_url(servers[0]), f"{prefix}_URL", tuple(operations.values()), schemes, tuple(notes))


def _check_document(value: Any, source: str) -> dict[str, Any]:
    from openapi_pydantic import parse_obj

    document: dict[str, Any] = _with_text_keys(value)
    if not is_document(document):
        raise BadData(f"{source}: not a description of an HTTP API: no `openapi: 3…`")
    version = str(document.get("openapi", document.get("swagger")))
    if not version.startswith("3."):
        raise BadData(f"{source}: version {version}; only OpenAPI 3 is read: `npx swagger2openapi` converts Swagger 2")
    try:
        parse_obj(document)
    except ValidationError as error:
        raise BadData(f"{source}: not OpenAPI {version}: {explain_first(error)}") from None
    return document


def _with_text_keys(value: Any) -> Any:
    """Return a value as JSON has it: YAML reads `200:` as a number and `2024-01-01` as a date."""
    if isinstance(value, Mapping):
        return {str(key): _with_text_keys(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_text_keys(item) for item in value]
    return value.isoformat() if isinstance(value, date) else value


def _add_operation(
    document: dict[str, Any],
    path: str,
    item: Mapping[str, Any],
    method: str,
    operations: dict[str, Operation],
    notes: list[str],
) -> None:
    operation, where = item[method], f"{method.upper()} {path}"
    try:
        read = _OperationReader(document, item, operation)
        parameters, media_type, whole = read.arguments()
    except ValueError as error:
        notes.append(f"{where}: left out: {error}")
        return
    written = operation.get("operationId") or f"{method}_{path}"
    name = to_tool_name(written, operations)
    if operation.get("operationId") and name != written:
        notes.append(f"{where}: {written!r} is called {name!r}")
    requirements = operation.get("security", document.get("security")) or []
    security = tuple(dict.fromkeys(scheme for required in requirements for scheme in required))
    operations[name] = Operation(
        name,
        method,
        path,
        _describe(operation, where),
        parameters,
        read.places,
        media_type,
        whole,
        security,
        read.answer(),
    )


class _OperationReader:
    """Reads the arguments of one operation."""

    def __init__(self, document: dict[str, Any], item: Mapping[str, Any], operation: Mapping[str, Any]) -> None:
        self._document, self._operation = document, operation
        self._schemas = SchemaReader(document)
        self._written = [*item.get("parameters", ()), *operation.get("parameters", ())]
        self.places: dict[str, Parameter] = {}

    def arguments(self) -> tuple[dict[str, Any], str | None, bool]:
        """Return (the schema of all arguments, the body's media type, whether the argument `body` is the body)."""
        properties: dict[str, Any] = {}
        required: list[str] = []
        for written in self._written:
            self._add_parameter(self._schemas.resolve(written), properties, required)
        body = self._schemas.resolve(self._operation.get("requestBody"))
        media_type, whole = None, False
        if isinstance(body, Mapping) and body.get("content"):
            media_type, schema = self._choose_body(body["content"])
            if whole := not _is_flat(schema, properties):
                schema = {"properties": {BODY: schema}, "required": [BODY]}
            properties |= schema.get("properties", {})
            required += schema.get("required", []) if body.get("required") else []
        result: dict[str, Any] = {"type": "object", "properties": properties}
        if required:
            result["required"] = list(dict.fromkeys(required))
        if self._schemas.definitions:
            result["$defs"] = self._schemas.definitions
        return result, media_type, whole

    def answer(self) -> dict[str, Any]:
        """Return the JSON Schema of the first good answer; {} if the document has none that can be read."""
        try:
            for status, response in sorted(self._operation.get("responses", {}).items()):
                content = (self._schemas.resolve(response) or {}).get("content") or {}
                if status.startswith("2") and JSON in content:
                    reader = SchemaReader(self._document, leave_out="writeOnly")
                    schema = reader.read(content[JSON].get("schema") or {})
                    return schema | ({"$defs": reader.definitions} if reader.definitions else {})
        except (ValueError, AttributeError):
            pass
        return {}

    def _add_parameter(self, written: Mapping[str, Any], properties: dict[str, Any], required: list[str]) -> None:
        name, place = written["name"], written["in"]
        if (place == "header" and name.lower() in IGNORED_HEADERS) or _is_key(written, self._document):
            return
        schema = written.get("schema")
        if schema is None:
            media_types: dict[str, Any] = written.get("content", {})
            schema = next((media.get("schema", {}) for media in media_types.values()), {})
        schema = self._schemas.read(schema)
        if written.get("description") and "description" not in schema:
            schema["description"] = written["description"]
        argument = name if name not in properties or self.places[name].place == place else f"{place}_{name}"
        style = written.get("style") or ("form" if place in ("query", "cookie") else "simple")
        properties[argument] = schema
        self.places[argument] = Parameter(name, place, style, bool(written.get("explode", style == "form")))
        if (written.get("required") or place == "path") and argument not in required:
            required.append(argument)

    def _choose_body(self, content: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        kinds = {media_type.partition(";")[0].strip().lower(): media_type for media_type in content}
        known = [kind for kind in kinds if kind == JSON or kind.endswith("+json")]
        known += [kind for kind in (FORM, MULTIPART) if kind in kinds]
        if not known:
            raise ValueError(f"its body is {', '.join(kinds)}; JSON and forms are sent")
        schema = self._schemas.read(content[kinds[known[0]]].get("schema") or {})
        if schema.keys() == {"$ref"}:  # it contains itself; its own properties can be arguments all the same
            schema = self._schemas.definitions[schema["$ref"].rpartition("/")[2]]
        return known[0], schema


def _is_flat(schema: Mapping[str, Any], taken: Mapping[str, Any]) -> bool:
    """Return whether a body's properties can be arguments beside the parameters."""
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or schema.get("additionalProperties", False) is not False:
        return False
    return schema.get("type", "object") == "object" and not schema.keys() - _FLAT_KEYS and not properties.keys() & taken


def _is_key(parameter: Mapping[str, Any], document: Mapping[str, Any]) -> bool:
    """Return whether a parameter is where a security scheme has its key: no model is asked for that."""
    schemes = (document.get("components") or {}).get("securitySchemes") or {}
    return any(
        scheme.get("type") == "apiKey"
        and (scheme.get("name"), scheme.get("in")) == (parameter["name"], parameter["in"])
        for scheme in schemes.values()
        if isinstance(scheme, Mapping)
    )


def _describe(operation: Mapping[str, Any], where: str) -> str:
    summary = " ".join(str(operation.get("summary") or "").split())
    details = " ".join(str(operation.get("description") or "").partition("\n\n")[0].split())
    text = details if details.startswith(summary) else f"{summary.rstrip('.')}. {details}" if details else summary
    return text[:MAX_DESCRIPTION] or where


def _read_schemes(document: Mapping[str, Any], prefix: str) -> dict[str, SecurityScheme]:
    written = (document.get("components") or {}).get("securitySchemes") or {}
    reader = SchemaReader(dict(document))
    schemes = {}
    for name, entry in written.items():
        scheme = reader.resolve(entry)
        kind = str(scheme.get("scheme", "bearer")).lower() if scheme.get("type") == "http" else scheme.get("type", "")
        place, field_name = ("header", "Authorization") if kind != "apiKey" else (scheme["in"], scheme["name"])
        several = len(written) > 1
        variable = f"{prefix}_{_variable(name)}_KEY" if several else f"{prefix}_KEY"
        schemes[name] = SecurityScheme(name, kind, place, field_name, variable)
    return schemes


def _server_url(server: Mapping[str, Any]) -> str:
    """Return a server's address with the defaults of its variables."""
    url = str(server.get("url", ""))
    for name, variable in (server.get("variables") or {}).items():
        url = url.replace(f"{{{name}}}", str(variable.get("default", "")))
    return url.rstrip("/")


def _variable(text: str) -> str:
    """Return a text as the name of an environment variable."""
    words = "".join(character if character.isascii() and character.isalnum() else "_" for character in text).upper()
    return "_".join(word for word in words.split("_") if word) or "API"
