"""What `--help` shows beside each option: the kind of its value, and nothing where it takes none."""

import typer
from typer.core import TyperArgument, TyperOption


def name_values_only() -> None:
    """Leave out `<bool>` beside flags, and the type of an argument that has a name of its own, such as RECIPE."""
    show_option, show_argument = TyperOption.display_type_rich, TyperArgument.display_type_rich

    def describe_option(option: TyperOption, ctx: typer.Context) -> str | None:
        return None if option.is_flag else show_option(option, ctx)

    def describe_argument(argument: TyperArgument, ctx: typer.Context) -> str | None:
        return None if argument.metavar else show_argument(argument, ctx)

    # Typer has no setting for it: a metavar of "" would also be what its error messages call the option.
    TyperOption.display_type_rich = describe_option  # type: ignore[method-assign,assignment]
    TyperArgument.display_type_rich = describe_argument  # type: ignore[method-assign,assignment]
