"""API keys of the gateway."""

import json
from datetime import UTC, datetime
from typing import Annotated

import typer

from tuneline.cli.consoles import console, errors_console
from tuneline.cli.options import OnModal
from tuneline.cli.policy import change_policy
from tuneline.core.terminal import echo

Owner = Annotated[str, typer.Argument(metavar="OWNER", help="Name of the key's owner.", show_default=False)]
Models = Annotated[list[str] | None, typer.Option("--model", help="Limit the key to this model. May be repeated.")]
Tasks = Annotated[list[str] | None, typer.Option("--task", help="Limit the key to this task. May be repeated.")]
RequestsPerMinute = Annotated[int | None, typer.Option(min=1, help="Limit of requests per minute.")]
TokensPerMinute = Annotated[int | None, typer.Option(min=1, help="Limit of tokens per minute.")]
UsdPerDay = Annotated[float | None, typer.Option(min=0, help="Limit of cost per day, in USD.")]
UsdPerMonth = Annotated[float | None, typer.Option(min=0, help="Limit of cost per month, in USD.")]
Until = Annotated[datetime | None, typer.Option(help="Expiry date, UTC.")]
Operator = Annotated[
    bool | None,
    typer.Option(
        "--operator/--no-operator",
        help="May see costs, all traffic and runs on the deployed page, and hold traffic there.",
        show_default=False,
    ),
]

LIMITS = {
    "model": "models",
    "task": "tasks",
    "requests-per-minute": "requests_per_minute",
    "tokens-per-minute": "tokens_per_minute",
    "usd-per-day": "usd_per_day",
    "usd-per-month": "usd_per_month",
    "until": "until",
}
"""Option → name in keys.json."""

app = typer.Typer(help="API keys of the gateway: add, change, rotate, revoke, list.", no_args_is_help=True)


@app.command()
def add(
    owner: Owner,
    models: Models = None,
    tasks: Tasks = None,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    usd_per_day: UsdPerDay = None,
    usd_per_month: UsdPerMonth = None,
    until: Until = None,
    operator: Operator = None,
    on_modal: OnModal = False,
) -> None:
    """Create a key; it is shown only once."""
    limits = _limits(models, tasks, requests_per_minute, tokens_per_minute, usd_per_day, usd_per_month, until, operator)
    echo(change_policy(on_modal, "keys add", owner, limits))
    gateway = "the deployed gateway takes it" if on_modal else "`tuneline gateway` takes it"
    errors_console.print(f"{gateway}; it is stored as a hash and not shown again; next: export TUNELINE_API_KEY=…")


@app.command()
def change(
    owner: Owner,
    models: Models = None,
    tasks: Tasks = None,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    usd_per_day: UsdPerDay = None,
    usd_per_month: UsdPerMonth = None,
    until: Until = None,
    operator: Operator = None,
    unlimited: Annotated[
        list[str] | None,
        typer.Option("--unlimited", help="Limit to remove: model, task, usd-per-day, … May be repeated."),
    ] = None,
    on_modal: OnModal = False,
) -> None:
    """Change limits of the owner's key; limits that are not given stay as they are."""
    limits = _limits(models, tasks, requests_per_minute, tokens_per_minute, usd_per_day, usd_per_month, until, operator)
    ended = {_limit_named(name): None for name in unlimited or ()}
    limits = json.loads(change_policy(on_modal, "keys change", owner, json.dumps(json.loads(limits) | ended)))
    told = json.dumps(limits) if limits else "none"
    console.print(f"limits of {owner}'s key: {told}", soft_wrap=True)


@app.command()
def rotate(
    owner: Owner,
    hours: Annotated[int, typer.Option(help="Hours until the previous key expires.", min=0)] = 24,
    on_modal: OnModal = False,
) -> None:
    """Create a new key for the owner, shown only once; the previous one expires after some hours."""
    echo(change_policy(on_modal, "keys rotate", owner, str(hours)))


@app.command()
def revoke(owner: Owner, on_modal: OnModal = False) -> None:
    """Revoke the owner's key."""
    change_policy(on_modal, "keys revoke", owner)
    console.print(f"the key of {owner} is revoked", soft_wrap=True)


@app.command()
def ls(on_modal: OnModal = False) -> None:
    """List the owners of keys."""
    owners = json.loads(change_policy(on_modal, "keys ls"))
    for owner, added in owners.items():
        echo(f"{owner:<20} {added}")
    if not owners:
        errors_console.print("no keys yet; `tuneline keys add OWNER` creates one", soft_wrap=True)


def _limit_named(option: str) -> str:
    """Return the name in keys.json of a limit that is named as its option is. Raises BadRequest for another name."""
    from tuneline.core.errors import BadRequest

    name = LIMITS.get(option.removeprefix("--"))
    if name is None:
        raise BadRequest(f"--unlimited {option}: one of {', '.join(LIMITS)}")
    return name


def _limits(
    models: list[str] | None,
    tasks: list[str] | None,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    usd_per_day: float | None,
    usd_per_month: float | None,
    until: datetime | None,
    operator: bool | None,
) -> str:
    """Return what a key may as JSON, without what was not given."""
    values = {
        "models": models,
        "tasks": tasks,
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "usd_per_day": usd_per_day,
        "usd_per_month": usd_per_month,
        "until": until and until.replace(tzinfo=UTC).isoformat(),
        "operator": operator,
    }
    # A limit of 0 is passed on, to be refused: left out, it would be no limit at all.
    return json.dumps({name: value for name, value in values.items() if value not in (None, [])})
