"""Functions of a Python module as tools: type hints make the schema of arguments, docstrings say what they are."""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from tuneline.core.errors import BadData, NotFound
from tuneline.stages.tool_import.imported import ImportedTools, make_catalogue, to_tool_name

HANDLER_NAME = "__tuneline_handler__"
"""Attribute of a function that was registered under a tool's name; it has `name`."""


def import_module(name: str) -> ModuleType:
    """Return the module of this name, looked for in the current folder too, or in the `.py` file of this path.

    Raises:
        NotFound: there is none. BadData: it cannot be imported.
    """
    path = Path(name)
    folder, module = (str(path.parent.resolve()), path.stem) if path.suffix == ".py" else (str(Path.cwd()), name)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0] and error.name != module:
            raise BadData(f"{name}: its import fails: {error}; install what it needs") from None
        raise NotFound(f"{name}: no such file, address or Python module") from None
    except Exception as error:  # whatever the module's own code raises
        raise BadData(f"{name}: its import fails: {type(error).__name__}: {error}") from None


def list_functions(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """Return a module's tools by name: its registered handlers, or if it has none the public functions it defines."""
    functions = [value for value in vars(module).values() if inspect.isfunction(value)]
    handlers = [function for function in functions if hasattr(function, HANDLER_NAME)]
    if handlers:
        return {getattr(function, HANDLER_NAME).name: function for function in handlers}
    own = [f for f in functions if f.__module__ == module.__name__ and not f.__name__.startswith("_")]
    tools: dict[str, Callable[..., Any]] = {}
    for function in own:
        tools[to_tool_name(function.__name__, tools)] = function
    return tools


def import_functions(module: ModuleType) -> ImportedTools:
    """Return the tools of a module.

    Raises:
        BadData: it has none, or the arguments of one have no JSON Schema.
    """
    functions = list_functions(module)
    if not functions:
        raise BadData(f"{module.__name__}: no public function; functions with type hints become tools")
    tools = {name: describe_function(function) for name, function in functions.items()}
    notes = [
        f"{name}: no docstring; a model knows it by its name alone" for name in tools if not tools[name]["description"]
    ]
    return ImportedTools(make_catalogue(tools), tuple(notes))


def describe_function(function: Callable[..., Any]) -> dict[str, Any]:
    """Return a function's `description` and `parameters`.

    Raises:
        BadData: its arguments have no JSON Schema.
    """
    import docstring_parser
    from pydantic import PydanticUserError, TypeAdapter

    docstring = docstring_parser.parse(inspect.getdoc(function) or "")
    try:
        _refuse_unnamed(function)
        adapter: TypeAdapter[Any] = TypeAdapter(cast(Any, function))
        schema = adapter.json_schema(schema_generator=_untitled())
    except (PydanticUserError, NameError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BadData(f"{function.__module__}.{function.__qualname__}: no tool: {reason}") from None
    schema = {"type": "object", "properties": {}} | schema
    for parameter in docstring.params:
        argument = schema["properties"].get(parameter.arg_name)
        if isinstance(argument, dict) and parameter.description:
            argument.setdefault("description", " ".join(parameter.description.split()))
    text = "\n".join(filter(None, (docstring.short_description, docstring.long_description)))
    return {"description": " ".join(text.split()), "parameters": schema}


def _refuse_unnamed(function: Callable[..., Any]) -> None:
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise ValueError(f"argument {parameter.name!r} has no name in a call; tools are called by name")


def _untitled() -> Any:
    """Return pydantic's generator of JSON Schema without the titles that it makes of names."""
    from pydantic.json_schema import GenerateJsonSchema

    class Untitled(GenerateJsonSchema):
        def get_title_from_name(self, name: str) -> str:
            return ""

        def generate(self, schema: Any, mode: Any = "validation") -> dict[str, Any]:
            written = _without_titles(super().generate(schema, mode))
            return written if isinstance(written, dict) else {}

    return Untitled


def _without_titles(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: {name: _without_titles(item) for name, item in item.items()}
            if key in ("properties", "$defs") and isinstance(item, Mapping)
            else _without_titles(item)
            for key, item in value.items()
            if not (key == "title" and isinstance(item, str))
        }
    return [_without_titles(item) for item in value] if isinstance(value, list) else value
