"""Limits for chat templates, which come with bases from anywhere: of steps, and of the sizes of what they make.

Jinja's sandbox keeps a template from the machine, not from looping or doubling a text without end. The limits are
counts, so that the same row is refused on every machine, however busy.
"""

import re
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_STEPS = 500_000
"""Turns of loops and calls in one rendering. A conversation of 100 turns with 100 tools takes 10,000."""
MAX_SIZE = 16 << 20
"""Characters of a text, and items of a list: ten times a million tokens."""
MAX_PADDING = 10_000
"""Numbers given to filters and to text methods, as the width of `center`."""
MAX_INTEGER_BITS = 4096
_WIDTH = re.compile(r"\d{5,}|%\*")
"""In a format string."""
_MULTIPLYING = frozenset(("join", "replace", "indent", "wordwrap", "format", "format_map"))
_PADDING_METHODS = frozenset(("center", "ljust", "rjust", "zfill", "expandtabs"))


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with limits; `begin` is called before each rendering."""

    intercepted_binops = frozenset(("*", "**", "+", "%"))

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._steps_left = MAX_STEPS
        self.globals.pop("lipsum")
        self.filters.update({name: limit_filter(name, function) for name, function in self.filters.items()})

    def begin(self) -> None:
        """Give the next rendering its steps."""
        self._steps_left = MAX_STEPS

    def step(self) -> None:
        """Count a turn of a loop or a call. Raises SecurityError when there were too many."""
        self._steps_left -= 1
        if self._steps_left < 0:
            raise SecurityError(f"the template takes more than {MAX_STEPS:,} steps")

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        self.step()
        if obj == self.step:
            return None
        text = getattr(obj, "__self__", None)
        if isinstance(text, str):
            _refuse_large_result(getattr(obj, "__name__", ""), text, (*args, *kwargs.values()))
        return super().call(context, obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Any:
        text = getattr(value, "__self__", None)
        if isinstance(text, str) and value.__name__ in ("format", "format_map") and _WIDTH.search(text):
            raise SecurityError("format: a width of five digits")
        return super().wrap_str_format(value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _refuse_large_operation(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def concat(self, pieces: Iterable[str]) -> str:
        """Return the joined pieces of an output. Raises SecurityError if it is too long."""
        joined, size = [], 0
        for piece in pieces:
            size += len(piece)
            if size > MAX_SIZE:
                raise SecurityError(f"the template writes more than {MAX_SIZE:,} characters")
            joined.append(piece)
        return "".join(joined)

    def join_values(self, *values: Any) -> str:
        """Return what `~` makes of values."""
        return self.concat(map(str, values))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        counted: nodes.Template = _Counting().visit(tree)
        return counted


class _Counting(NodeTransformer):
    """Has each turn of a loop counted, and `~` done by a method of the environment."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call_of("step", [], node.lineno), lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call_of("join_values", node.nodes, node.lineno)


def _call_of(method: str, arguments: list[nodes.Expr], line: int) -> nodes.Call:
    function = nodes.EnvironmentAttribute(method, lineno=line)
    return nodes.Call(function, arguments, [], None, None, lineno=line)


def limit_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that refuses arguments which would make its result very large."""

    @wraps(function)  # also Jinja's marks of what a filter is given first
    def limited(*args: Any, **kwargs: Any) -> Any:
        first = 1 if hasattr(function, "jinja_pass_arg") else 0
        value, others = args[first : first + 1], (*args[first + 1 :], *kwargs.values())
        if any(isinstance(number, int) and abs(number) > MAX_PADDING for number in others):
            raise SecurityError(f"{name}: more than {MAX_PADDING:,}")
        if value and others:
            _refuse_large_result(name, value[0], others)
        return function(*args, **kwargs)

    return limited


def _refuse_large_result(name: str, value: Any, arguments: Iterable[Any]) -> None:
    """Raise SecurityError if a text method or filter of this name could make something very large."""
    for argument in arguments:
        if name in _PADDING_METHODS and isinstance(argument, int) and argument > MAX_PADDING:
            raise SecurityError(f"{name}: more than {MAX_PADDING:,}")
        if name in _MULTIPLYING and _size(value) > 1 and _size(value) * _size(argument) > 4 * MAX_SIZE:
            raise SecurityError(f"{name}: may make more than {MAX_SIZE:,} characters")
    if name in ("format", "format_map") and isinstance(value, str) and _WIDTH.search(value):
        raise SecurityError(f"{name}: a width of five digits")


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple | dict) else 1


def _refuse_large_operation(operator: str, left: Any, right: Any) -> None:
    numbers = [value for value in (left, right) if isinstance(value, int)]
    if operator == "%" and isinstance(left, str):
        _refuse_large_result("format", left, right if isinstance(right, tuple) else (right,))
    elif operator == "+" and _size(left) + _size(right) > MAX_SIZE:
        raise SecurityError(f"+: makes more than {MAX_SIZE:,} characters or items")
    elif operator in ("*", "**") and len(numbers) == 2:
        bits = left.bit_length() + right.bit_length() if operator == "*" else left.bit_length() * abs(right)
        if bits > MAX_INTEGER_BITS:
            raise SecurityError(f"{operator}: makes a number of more than a thousand digits")
    elif operator == "*" and _size(left) * _size(right) * max([*numbers, 1]) > MAX_SIZE:
        raise SecurityError(f"*: makes more than {MAX_SIZE:,} characters or items")
