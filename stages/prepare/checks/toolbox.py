"""The tools that rows may call, with a JSON Schema validator for the arguments of each."""

from collections.abc import Mapping
from typing import Any

from tuneline.configs.catalogue import Catalogue, Tool, dotted_name
from tuneline.stages.prepare.checks.problems import RowError


class Toolbox:
    """The tools that rows may call: those of the catalogue, and those that rows define by their schemas."""

    def __init__(self, catalogue: Catalogue | None) -> None:
        self.tools: dict[str, Tool] = dict(catalogue.tools) if catalogue else {}
        self.from_rows: dict[str, Tool] = {}
        """The tools that rows defined."""
        self._validators: dict[str, Any] = {}

    @property
    def catalogue(self) -> Catalogue | None:
        """The tools known so far, or None if there are none."""
        return Catalogue(tools=self.tools) if self.tools else None

    def resolve_names(self, tools: Any) -> list[str]:
        """Return the dotted names of a row's `tools`, which are names, or OpenAI's schemas of tools to add.

        Raises:
            RowError: An entry is no tool, its name is unknown, or its schema differs from an earlier one.
        """
        if tools is None:
            return []
        if not isinstance(tools, list):
            raise RowError("bad_tool", f"tools: a list, this is {type(tools).__name__}")
        return [self._resolve_name(tool) for tool in tools]

    def _resolve_name(self, entry: Any) -> str:
        if isinstance(entry, str):
            name = dotted_name(entry)
            if name not in self.tools:
                raise RowError("unknown_tool", f"tool {name!r} is listed but not in the catalogue (data.tools)")
            return name
        function = entry.get("function", entry) if isinstance(entry, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RowError("bad_tool", "tools: an entry is a name or {type: function, function: {name, parameters}}")
        name = dotted_name(function["name"])
        parameters = function.get("parameters") or {"type": "object", "properties": {}}
        tool = self.tools.get(name)
        if tool is None:
            self._add(name, Tool(description=str(function.get("description") or ""), parameters=parameters))
        elif tool.parameters != parameters and name in self.from_rows:
            raise RowError("bad_tool", f"tool {name!r}: its parameters differ from those of an earlier row")
        return name

    def _add(self, name: str, tool: Tool) -> None:
        try:
            Catalogue(tools={name: tool})
            self._validator(name, tool)
        except ValueError as error:
            reason = str(error).split("Value error, ")[-1].split(" [type=")[0]
            raise RowError("bad_tool", f"tool {name!r}: {reason}") from None
        self.tools[name] = self.from_rows[name] = tool

    def check_arguments(self, name: str, arguments: Mapping[str, Any]) -> str | None:
        """Return how the arguments violate the tool's schema, or None if they are valid."""
        error = next(self._validator(name, self.tools[name]).iter_errors(arguments), None)
        if error is None:
            return None
        path = ".".join(["arguments", *map(str, error.instance_path)])
        return f"{path}: {error.message}"

    def _validator(self, name: str, tool: Tool) -> Any:
        if name not in self._validators:
            import jsonschema_rs

            schema = {"additionalProperties": False, **tool.parameters} if tool.parameters.get("properties") else {}
            self._validators[name] = jsonschema_rs.validator_for(schema)
        return self._validators[name]
