"""What the verbs share: consoles, the options of many, and the run that is named."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from tuneline.core.artifacts import Artifact
    from tuneline.engines.llama_cpp.llama_server import Server

console, errors_console = Console(), Console(stderr=True)
PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}
"""How text of others is printed."""

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, YAML.", show_default=False)]
RunName = Annotated[str | None, typer.Option("--run", help="Name of the run; the recipe's, if not given.")]
Only = Annotated[bool, typer.Option("--only", help="Just this stage; those before it must be finished.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the metrics as JSON, progress on stderr.")]
ExistingRun = Annotated[str, typer.Argument(metavar="RUN", help="Name of a run.", show_default=False)]
OnModal = Annotated[bool, typer.Option("--modal", help="There, not on this machine.")]


def existing(name: str, root: Path | None = None) -> Path:
    from tuneline.core import paths
    from tuneline.core.errors import NotFound

    folder = (root or paths.runs()) / paths.run_folder(name).name
    if not (folder / "recipe.json").exists():
        raise NotFound(f"run {name!r}: not in {root or paths.runs()}; `tuneline runs ls` shows those that are")
    return folder


def opened(folder: Path, stage: str) -> "Artifact":
    from tuneline.core.artifacts import open_artifact

    return open_artifact(folder / stage)


@contextlib.contextmanager
def served(
    folder: Path, kind: str | None = None, port: int | None = None, host: str = "127.0.0.1"
) -> "Iterator[Server]":
    """The run's model behind a server."""
    from tuneline.configs.recipe import recipe_of
    from tuneline.core.errors import BadRequest
    from tuneline.engines.llama_cpp.llama_server import serving

    key = os.environ.get("TUNELINE_API_KEY")
    if host not in ("127.0.0.1", "localhost", "::1") and not key:
        raise BadRequest(f"--host {host}: others could reach it; set TUNELINE_API_KEY to the key they shall send")
    recipe = recipe_of(folder)
    files, kind = opened(folder, "convert").metrics["files"], kind or recipe.serve.type
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


def talk_to(url: str, folder: Path | None, questions: Iterable[str]) -> None:
    """Questions to a server through the openai client, with the tools of the run in `folder`."""
    from tuneline.cli.terminal import talk
    from tuneline.endpoints.tool_selection import narrowing_of
    from tuneline.stages.prepare import load_tools

    catalogue = load_tools(folder / "prepare") if folder else None
    tools = catalogue.openai() if catalogue else None
    narrowing = narrowing_of(folder) if folder else None
    talk(console, url, folder.name if folder else "default", tools, questions, narrowing)


def policy_change(on_modal: bool, verb: str, *words: str) -> str:
    """A change of what is promoted or whose keys count, in the policy folder here or on Modal."""
    if on_modal:
        from tuneline.volumes.remote import policy

        return policy(verb, *words)
    from tuneline.endpoints.policy import VERBS

    return VERBS[verb](*words)
