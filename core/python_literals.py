"""Values that Python wrote with `repr`, as pandas does for lists in a table."""

import ast
from typing import Any


def parse_python(text: str) -> Any:
    """Return the value of a Python literal, or None if the text is none."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
