"""Base models: the registry, which of them fit a machine, and those on this machine."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tuneline.cli.consoles import console
from tuneline.cli.options import AsJson
from tuneline.core.formatting import format_bytes
from tuneline.core.terminal import echo

ModelName = Annotated[str, typer.Argument(metavar="NAME", help="Base, by name or hub id.", show_default=False)]

app = typer.Typer(help="Base models: list, compare with your hardware, download, verify.", no_args_is_help=True)


@app.command()
def ls(as_json: AsJson = False) -> None:
    """List known bases, and those on this machine with size and last use."""
    from tuneline.cli.views.bases import format_bases
    from tuneline.configs.models import registry
    from tuneline.stages.fetch.local_bases import list_local_bases, list_partial_downloads

    local = list_local_bases()
    if as_json:
        registered = {key: model.model_dump() for key, model in registry().models.items()}
        here = [
            {"name": b.slug, "known_as": b.known_as, "bytes": b.bytes, "used": b.last_used.isoformat()} for b in local
        ]
        echo(json.dumps({"known": registered, "here": here}))
    else:
        echo(format_bases(local, list_partial_downloads()))


@app.command()
def show(name: ModelName) -> None:
    """Show a base: licence, shape, memory to run and to train."""
    from tuneline.cli.views.bases import format_base
    from tuneline.configs.models import resolve_key

    echo(format_base(resolve_key(name)))


@app.command()
def fit(
    gpu: Annotated[
        str | None, typer.Option(help="GPU type and count ('H100:2'), or an amount of memory ('11GiB').")
    ] = None,
    here: Annotated[bool, typer.Option("--here", help="Use this machine.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show which bases a GPU can run and train, and at which precision."""
    from dataclasses import asdict

    from tuneline.cli.views.bases import format_fits
    from tuneline.core.errors import BadRequest
    from tuneline.stages.plan.base_fit import detect_machine, fit_bases, parse_machine

    if (gpu is None) != here:
        raise BadRequest("models fit: give one of --gpu and --here: `tuneline models fit --gpu H100:2`, or `--here`")
    target = detect_machine() if gpu is None else parse_machine(gpu)
    fits = fit_bases(target)
    echo(json.dumps([asdict(fit) for fit in fits]) if as_json else format_fits(target, fits))


@app.command()
def pick(
    constraint: Annotated[str | None, typer.Option(help="'one consumer GPU', 'privacy', … Default: show all.")] = None,
) -> None:
    """Recommend bases for your hardware or constraints."""
    from tuneline.cli.views.bases import format_guide
    from tuneline.stages.plan.base_guide import GUIDE, find_advice

    echo(format_guide([find_advice(constraint)] if constraint else GUIDE))


@app.command()
def download(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Base, by name or hub id.", show_default=False)],
    revision: Annotated[
        str | None, typer.Option(help="Commit, branch or tag. Default: the pinned commit, else main.")
    ] = None,
) -> None:
    """Download and verify a base and pin its commit; rerun to resume."""
    from tuneline.core.pins import pin, read_pin
    from tuneline.core.progress import Progress, UnsavedEvents
    from tuneline.stages.fetch.bases import locate_model
    from tuneline.stages.fetch.hub_source import HubSource
    from tuneline.stages.fetch.model_store import store_base

    source = locate_model(name, revision)
    with Progress(console) as progress:
        base = store_base(source, UnsavedEvents(progress.show, "fetch"))
    console.print(f"{base.path.name}: complete, {format_bytes(base.metrics['bytes'])} in {base.path}", soft_wrap=True)
    if isinstance(source, HubSource):
        if revision:
            pin(source.repo, source.revision, replace=True)
        message = (
            f"{source.repo} is pinned to {read_pin(source.repo)}; recipes on this machine need no `revision` for it"
        )
        console.print(message, soft_wrap=True)


@app.command(name="import")
def import_(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="Model folder in an older format.")],
    target: Annotated[Path, typer.Argument(metavar="NEW_FOLDER", help="Folder to write the base to.")],
) -> None:
    """Convert a folder with .bin or bitsandbytes weights, or a slow tokenizer, to 16-bit safetensors."""
    from tuneline.stages.fetch.base_import import import_base

    import_base(source, target)
    echo(f"{target}: written; use it in a recipe with `base: {target}`")


@app.command()
def verify(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Base to verify. Default: all on this machine.")
    ] = None,
) -> None:
    """Recompute the hashes of bases on this machine; exit 1 if a file has changed."""
    from tuneline.core.errors import StageFailed
    from tuneline.stages.fetch.local_bases import find_faults, find_local_bases, list_local_bases

    all_faults, bases = [], list_local_bases() if name is None else find_local_bases(name)
    if not bases:
        echo("no base on this machine; get one with `tuneline models download NAME`")
    for base in bases:
        base_faults = find_faults(base)
        echo(f"{base.slug}: {'intact' if not base_faults else 'DAMAGED'}")
        all_faults += base_faults
    if all_faults:
        raise StageFailed("\n".join(all_faults))


@app.command()
def remove(
    name: ModelName,
    force: Annotated[
        int,
        typer.Option(
            "--force",
            count=True,
            help="Remove it although runs use it; give it twice if a promoted run does.",
            show_default=False,
        ),
    ] = 0,
) -> None:
    """Delete a base from this machine."""
    from tuneline.core import paths
    from tuneline.endpoints.promoting_folders import list_policy_folders
    from tuneline.endpoints.promotion import names_by_run
    from tuneline.stages.fetch.local_bases import find_local_bases, remove_base

    for base in find_local_bases(name):
        policies = [policy for run in base.runs for policy in list_policy_folders(paths.run_folder(run))]
        remove_base(base, force, names_by_run(*policies))
        echo(f"{base.slug}: removed, {format_bytes(base.bytes)} freed")
