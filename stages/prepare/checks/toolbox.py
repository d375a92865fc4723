"""The tools that rows may call, with a JSON Schema validator for the arguments of each."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from tuneline.configs.catalogue import Catalogue, Tool, dotted_name
from tuneline.configs.section import explain_first
from tuneline.core.errors import BadData
from tuneline.core.user_files import refuse_deep
from tuneline.stages.prepare.checks.problems import RowError
from tuneline.stages.prepare.checks.tool_schemas import build_validator


class Toolbox:
    """The tools that rows may call: those of the catalogue, and those that rows define by their schemas."""

    def __init__(self, catalogue: Catalogue | None) -> None:
        self.tools: dict[str, Tool] = dict(catalogue.tools) if catalogue else {}
        self.from_rows: dict[str, Tool] = {}
        """The tools that rows defined."""
        self._validators: dict[str, tuple[Any, int | None]] = {}

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
            self._add(name, str(function.get("description") or ""), parameters)
        elif tool.parameters != parameters and name in self.from_rows:
            raise RowError("bad_tool", f"tool {name!r}: its parameters differ from those of an earlier row")
        return name

    def _add(self, name: str, description: str, parameters: Any) -> None:
        try:
            tool = Tool(description=description, parameters=parameters)
            Catalogue(tools={name: tool})
            self._validators[name] = build_validator(tool.parameters)
        except ValidationError as error:
            raise RowError("bad_tool", f"tool {name!r}: {explain_first(error)}") from None
        except ValueError as error:
            raise RowError("bad_tool", f"tool {name!r}: parameters: {error}") from None
        self.tools[name] = self.from_rows[name] = tool

    def check_arguments(self, name: str, arguments: Mapping[str, Any]) -> str | None:
        """Return how the arguments violate the tool's schema, or None if they are valid.

        Raises:
            BadData: the catalogue has no usable schema for it.
        """
        validator, max_depth = self._validator(name)
        try:
            if max_depth is not None:
                refuse_deep(arguments, max_depth)
            error = next(validator.iter_errors(arguments), None)
        except ValueError as problem:
            return f"arguments: {problem}"
        if error is None:
            return None
        path = ".".join(["arguments", *map(str, error.instance_path)])
        return f"{path}: {error.message}"

    def _validator(self, name: str) -> tuple[Any, int | None]:
        if name not in self._validators:
            try:
                self._validators[name] = build_validator(self.tools[name].parameters)
            except ValueError as error:
                raise BadData(f"data.tools: {name}: parameters: {error}") from None
        return self._validators[name]
