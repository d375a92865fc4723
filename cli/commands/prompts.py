"""Prompts and their versions; many prompts at once."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from tuneline.core.terminal import echo

app = typer.Typer(help="Prompts and styles by version: list, show, compare, try.", no_args_is_help=True)
batch_app = typer.Typer()
Label = Annotated[
    str, typer.Argument(metavar="NAME[.vN]", help="A prompt; without .vN, its latest version.", show_default=False)
]
Values = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Value of a variable of the prompt. May be repeated."),
]


@app.command()
def ls() -> None:
    """List prompts with their versions and variables."""
    from tuneline.endpoints.prompts import list_prompts

    for prompt in list_prompts():
        variables = f"  ({', '.join(prompt.header.variables)})" if prompt.header.variables else ""
        echo(f"{prompt.label:<24} {prompt.hash}  {prompt.header.about}{variables}")


@app.command()
def show(name: Label) -> None:
    """Print a prompt as it is written."""
    from tuneline.endpoints.prompts import find_prompt

    echo(find_prompt(name).text)


@app.command()
def diff(first: Label, second: Label) -> None:
    """Show what changed between two versions."""
    from tuneline.endpoints.prompts import compare_prompts, find_prompt

    echo(compare_prompts(find_prompt(first), find_prompt(second)) or "they say the same")


@app.command("try")
def try_(name: Label, values: Values = None) -> None:
    """Print a prompt as a model reads it, with its variables filled in."""
    from tuneline.core.errors import BadRequest
    from tuneline.endpoints.prompts import find_prompt

    pairs = [value.partition("=") for value in values or ()]
    if any(not separator for _, separator, _ in pairs):
        raise BadRequest("--set: write NAME=VALUE")
    echo(find_prompt(name).render({variable: value for variable, _, value in pairs}))


@batch_app.command(rich_help_panel="Serving")
def batch(
    prompts: Annotated[
        Path, typer.Argument(metavar="FILE", help="JSON lines with `prompt` or `messages` in each.", show_default=False)
    ],
    model: Annotated[str, typer.Option(help="Model name at the server.")],
    to: Annotated[Path, typer.Option(help="File of answers, one per line; answers that it has already are kept.")],
    url: Annotated[str, typer.Option(help="URL of a server of the OpenAI API, or a provider's name.")] = "local",
    at_once: Annotated[int, typer.Option(min=1, help="Concurrent requests.")] = 8,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Maximum tokens of an answer, unless its line states another.")
    ] = 512,
    budget: Annotated[
        int | None, typer.Option(min=1, help="Maximum tokens in total; a larger budget continues.")
    ] = None,
) -> None:
    """Answer a file of prompts; rerun to resume. Exit 1 if some have no answer."""
    from tuneline.endpoints.batch import read_prompts, run_batch
    from tuneline.engines.own_key import own_key
    from tuneline.engines.providers import find_provider

    read = read_prompts(prompts, model)
    provider = find_provider(url)

    async def go() -> Any:
        async with provider.connect(model, key=own_key(provider.base_url)) as chat:
            return await run_batch(chat, read, to, concurrency=at_once, max_tokens=max_tokens, budget_tokens=budget)

    report = asyncio.run(go())
    for failure in report.failed:
        echo(failure, error=True)
    tokens = f"{report.prompt_tokens:,} + {report.completion_tokens:,} tokens"
    echo(f"{to}: {report.done} answered, {report.skipped} were there, {len(report.failed)} failed; {tokens}")
    if report.is_over_budget:
        echo(f"--budget {budget}: reached; a larger one goes on from here", error=True)
    raise typer.Exit(1 if report.failed or report.is_over_budget else 0)
