"""The publish targets by name; a target's module is imported when it is used."""

import difflib
from importlib import import_module
from typing import cast

from tuneline.core.errors import BadRequest
from tuneline.publish.target import Target

TARGETS = (
    "hub",
    "ollama",
    "together",
    "fireworks",
    "groq",
    "nebius",
    "wandb",
    "kubernetes",
    "compose",
    "space",
    "runpod",
    "s3",
)
"""Each is a module of this folder, and a section of `publish` in a recipe."""


def find_target(name: str) -> Target:
    """Return the target called `name`.

    Raises:
        BadRequest: there is none; the message has the nearest.
    """
    if name not in TARGETS:
        close = difflib.get_close_matches(name, TARGETS, 1, 0.6)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(TARGETS)}"
        raise BadRequest(f"{name}: no such target; {hint}; docs/publish.md lists what is not offered, and why")
    return cast(Target, import_module(f"tuneline.publish.{name}"))
