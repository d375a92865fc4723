"""What `--help` shows beside each option: the kind of its value, and nothing where it takes none."""

import re

import typer
from typer.core import TyperArgument, TyperOption

PLAIN = {r"list\[(\w+)\]": r"\1", " range": "", "Path": "path", "datetime": "date", "%Y-%m-%d": "YYYY-MM-DD"}
"""Typer's words for the kind of a value, and those of a help page."""


def name_values_only() -> None:
    """Leave out `<bool>` beside flags, and the type of an argument that has a name of its own, such as RECIPE."""
    show_option, show_argument = TyperOption.display_type_rich, TyperArgument.display_type_rich

    def describe_option(option: TyperOption, ctx: typer.Context) -> str | None:
        return None if option.is_flag or option.count else _to_plain(show_option(option, ctx))

    def describe_argument(argument: TyperArgument, ctx: typer.Context) -> str | None:
        return None if argument.metavar else _to_plain(show_argument(argument, ctx))

    # Typer has no setting for it: a metavar of "" would also be what its error messages call the option.
    TyperOption.display_type_rich = describe_option  # type: ignore[method-assign,assignment]
    TyperArgument.display_type_rich = describe_argument  # type: ignore[method-assign,assignment]


def _to_plain(kind: str | None) -> str | None:
    for pattern, word in PLAIN.items():
        kind = kind and re.sub(pattern, word, kind)
    return kind
