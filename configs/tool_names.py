"""Names of tools: dotted in catalogues, with `__` for each dot where models and APIs see them. One to one."""

import re

LONGEST_WIRE_NAME = 64
WIRE_NAME = re.compile(rf"[a-zA-Z0-9_-]{{1,{LONGEST_WIRE_NAME}}}")
"""What OpenAI's API takes as the name of a tool."""


def wire_name(dotted: str) -> str:
    """Return the name that a model sees: each `.` becomes `__`."""
    return dotted.replace(".", "__")


def dotted_name(wire: str) -> str:
    """Return the catalogue's name for a name that a model wrote; the inverse of `wire_name`."""
    return wire.replace("__", ".")
