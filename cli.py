"""The `tuneline` command: the line and its verbs, runs, the report, and a served model to talk to.

Nothing heavy is imported before it is needed: `--help` costs typer and rich alone.
"""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from configs.recipe import Recipe
    from endpoints.llama_server import Server
    from stages.artifact import Artifact

app = typer.Typer(
    help="From a dataset to an evaluated, quantized, served model.", no_args_is_help=True, add_completion=False
)
runs_app = typer.Typer(help="What was run, here or on Modal.", no_args_is_help=True)
models_app = typer.Typer(help="Bases: which there are, which fit, which are here.", no_args_is_help=True)
keys_app = typer.Typer(help="Whose key opens the endpoint.", no_args_is_help=True)
app.add_typer(runs_app, name="runs")
app.add_typer(models_app, name="models")
app.add_typer(keys_app, name="keys")

console, errors_console = Console(), Console(stderr=True)
PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}
"""How text of others is printed."""

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, YAML.", show_default=False)]
RunName = Annotated[str | None, typer.Option("--run", help="Name of the run; the recipe's, if not given.")]
Only = Annotated[bool, typer.Option("--only", help="Just this stage; those before it must be finished.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the metrics as JSON, progress on stderr.")]
ExistingRun = Annotated[str, typer.Argument(metavar="RUN", help="Name of a run.", show_default=False)]
OnModal = Annotated[bool, typer.Option("--modal", help="There, not on this machine.")]
ModelName = Annotated[str, typer.Argument(metavar="NAME", help="A base, by name or hub id.", show_default=False)]
Owner = Annotated[str, typer.Argument(metavar="OWNER", help="A name for whoever holds the key.", show_default=False)]


def main() -> None:
    """Run the command; an error a user can act on is one message and its exit code."""
    from stages.errors import TunelineError

    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # it would read the metadata of every package here
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # `nohup` ignores SIGHUP, and that is to stay
            signal.signal(number, lambda caught, _: sys.exit(128 + caught))  # what runs is stopped and saved
    try:
        app()
    except TunelineError as error:
        errors_console.print(f"[red]{type(error).__name__}[/red] ", end="")
        errors_console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)


@app.command()
def run(recipe: RecipeFile, run: RunName = None, as_json: AsJson = False) -> None:
    """The whole line: fetch, prepare, train, convert, evaluate; then the report."""
    folder = _walk(recipe, run, "evaluate", only=False, as_json=as_json)
    _report(folder, quiet=as_json)
    _leave_by_gate(folder)


@app.command()
def fetch(recipe: RecipeFile, run: RunName = None, only: Only = False, as_json: AsJson = False) -> None:
    """Bring the base model here."""
    _walk(recipe, run, "fetch", only=only, as_json=as_json)


@app.command()
def prepare(recipe: RecipeFile, run: RunName = None, only: Only = False, as_json: AsJson = False) -> None:
    """Make training and validation rows."""
    _walk(recipe, run, "prepare", only=only, as_json=as_json)


@app.command()
def preflight(recipe: RecipeFile, run: RunName = None, as_json: AsJson = False) -> None:
    """Three training steps on the longest rows, and the run priced by them; exit 2 if above max_cost_usd."""
    from configs.recipe import load_recipe
    from stages.preflight import refuse_measured, table

    folder = _walk(recipe, run, "preflight", only=False, as_json=as_json)
    if not as_json:
        console.print(table(folder), **PLAIN)
    refuse_measured(load_recipe(recipe), folder)


@app.command()
def train(recipe: RecipeFile, run: RunName = None, only: Only = False, as_json: AsJson = False) -> None:
    """Train the adapter."""
    _walk(recipe, run, "train", only=only, as_json=as_json)


@app.command()
def convert(recipe: RecipeFile, run: RunName = None, only: Only = False, as_json: AsJson = False) -> None:
    """Merge, convert to GGUF and quantize."""
    _walk(recipe, run, "convert", only=only, as_json=as_json)


@app.command()
def evaluate(recipe: RecipeFile, run: RunName = None, only: Only = False, as_json: AsJson = False) -> None:
    """Ask base and tuned models the suites; exit 3 if the gate says no."""
    folder = _walk(recipe, run, "evaluate", only=only, as_json=as_json)
    _leave_by_gate(folder)


@app.command()
def demo(run: RunName = None) -> None:
    """The demo recipe from end to end, and one question to the model it makes."""
    from configs.recipe import ROOT
    from terminal import closing_panel, scoreboard

    folder = _walk(ROOT / "configs/recipes/demo.yaml", run, "evaluate", only=False, as_json=False)
    console.print(scoreboard(_manifest(folder, "evaluate").metrics, _manifest(folder, "convert").metrics))
    _report(folder, quiet=False)
    with _served(folder) as server:
        _talk(server.base_url, folder, ["Send Maria a WhatsApp saying the keys are ready"])
    console.print(closing_panel(folder.name))
    _leave_by_gate(folder)


@app.command()
def report(run: ExistingRun) -> None:
    """Write the run's report, one HTML file."""
    _report(_existing(run), quiet=False)


@app.command()
def card(run: ExistingRun) -> None:
    """Write the model card, and the notice its base's licence asks for, beside the run's files."""
    from stages.report.card import write_card

    for file in write_card(_existing(run)):
        console.print(str(file), **PLAIN)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="RUN or RUN:TARGET, as in demo:base.", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="The same, held against A.", show_default=False)],
    exact: Annotated[bool, typer.Option("--exact", help="Arguments must be right too.")] = False,
    tools: Annotated[bool, typer.Option("--tools", help="Each tool of a suite is a task of its own.")] = False,
    to: Annotated[Path | None, typer.Option(help="The page; in B's run, if not given.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Hold two models against each other on the items both answered."""
    from stages.evaluate.compare import compare as held_against
    from stages.evaluate.compare import page_file
    from stages.report.comparison import write_comparison
    from terminal import comparison_table

    found = held_against(a, b, exact=exact, by_tool=tools)
    page = write_comparison(found, to or page_file(found))
    if as_json:
        typer.echo(json.dumps(found.as_json() | {"page": str(page)}, ensure_ascii=False))
        return
    console.print(comparison_table(found))
    console.print(f"{len(found.changes)} items changed sides; they stand side by side in {page}", **PLAIN)


@app.command()
def rate(
    a: Annotated[str, typer.Argument(metavar="A", help="RUN or RUN:TARGET, as in demo:base.", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="The same, held against A.", show_default=False)],
    items: Annotated[int, typer.Option(min=1, help="How many answers to rate.")] = 50,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    to: Annotated[Path | None, typer.Option(help="The page; in B's run, if not given.", show_default=False)] = None,
) -> None:
    """Write a page on which people say, not knowing whose, which of two answers is better."""
    from stages.evaluate.ratings import make_ballot, write_key
    from stages.report.ballot import write_ballot

    ballot = make_ballot(a, b, items, seed)
    key = write_key(ballot)
    page = write_ballot(ballot, to or key.with_name(f"ballot-{ballot.id}.html"))
    told = f"{len(ballot.questions)} items ({ballot.same} more were answered alike by both): {page}"
    console.print(f"{told}\n`tuneline ratings FILE…` reads what people save; {key} stays here", **PLAIN)


@app.command()
def ratings(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="What people saved.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Which model people prefer, how sure that is, and how far they agree."""
    from dataclasses import asdict

    from stages.evaluate.ratings import read_ratings
    from tables import preference_text

    found = read_ratings(files)
    typer.echo(json.dumps(asdict(found) | {"verdict": found.verdict}) if as_json else preference_text(found))


@app.command()
def load(
    where: Annotated[str, typer.Argument(metavar="RUN|URL", help="A run, or a server that is up.", show_default=False)],
    rate: Annotated[float, typer.Option(min=0.01, help="Requests a second, come what may.")] = 2.0,
    seconds: Annotated[float, typer.Option(min=1, help="For so long.")] = 60.0,
    run: Annotated[
        str | None, typer.Option("--for", help="The run whose model the URL serves; its gate reads it.")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="Hardware a query's cost is told for, as 'A10'; the recipe's.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Load a served model, open loop: latency, first token, requests a second, memory, cost; for the gate too."""
    from endpoints.load_test import load_test
    from tables import load_text

    url = where if where.startswith(("http://", "https://")) else None
    folder = _existing(run or where) if run or not url else None
    with contextlib.ExitStack() as stack:
        server = None if url or folder is None else stack.enter_context(_served(folder))
        found = load_test(url, folder, server, rate=rate, seconds=seconds, gpu=gpu)
    typer.echo(found.model_dump_json() if as_json else load_text(found))


@app.command()
def judge(
    run: ExistingRun,
    model: Annotated[str, typer.Option(help="The model that judges.")] = "",
    provider: Annotated[str, typer.Option(help="Where it answers: openai, groq, …, or a URL.")] = "openai",
    labels: Annotated[Path | None, typer.Option(help="People's labels, to hold it against.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a sheet for people to label, and ask nobody.")] = None,
    items: Annotated[int, typer.Option(min=1, help="How many answers.")] = 200,
) -> None:
    """Have a model judge a run's answers; it counts only where its agreement with people was measured."""
    from endpoints.judging import judge_run

    console.print(judge_run(_existing(run), provider, model, labels, sheet, items), **PLAIN)


@app.command()
def plan(
    recipes: Annotated[list[Path], typer.Argument(metavar="RECIPE…", help="One, or several to compare.")],
    run: RunName = None,
    context: Annotated[
        int | None, typer.Option(help="Tokens served; the recipe's serve.context, if not given.")
    ] = None,
    streams: Annotated[int, typer.Option(min=1, help="Requests answered at a time.")] = 1,
    api_usd: Annotated[float | None, typer.Option(help="What an API costs you a month, to compare.")] = None,
    as_json: AsJson = False,
) -> None:
    """What a recipe will need, take and cost, before anything starts; exit 2 for what should not be started."""
    from configs.recipe import load_recipe
    from stages import paths
    from stages.plan import plan_of, refuse

    loaded = [load_recipe(file) for file in recipes]
    folder = None if run is None else paths.run_folder(run)
    plans = [plan_of(recipe, folder, context=context, streams=streams, api_usd=api_usd) for recipe in loaded]
    if as_json:
        from dataclasses import asdict

        typer.echo(json.dumps([asdict(each) for each in plans] if len(plans) > 1 else asdict(plans[0])))
    else:
        from tables import plan_text, side_by_side

        typer.echo(plan_text(plans[0]) if len(plans) == 1 else side_by_side(plans))
    for recipe, each in zip(loaded, plans, strict=True):
        refuse(recipe, each)


@app.command()
def schema() -> None:
    """JSON Schema of a recipe, for editors."""
    from configs.recipe import Recipe

    typer.echo(json.dumps(Recipe.model_json_schema(), indent=1))


@app.command()
def validate(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="A recipe, or files and folders of rows.")],
    recipe: Annotated[Path | None, typer.Option(help="A recipe whose settings count for these files.")] = None,
    to: Annotated[Path, typer.Option(help="Folder for verdict, page and copy.")] = Path("validation"),
    fix: Annotated[bool, typer.Option("--fix", help="Write a cleaned copy; originals are not touched.")] = False,
) -> None:
    """Tell everything that is wrong with data; exit 2 if it stops a training."""
    from stages.prepare.validate import validate as checked

    done = checked(paths, recipe, to, fix=fix)
    typer.echo(done.told)
    raise typer.Exit(0 if done.passed else 2)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file or folder of data.", show_default=False)],
    to: Annotated[Path, typer.Option(help="The recipe to write.")] = Path("recipe.yaml"),
    base: Annotated[str, typer.Option(help="`tiny`, a folder, or a hub id.")] = "tiny",
    revision: Annotated[str | None, typer.Option(help="Commit of a hub id.")] = None,
) -> None:
    """Look at data and write a recipe that runs."""
    from stages.prepare.starter import init as started

    typer.echo(started(path, to, base, revision))


@app.command()
def serve(
    run: ExistingRun,
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8080,
    host: Annotated[str, typer.Option(help="Address; anything but loopback needs TUNELINE_API_KEY.")] = "127.0.0.1",
    kind: Annotated[
        str | None, typer.Option("--type", help="GGUF type; the recipe's serve.type, if not given.")
    ] = None,
) -> None:
    """Serve a run's model: the OpenAI API at http://HOST:PORT/v1, until Ctrl-C."""
    from stages.errors import StageFailed
    from terminal import serving_panel

    folder = _existing(run)
    with _served(folder, kind, port, host) as server:
        console.print(serving_panel(run, server.base_url, with_key="TUNELINE_API_KEY" in os.environ), soft_wrap=True)
        with contextlib.suppress(KeyboardInterrupt):
            code = server.process.wait()
            raise StageFailed(f"llama-server ended with {code}; see {folder / 'logs' / 'serve.log'}")


@app.command()
def chat(
    where: Annotated[str, typer.Argument(metavar="RUN|URL", help="A run, or a server that is up.", show_default=False)],
    question: Annotated[str | None, typer.Argument(help="Asked once; without it, a conversation.")] = None,
) -> None:
    """Talk to a run's model, with the run's tools; its calls are shown, not made."""
    questions = _asked() if question is None else [question]
    if where.startswith(("http://", "https://")):
        _talk(where, None, questions)
        return
    folder = _existing(where)
    with _served(folder) as server:
        _talk(server.base_url, folder, questions)


@app.command()
def promote(
    run: ExistingRun,
    name: Annotated[str, typer.Option("--as", help="The name it serves.")],
    override: Annotated[str, typer.Option(help="Why it may serve without the gate's pass; recorded.")] = "",
    on_modal: OnModal = False,
) -> None:
    """Let a run that passed its gate serve a name; exit 3 if it did not pass."""
    version = json.loads(_policy(on_modal, "promote", run, name, override, _user()))
    console.print(f"{name} is served by {_promoted(version)}; `tuneline rollback {name}` undoes it", **PLAIN)


@app.command()
def rollback(name: Annotated[str, typer.Argument(help="A promoted name.")], on_modal: OnModal = False) -> None:
    """Serve what served a name before."""
    version = json.loads(_policy(on_modal, "rollback", name, _user()))
    console.print(f"{name} is served again by {_promoted(version)}", **PLAIN)


@keys_app.command("add")
def keys_add(owner: Owner, on_modal: OnModal = False) -> None:
    """A new key for the endpoint, shown this once."""
    typer.echo(_policy(on_modal, "keys add", owner))


@keys_app.command("revoke")
def keys_revoke(owner: Owner, on_modal: OnModal = False) -> None:
    """The owner's key opens nothing any more."""
    _policy(on_modal, "keys revoke", owner)
    console.print(f"the key of {owner} is revoked", highlight=False)


@keys_app.command("ls")
def keys_ls(on_modal: OnModal = False) -> None:
    """Who has a key, and since when."""
    for owner, added in json.loads(_policy(on_modal, "keys ls")).items():
        typer.echo(f"{owner:<20} {added}")


@app.command()
def deploy() -> None:
    """`modal deploy app.py`, once its secrets are there and the name is free or ours."""
    from volumes.remote import deploy

    sys.exit(deploy())


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def rehearse(
    words: Annotated[list[str] | None, typer.Argument(metavar="-- COMMAND…", help="A modal command.")] = None,
    folder: Annotated[Path, typer.Option("--state", help="Volumes and secrets of the rehearsal.")] = Path(".rehearsal"),
) -> None:
    """Run a modal command with Modal played on this machine; without one, keep it up until Ctrl-C."""
    from rehearsal.command import run, stay

    if words:
        sys.exit(run(words, folder))
    stay(folder, typer.echo)


@runs_app.command("ls")
def runs_ls(as_json: AsJson = False, on_modal: OnModal = False) -> None:
    """All runs and how far each is."""
    from terminal import runs_table, stage_states

    with _runs(on_modal) as root:
        found = [(f.name, stage_states(f)) for f in sorted(root.glob("*")) if (f / "recipe.json").exists()]
    if as_json:
        typer.echo(json.dumps([{"run": name, "stages": states} for name, states in found]))
    else:
        console.print(runs_table(found) if found else "no run yet; `tuneline demo` makes one")


@runs_app.command("show")
def runs_show(run: ExistingRun, as_json: AsJson = False, on_modal: OnModal = False) -> None:
    """One run: its stages, and what was measured."""
    from stages.artifact import finished
    from terminal import run_details

    with _runs(on_modal) as root:
        folder = _existing(run, root)
        done = {
            f.parent.name: _manifest(folder, f.parent.name)
            for f in sorted(folder.glob("*/manifest.json"))
            if finished(f.parent)
        }
        if as_json:
            typer.echo(json.dumps({stage: artifact.manifest.metrics for stage, artifact in done.items()}))
        else:
            console.print(run_details(folder, done))


@runs_app.command("logs")
def runs_logs(run: ExistingRun, on_modal: OnModal = False) -> None:
    """What a run told so far: its events, as plain lines."""
    from terminal import event_line

    if on_modal:
        from volumes.remote import events

        lines = events(run)
    else:
        lines = iter((_existing(run) / "events.jsonl").read_bytes().splitlines())
    for line in lines:
        typer.echo(event_line(json.loads(line)))


@runs_app.command("cancel")
def runs_cancel(run: ExistingRun, on_modal: OnModal = False) -> None:
    """Stop whoever makes a run; the same command that made it goes on from the last checkpoint."""
    if on_modal:
        from volumes.remote import cancel

        console.print(f"{run}: {cancel(run)} is cancelled", highlight=False)
        return
    from stages.lock import stop_holder

    console.print(f"{run}: {stop_holder(_existing(run))} is told to stop", highlight=False)


def _promoted(version: dict[str, Any]) -> str:
    """Which run, by whom, when and on what evidence."""
    why = f", overridden: {version['override']}" if version["override"] else ""
    what = f"{version['run']} (version {version['number']}, by {version['by']}, {version['at'][:19]}"
    return f"{what}; gate: {version['gate']}{why})"


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"


@models_app.command("ls")
def models_ls(as_json: AsJson = False) -> None:
    """The bases we know, and those that are here with size and last use."""
    from configs.models import registry
    from stages.fetch.here import bases_here, half_here
    from tables import models_text

    here = bases_here()
    if as_json:
        known = {key: model.model_dump() for key, model in registry().models.items()}
        there = [{"name": b.slug, "known_as": b.known_as, "bytes": b.bytes, "used": b.used.isoformat()} for b in here]
        typer.echo(json.dumps({"known": known, "here": there}))
    else:
        typer.echo(models_text(here, half_here()))


@models_app.command("show")
def models_show(name: ModelName) -> None:
    """Everything we know of a base: licence, sizes, memory to run and to train."""
    from configs.models import known
    from tables import model_text

    typer.echo(model_text(known(name)))


@models_app.command("fit")
def models_fit(
    gpu: Annotated[str | None, typer.Option(help="A kind and a count ('H100:2'), or a memory ('11GiB').")] = None,
    here: Annotated[bool, typer.Option("--here", help="This machine.")] = False,
    as_json: AsJson = False,
) -> None:
    """Which bases a GPU runs and trains, and in how many bits."""
    from dataclasses import asdict

    from stages.errors import BadRequest
    from stages.plan.fit import fit, machine, this_machine
    from tables import fit_text

    if (gpu is None) != here:
        raise BadRequest("models fit: give one of --gpu and --here: `tuneline models fit --gpu H100:2`, or `--here`")
    where = this_machine() if gpu is None else machine(gpu)
    found = fit(where)
    typer.echo(json.dumps([asdict(each) for each in found]) if as_json else fit_text(where, found))


@models_app.command("pick")
def models_pick(
    constraint: Annotated[str | None, typer.Option(help="'one consumer GPU', 'privacy', …; all, if not given.")] = None,
) -> None:
    """Which base to take, by what you have or what matters to you."""
    from stages.plan.fit import GUIDE, pick
    from tables import guide_text

    typer.echo(guide_text([pick(name) for name in ([constraint] if constraint else GUIDE)]))


@models_app.command("download")
def models_download(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A base, by name or hub id.", show_default=False)],
    revision: Annotated[
        str | None, typer.Option(help="Commit, branch or tag; the pinned one, else main, if not given.")
    ] = None,
) -> None:
    """Bring a base here, verified, and pin its commit; the same command goes on where it was interrupted."""
    from stages.fetch import Hub, bring, named
    from stages.pins import pin, pin_of
    from terminal import Progress, Shown

    source = named(name, revision)
    with Progress(console) as progress:
        made = bring(source, Shown(progress.event, "fetch"))
    console.print(f"{made.path.name}: whole, {made.metrics['bytes'] / 1e9:.2f} GB in {made.path}", **PLAIN)
    if isinstance(source, Hub):
        if revision:
            pin(source.repo, source.revision, anew=True)
        told = f"{source.repo} is pinned to {pin_of(source.repo)}; a recipe that names it needs no revision here"
        console.print(told, **PLAIN)


@models_app.command("verify")
def models_verify(
    name: Annotated[str | None, typer.Argument(help="A base; all that are here, if not given.")] = None,
) -> None:
    """Hash the bases that are here anew; exit 1 if a file is not what was fetched."""
    from stages.errors import StageFailed
    from stages.fetch.here import bases_here, faults, found_here

    wrong, asked = [], bases_here() if name is None else found_here(name)
    if not asked:
        typer.echo("no base is here; `tuneline models download NAME` brings one")
    for base in asked:
        found = faults(base)
        typer.echo(f"{base.slug}: {'whole' if not found else 'NOT whole'}")
        wrong += found
    if wrong:
        raise StageFailed("\n".join(wrong))


@models_app.command("remove")
def models_remove(
    name: ModelName,
    force: Annotated[int, typer.Option("--force", count=True, help="Twice, if a promoted run needs it.")] = 0,
) -> None:
    """Delete a base that is here."""
    from stages.fetch.here import found_here, remove

    for base in found_here(name):
        remove(base, force)
        typer.echo(f"{base.slug}: removed, {base.bytes / 1e9:.2f} GB freed")


@app.command()
def doctor() -> None:
    """What this machine lacks, and the command that mends it; exit 1 if something is missing."""
    from stages.doctor import examine
    from tables import doctor_text

    found = examine()
    typer.echo(doctor_text(found))
    raise typer.Exit(int(any(each.state == "missing" for each in found)))


def _policy(on_modal: bool, verb: str, *words: str) -> str:
    """A change of what is promoted or whose keys count, in the policy folder here or on Modal."""
    if on_modal:
        from volumes.remote import policy

        return policy(verb, *words)
    from endpoints.policy import VERBS

    return VERBS[verb](*words)


@contextlib.contextmanager
def _runs(on_modal: bool) -> Iterator[Path]:
    """The folder of all runs here, or a passing copy of what is known of those on Modal."""
    from stages import paths

    if not on_modal:
        yield paths.runs()
        return
    import tempfile

    from volumes.remote import mirror

    with tempfile.TemporaryDirectory() as folder:
        mirror(Path(folder))
        yield Path(folder)


def _walk(recipe_file: Path, name: str | None, until: str, *, only: bool, as_json: bool) -> Path:
    """Check, tell what will run, run it with live progress; the run's folder."""
    from stages import paths
    from stages.convert.llama_cpp import installed
    from stages.errors import NotFound
    from stages.line import in_subprocess, plan, run_line, up_to
    from terminal import Progress, plan_table

    recipe = _checked(recipe_file)
    folder = paths.run_folder(recipe.name if name is None else name)
    if until in ("convert", "evaluate"):
        installed()  # said now, not after the training
    states = plan(recipe, folder, up_to(until))
    if only and (missing := [stage for stage in list(states)[:-1] if states[stage] != "finished"]):
        raise NotFound(f"--only: {until} needs {missing[-1]}, which is not finished; leave --only out to make it too")
    out = errors_console if as_json else console
    out.print(plan_table(folder.name, {until: states[until]} if only else states), soft_wrap=True)
    with Progress(out) as progress:
        made = run_line(recipe, until, in_subprocess(recipe, folder, progress.event), only=only)
    if as_json:
        typer.echo(json.dumps(made[-1].metrics))
    return folder


def _checked(recipe_file: Path) -> "Recipe":
    """The recipe, its files and its base looked at before anything is written."""
    from configs.recipe import load_recipe
    from stages.fetch import check_base
    from stages.plan.serving import refuse_unservable

    recipe = load_recipe(recipe_file)
    refuse_unservable(recipe)
    check_base(recipe)
    return recipe


def _existing(name: str, root: Path | None = None) -> Path:
    from stages import paths
    from stages.errors import NotFound

    folder = (root or paths.runs()) / paths.run_folder(name).name
    if not (folder / "recipe.json").exists():
        raise NotFound(f"run {name!r}: not in {root or paths.runs()}; `tuneline runs ls` shows those that are")
    return folder


def _manifest(folder: Path, stage: str) -> "Artifact":
    from stages.artifact import open_artifact

    return open_artifact(folder / stage)


def _report(folder: Path, *, quiet: bool) -> None:
    from stages.report import write_report

    written = write_report(folder)
    if not quiet:
        console.print(f"report: {written}", soft_wrap=True)


def _leave_by_gate(folder: Path) -> None:
    from stages.evaluate.gate import leave_unless_passed

    leave_unless_passed(_manifest(folder, "evaluate"))


@contextlib.contextmanager
def _served(
    folder: Path, kind: str | None = None, port: int | None = None, host: str = "127.0.0.1"
) -> "Iterator[Server]":
    """The run's model behind a server."""
    from configs.recipe import Recipe
    from endpoints.llama_server import serving
    from stages.errors import BadRequest

    key = os.environ.get("TUNELINE_API_KEY")
    if host not in ("127.0.0.1", "localhost", "::1") and not key:
        raise BadRequest(f"--host {host}: others could reach it; set TUNELINE_API_KEY to the key they shall send")
    recipe = Recipe.model_validate_json((folder / "recipe.json").read_text())
    files, kind = _manifest(folder, "convert").metrics["files"], kind or recipe.serve.type
    if f"tuned-{kind}" not in files:
        made = ", ".join(name.removeprefix("tuned-") for name in files if name.startswith("tuned-"))
        raise BadRequest(f"--type {kind}: this run has {made}")
    with serving(
        folder / "convert" / f"tuned-{kind}.gguf",
        alias=folder.name,
        log=folder / "logs" / "serve.log",
        context=recipe.serve.context,
        threads=recipe.compute.threads or len(os.sched_getaffinity(0)),
        host=host,
        port=port,
        api_key=key,
    ) as server:
        yield server


def _asked() -> Iterator[str]:
    """What is typed, until Ctrl-D or Ctrl-C."""
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            if typed := console.input("you   ").strip():
                yield typed


def _talk(url: str, folder: Path | None, questions: Iterable[str]) -> None:
    """Questions to a server through the openai client, with the tools of the run in `folder`."""
    from stages.prepare import load_tools
    from terminal import talk

    catalogue = load_tools(folder / "prepare") if folder else None
    tools = catalogue.openai() if catalogue else None
    talk(console, url, folder.name if folder else "default", tools, questions)


if __name__ == "__main__":
    main()
