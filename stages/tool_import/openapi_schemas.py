"""Schemas of an OpenAPI document as JSON Schema 2020-12 that stands alone, without references to the document.

A schema that contains itself stays a reference, to `$defs` of the tool's own schema. Keywords of OpenAPI go out.
"""

from collections.abc import Mapping
from typing import Any

from tuneline.stages.prepare.checks.tool_schemas import MAX_SIZE, VALUES, resolve_reference, write_null_type

_ANNOTATIONS = frozenset(("xml", "discriminator", "externalDocs", "example", "readOnly", "writeOnly", "deprecated"))
"""What OpenAPI adds to JSON Schema, and no model or engine reads."""
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords whose values are schemas by name."""


class SchemaReader:
    """Reads the schemas of one tool; what they share and what contains itself comes out once, in `definitions`."""

    def __init__(self, document: dict[str, Any], *, leave_out: str = "readOnly") -> None:
        """Properties marked `leave_out` are left out: `readOnly` of requests, `writeOnly` of answers."""
        self._leave_out = leave_out
        self.definitions: dict[str, Any] = {}
        self._document, self._recursive = document, set[str]()
        self._size = 0

    def read(self, schema: Any) -> dict[str, Any]:
        """Return a schema with its references written out.

        Raises:
            ValueError: a reference leads to no place in the document, or the schema is too large with all of them.
        """
        written = self._read(schema, ())
        return written if isinstance(written, dict) else {}

    def resolve(self, node: Any) -> Any:
        """Return what a reference, or a chain of them, leads to; anything else as it is.

        Raises:
            ValueError: it leads to no place in the document, or in a circle.
        """
        seen: set[str] = set()
        while isinstance(node, Mapping) and isinstance(node.get("$ref"), str):
            if node["$ref"] in seen:
                raise ValueError(f"$ref: {node['$ref'][:60]!r}: leads back to itself")
            seen.add(node["$ref"])
            node = self._target(node["$ref"])
        return node

    def _target(self, reference: str) -> Any:
        if not reference.startswith("#"):
            raise ValueError(f"$ref: {reference[:60]!r}: in another file; bundle the description into one file first")
        return resolve_reference(reference, self._document)

    def _read(self, node: Any, above: tuple[str, ...]) -> Any:
        if isinstance(node, list):
            return [self._read(item, above) for item in node]
        if not isinstance(node, Mapping):
            return node
        self._size += 1
        if self._size > MAX_SIZE:
            raise ValueError(f"more than {MAX_SIZE:,} objects, with references written out")
        if isinstance(node.get("$ref"), str):
            return self._read_reference(node, above)
        hidden = _marked(node, self._leave_out)
        result = {
            key: self._read_keyword(key, value, above, hidden)
            for key, value in node.items()
            if key not in _ANNOTATIONS and not key.startswith("x-")
        }
        if "example" in node and "examples" not in node:
            result["examples"] = [node["example"]]
        return write_null_type(_write_bounds(result))

    def _read_keyword(self, key: str, value: Any, above: tuple[str, ...], hidden: set[str]) -> Any:
        if key in VALUES:
            return value
        if key == "required" and isinstance(value, list):
            return [name for name in value if name not in hidden]
        if key in _NAMED and isinstance(value, Mapping):
            hidden = hidden if key == "properties" else set()
            return {str(name): self._read(item, above) for name, item in value.items() if name not in hidden}
        return self._read(value, above)

    def _read_reference(self, node: Mapping[str, Any], above: tuple[str, ...]) -> Any:
        reference = node["$ref"]
        name = reference.rpartition("/")[2].replace("~1", "_").replace("~0", "_")
        link = {"$ref": f"#/$defs/{name}"}
        beside = {key: value for key, value in node.items() if key in ("description", "nullable")}
        if reference in above:
            self._recursive.add(reference)
            return write_null_type(link | beside)
        target = self._read(self._target(reference), (*above, reference))
        if reference in self._recursive:
            self.definitions[name] = target
            return write_null_type(link | beside)
        return write_null_type(target | beside) if isinstance(target, dict) else target


def _marked(schema: Mapping[str, Any], mark: str) -> set[str]:
    """Return the names of properties that have this keyword set."""
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return set()
    return {name for name, item in properties.items() if isinstance(item, Mapping) and item.get(mark) is True}


def _write_bounds(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema with OpenAPI 3.0's `exclusiveMinimum: true` as the number that JSON Schema has since."""
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if schema.get(exclusive) is True and bound in schema:
            schema[exclusive] = schema.pop(bound)
        elif isinstance(schema.get(exclusive), bool):
            del schema[exclusive]
    return schema
