"""The tools that rows may call, with a JSON Schema validator for the arguments of each."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from tuneline.configs.catalogue import Catalogue, Tool, dotted_name, wire_name
from tuneline.configs.section import explain_first
from tuneline.configs.tool_entries import ToolEntry, read_tool
from tuneline.core.errors import BadData
from tuneline.core.user_files import refuse_deep
from tuneline.stages.prepare.checks.notes import Notes
from tuneline.stages.prepare.checks.problems import RowError
from tuneline.stages.prepare.checks.tool_schemas import build_validator

MAX_CACHED = 2_000
"""Tools of rows that are kept with their validators; more are read again."""


@dataclass(frozen=True)
class KnownTool:
    """A tool that a row may call: its dotted name, how the row writes it, and what checks its arguments."""

    name: str
    written: str
    tool: Tool
    validator: Any
    max_depth: int | None

    def schema(self) -> dict[str, Any]:
        """Return the tool as an entry of OpenAI's `tools`."""
        return {"type": "function", "function": {"name": wire_name(self.name), **self.tool.model_dump()}}

    def check(self, arguments: Mapping[str, Any]) -> str | None:
        """Return how the arguments violate the tool's schema, or None if they are valid."""
        try:
            if self.max_depth is not None:
                refuse_deep(arguments, self.max_depth)
            error = next(self.validator.iter_errors(arguments), None)
        except ValueError as problem:
            return f"arguments: {problem}"
        if error is None:
            return None
        path = ".".join(["arguments", *map(str, error.instance_path)])
        return f"{path}: {error.message}"


RowTools = dict[str, KnownTool]
"""The tools of a row by their dotted names, in its order."""


class Toolbox:
    """The tools that rows may call: those of the catalogue, and those that rows bring."""

    def __init__(self, catalogue: Catalogue | None) -> None:
        self.tools: dict[str, Tool] = dict(catalogue.tools) if catalogue else {}
        self.from_rows: dict[str, Tool] = {}
        """The tools that rows brought under names that were new; the first of each name."""
        self._known: dict[str, KnownTool] = {}
        self._cache: dict[bytes, tuple[ToolEntry, KnownTool]] = {}

    @property
    def catalogue(self) -> Catalogue | None:
        """The tools known so far, or None if there are none."""
        return Catalogue.model_construct(tools=self.tools) if self.tools else None

    @property
    def names(self) -> set[str]:
        """The names of all tools known so far, dotted and as models see them."""
        return {*self.tools, *map(wire_name, self.tools)}

    def read_tools(self, tools: Any, notes: Notes) -> RowTools:
        """Return the tools that a row lists, by name or with their schemas.

        Raises:
            RowError: An entry is no tool, its name is unknown, or its schema cannot be used.
        """
        if isinstance(tools, Mapping):
            tools = [tools]
        if not isinstance(tools, list):
            raise RowError("bad_tool", f"tools: expected a list, not {type(tools).__name__}")
        known: RowTools = {}
        for entry in tools:
            tool = (
                self._read_name(entry)
                if isinstance(entry, str) and entry.lstrip()[:1] != "{"
                else self._read(entry, notes)
            )
            if tool.name in known and known[tool.name].tool != tool.tool:
                raise RowError("bad_tool", f"tools: two are called {wire_name(tool.name)!r}")
            known[tool.name] = tool
        return known

    def find(self, written: str, row_tools: RowTools) -> KnownTool | None:
        """Return the tool that a row calls by this name, its own before one of the catalogue; None if there is none."""
        name = dotted_name(wire_name(written))
        if name in row_tools:
            return row_tools[name]
        for tool in row_tools.values():
            if tool.written == written:
                return tool
        return self._of_catalogue(name) if name in self.tools else None

    def check_arguments(self, name: str, arguments: Mapping[str, Any]) -> str | None:
        """Return how the arguments violate the schema of a tool known by this name, or None if they are valid.

        Raises:
            BadData: the catalogue has no usable schema for it.
        """
        return self._of_catalogue(name).check(arguments)

    def entry(self, tool: KnownTool) -> str | dict[str, Any]:
        """Return a tool as a row of the dataset has it: its name, or its schema if others know it differently."""
        return tool.name if self.tools.get(tool.name) == tool.tool else tool.schema()

    def _read_name(self, written: str) -> KnownTool:
        name = dotted_name(wire_name(written))
        if name not in self.tools:
            raise RowError("unknown_tool", f"tool {written!r} is listed but not in the catalogue (data.tools)")
        return self._of_catalogue(name)

    def _of_catalogue(self, name: str) -> KnownTool:
        if name not in self._known:
            try:
                validator, max_depth = build_validator(self.tools[name].parameters)
            except ValueError as error:
                raise BadData(f"data.tools: {name}: parameters: {error}") from None
            self._known[name] = KnownTool(name, name, self.tools[name], validator, max_depth)
        return self._known[name]

    def _read(self, entry: Any, notes: Notes) -> KnownTool:
        key = _cache_key(entry)
        if key not in self._cache:
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            self._cache[key] = self._build(entry)
        tool_entry, tool = self._cache[key]
        _note_changes(tool_entry, tool, notes)
        first = self.tools.setdefault(tool.name, tool.tool)
        if first is tool.tool:
            self.from_rows[tool.name] = tool.tool
        elif first != tool.tool:
            whose = "an earlier row's" if tool.name in self.from_rows else "that of data.tools"
            what = "description" if first.parameters == tool.tool.parameters else "schema"
            notes.add("tool_differs", f"tool {tool.written!r}: its {what} differs from {whose}; each row keeps its own")
        return tool

    def _build(self, entry: Any) -> tuple[ToolEntry, KnownTool]:
        try:
            read = read_tool(_parse_entry(entry))
            tool = Tool(description=read.description, parameters=read.parameters)
        except ValidationError as error:
            raise RowError("bad_tool", f"tools: {_name_in(entry)!r}: {explain_first(error)}") from None
        except ValueError as error:
            raise RowError("bad_tool", f"tools: {error}") from None
        try:
            validator, max_depth = build_validator(tool.parameters)
        except ValueError as error:
            raise RowError("bad_tool", f"tool {read.written!r}: parameters: {error}") from None
        return read, KnownTool(dotted_name(read.wire), read.written, tool, validator, max_depth)


def _note_changes(entry: ToolEntry, tool: KnownTool, notes: Notes) -> None:
    if entry.unused:
        notes.add_unused(entry.unused, "a tool's ")
    if entry.has_other_types:
        notes.add("schema_changed", "types unknown to JSON Schema (str, dict, float, …) are replaced by its own")
    if entry.wire != wire_name(entry.written):
        notes.add(
            "tool_renamed",
            f"tool {entry.written!r} is called {entry.wire!r}: APIs accept letters, digits, _ and - only",
        )


def _cache_key(entry: Any) -> bytes:
    import orjson

    try:
        return orjson.dumps(entry)
    except TypeError:  # an integer beyond 64 bits
        return repr(entry).encode()


def _parse_entry(entry: Any) -> Any:
    return json.loads(entry) if isinstance(entry, str) else entry


def _name_in(entry: Any) -> str:
    function = entry.get("function", entry) if isinstance(entry, dict) else {}
    return str(function.get("name", "") if isinstance(function, dict) else "")
