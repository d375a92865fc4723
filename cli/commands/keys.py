"""API keys of the endpoint."""

import json
from typing import Annotated

import typer

from tuneline.cli.consoles import console
from tuneline.cli.options import OnModal
from tuneline.cli.policy import change_policy
from tuneline.core.terminal import echo

Owner = Annotated[str, typer.Argument(metavar="OWNER", help="A name for whoever holds the key.", show_default=False)]

app = typer.Typer(help="Whose key opens the endpoint.", no_args_is_help=True)


@app.command()
def add(owner: Owner, on_modal: OnModal = False) -> None:
    """A new key for the endpoint, shown this once."""
    echo(change_policy(on_modal, "keys add", owner))


@app.command()
def revoke(owner: Owner, on_modal: OnModal = False) -> None:
    """The owner's key opens nothing any more."""
    change_policy(on_modal, "keys revoke", owner)
    console.print(f"the key of {owner} is revoked", soft_wrap=True)


@app.command()
def ls(on_modal: OnModal = False) -> None:
    """Who has a key, and since when."""
    for owner, added in json.loads(change_policy(on_modal, "keys ls")).items():
        echo(f"{owner:<20} {added}")
