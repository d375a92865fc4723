"""The part of Go's text/template that our Modelfiles are written in, rendered over Ollama's values.

https://pkg.go.dev/text/template; the values are those of Ollama's template.Execute: `.Messages`, with `.Role` and
`.Content`, and `.System`, the contents of all system messages. A test renders the same with Go itself.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

_ACTION = re.compile(r"\{\{ (.*?) \}\}", re.S)
_WORD = re.compile(r'\(|\)|"[^"]*"|[^\s()]+')
_RANGE = re.compile(r"range (?:(\$\w+), (\$\w+) := )?(.+)")
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "and": lambda *values: next((value for value in values if not value), values[-1]),
    "eq": lambda first, second: first == second,
    "len": len,
    "not": lambda value: not value,
    "slice": lambda values, begin: values[begin:],
}

Node = str | tuple[str, Any]
"""A text, or an action: ("value", words), ("if", branches) or ("range", (names, words, body))."""


def render_go_template(template: str, messages: Sequence[Mapping[str, Any]]) -> str:
    """Return what Go renders from a template of the kind that is written here.

    Raises:
        ValueError: it has an action of another kind.
    """
    tokens = iter(_ACTION.split(template))
    nodes, closing, _ = _parse(tokens, next(tokens))
    if closing:
        raise ValueError(f"{{{{ {closing} }}}}: nothing to end")
    values = {
        "System": "\n\n".join(message["content"] for message in messages if message["role"] == "system"),
        "Messages": [{"Role": message["role"], "Content": message["content"]} for message in messages],
    }
    return "".join(_render(nodes, values, {"$": values}))


def _parse(tokens: Iterator[str], text: str) -> tuple[list[Node], str, str]:
    """Return the nodes up to an `end` or an `else`, that action ("" at the template's end), and the text after it."""
    nodes: list[Node] = [text]
    for action in tokens:
        text = next(tokens)
        if action == "end" or action.startswith("else"):
            return nodes, action, text
        node: Node = ("value", _split(action))
        if action.startswith("if "):
            node, text = _parse_if(tokens, action, text)
        elif action.startswith("range "):
            node, text = _parse_range(tokens, action, text)
        nodes += [node, text]
    return nodes, "", ""


def _parse_if(tokens: Iterator[str], action: str, text: str) -> tuple[Node, str]:
    branches: list[tuple[list[Any], list[Node]]] = []
    while action and action != "end":
        condition = action.removeprefix("else ").removeprefix("if ")
        body, action, text = _parse(tokens, text)
        branches.append(([] if condition == "else" else _split(condition), body))
    if not action:
        raise ValueError(f"{{{{ if {condition} }}}}: no end")
    return ("if", branches), text


def _parse_range(tokens: Iterator[str], action: str, text: str) -> tuple[Node, str]:
    loop = _RANGE.fullmatch(action)
    body, closing, text = _parse(tokens, text)
    if loop is None or closing != "end":
        raise ValueError(f"{{{{ {action} }}}}: not a range with its end")
    return ("range", ((loop[1], loop[2]), _split(loop[3]), body)), text


def _split(expression: str) -> list[Any]:
    """Return an expression's words, a list for each pair of parentheses."""
    stack: list[list[Any]] = [[]]
    for word in _WORD.findall(expression):
        if word == "(":
            stack.append([])
        elif word == ")":
            inner = stack.pop()
            stack[-1].append(inner)
        else:
            stack[-1].append(word)
    return stack[0]


def _render(nodes: Sequence[Node], dot: Any, names: Mapping[str, Any]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, str):
            yield node
        elif node[0] == "value":
            yield str(_evaluate(node[1], dot, names))
        elif node[0] == "if":
            bodies = (body for words, body in node[1] if not words or _evaluate(words, dot, names))
            yield from _render(next(bodies, ()), dot, names)
        else:
            (number, item), words, body = node[1]
            for n, value in enumerate(_evaluate(words, dot, names)):
                yield from _render(body, value, {**names, number: n, item: value})


def _evaluate(words: list[Any], dot: Any, names: Mapping[str, Any]) -> Any:
    """Return the value of an expression: a function with its arguments, or one operand."""
    first, *rest = words
    if isinstance(first, str) and first in _FUNCTIONS:
        return _FUNCTIONS[first](*(_evaluate([word], dot, names) for word in rest))
    if rest:
        raise ValueError(f"{first}: not a function that our templates use")
    if isinstance(first, list):
        return _evaluate(first, dot, names)
    if first.startswith('"') or first.isdigit():
        return first[1:-1] if first.startswith('"') else int(first)
    name, _, field = first.partition(".")
    try:
        value = names[name] if name else dot
        return value[field] if field else value
    except (KeyError, TypeError):
        raise ValueError(f"{first}: not a value of Ollama's that our templates use") from None
