"""The one reader of YAML files, with limits on size, depth and aliases.

YAML's aliases make a page of text as large as memory, and libyaml ends the whole process on a deeply nested one.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from tuneline.core.errors import TunelineError
from tuneline.core.user_files import MAX_DEPTH, MIB, read_text

MAX_YAML_BYTES = 4 * MIB
"""Of a file. Our largest, a catalogue of 104 tools with phrases in three languages, has 70 kB."""
MAX_NODES = 300_000
"""Keys, values and containers in a file, with aliases written out: about 5 s and 150 MB. Our largest has 3,000."""
_INTEGERS = range(-(2**63), 2**63)
_TAG = "tag:yaml.org,2002:"


def read_yaml(file: Path, error: type[TunelineError]) -> Any:
    """Return the content of a YAML file.

    Raises:
        error: there is no such file, it is not text, not YAML, or beyond a limit.
    """
    return parse_yaml(read_text(file, error, MAX_YAML_BYTES), file, error)


def read_yaml_lines(file: Path, error: type[TunelineError]) -> tuple[Any, dict[str, int]]:
    """Return the content of a YAML file, and the line of each key of its first level.

    Raises:
        error: as for `read_yaml`.
    """
    text = read_text(file, error, MAX_YAML_BYTES)
    content = parse_yaml(text, file, error)
    node = _load(text, file, error, lambda loader: loader.get_single_node())
    entries = node.value if isinstance(node, yaml.MappingNode) else ()
    return content, {str(key.value): key.start_mark.line + 1 for key, _ in entries}


def parse_yaml(text: str, file: Path, error: type[TunelineError]) -> Any:
    """Return the content of a YAML text; `file` is named in errors.

    Raises:
        error: not YAML, or beyond a limit.
    """
    return _load(text, file, error, lambda loader: loader.get_single_data())


def _load(text: str, file: Path, error: type[TunelineError], read: Callable[["_Loader"], Any]) -> Any:
    loader = _Loader(text)
    try:
        return read(loader)
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise error(f"{file}{place}: not YAML: {problem.problem or problem.context}") from None
    except yaml.reader.ReaderError as problem:
        line = text.encode()[: problem.position].count(b"\n") + 1
        raise error(f"{file}:{line}: not YAML: U+{_code_point(problem.character):04X}: {problem.reason}") from None
    finally:
        loader.dispose()


def _code_point(character: Any) -> int:
    return character if isinstance(character, int) else ord(character)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # libyaml is ten times faster
    """A safe loader that counts as it goes, so that a file beyond a limit is refused before it is read whole."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._nodes = 0
        self._has_aliases = "*" in text

    def descend_resolver(self, parent: Any, index: Any) -> None:
        """Count a node; both loaders call this before each, and `ascend_resolver` after it."""
        self._depth, self._nodes = self._depth + 1, self._nodes + 1
        if self._depth > MAX_DEPTH:
            raise _error(f"nested more than {MAX_DEPTH} deep", parent)
        if self._nodes > MAX_NODES:
            raise _error(f"more than {MAX_NODES:,} values", parent)

    def ascend_resolver(self) -> None:
        self._depth -= 1

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None and self._has_aliases:
            _measure(node, {}, set())
        return node


def _measure(node: Any, measured: dict[int, tuple[int, int]], ancestors: set[int]) -> tuple[int, int]:
    """Return the number of nodes from a node on, and how deep they are nested, with aliases written out.

    Raises:
        MarkedYAMLError: there are too many, they are too deep, or a node contains itself.
    """
    if id(node) in ancestors:
        raise _error("an alias refers to a node that contains it", node)
    if id(node) not in measured:
        ancestors.add(id(node))
        items = node.value if isinstance(node, yaml.CollectionNode) else ()
        children = [child for item in items for child in (item if isinstance(item, tuple) else (item,))]
        sizes = [_measure(child, measured, ancestors) for child in children]
        measured[id(node)] = 1 + sum(count for count, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)
        ancestors.remove(id(node))
    count, depth = measured[id(node)]
    if count > MAX_NODES:
        raise _error(f"more than {MAX_NODES:,} values, with aliases written out", node)
    if depth > MAX_DEPTH:
        raise _error(f"nested more than {MAX_DEPTH} deep, with aliases written out", node)
    return count, depth


def _error(problem: str, node: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _checked(construct: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return a constructor whose errors have a place: PyYAML's own raise ValueError, KeyError and others."""

    def construct_checked(loader: Any, node: Any) -> Any:
        try:
            value = construct(loader, node)
        except (ValueError, TypeError, LookupError, AttributeError):
            value = None
        if value is None or (type(value) is int and value not in _INTEGERS):
            kind = node.tag.removeprefix(_TAG)
            shown = repr(str(node.value)[:40])
            raise ConstructorError(None, None, f"{shown}: not a valid {kind}; put text in quotes", node.start_mark)
        return value

    return construct_checked


for _kind in ("bool", "int", "float", "timestamp"):
    _Loader.add_constructor(_TAG + _kind, _checked(yaml.SafeLoader.yaml_constructors[_TAG + _kind]))
for _kind in ("binary", "omap", "pairs", "set"):  # nothing of ours has such values
    del _Loader.yaml_constructors[_TAG + _kind]
