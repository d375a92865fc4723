"""Catalogues of tools: made from what describes an API, and checked."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from tuneline.core.terminal import echo

app = typer.Typer(help="Catalogues of tools: import from an API, check, mock.", no_args_is_help=True)
PROMPT_TOKENS = 8_192
Source = Annotated[
    str,
    typer.Argument(
        metavar="SPEC",
        help="OpenAPI 3 (file or address), a list of tools (OpenAI, MCP), mcp:ADDRESS, mcp:COMMAND or a Python module.",
        show_default=False,
    ),
]


@app.command("import")
def import_(
    source: Source,
    to: Annotated[Path, typer.Option(help="Catalogue to write.")] = Path("catalogue.yaml"),
) -> None:
    """Write a catalogue of the tools of an API, an MCP server or a Python module."""
    from tuneline.stages.tool_import import import_tools, write_catalogue

    imported = import_tools(source)
    write_catalogue(imported.catalogue, to)
    for note in imported.notes:
        echo(note, error=True)
    count = len(imported.catalogue.names)
    echo(f"written: {to}, {count} tool{'s' * (count != 1)}\nnext: tuneline tools check {shlex.quote(str(to))}")


@app.command()
def check(
    catalogue: Annotated[Path, typer.Argument(metavar="CATALOGUE", help="Catalogue to check.", show_default=False)],
    tokens: Annotated[int, typer.Option(min=1, help="Tokens that a prompt has room for.")] = PROMPT_TOKENS,
) -> None:
    """Report what makes a catalogue hard for a model; exit 2 if an engine or training would refuse it."""
    from tuneline.configs.catalogue import load_catalogue
    from tuneline.stages.tool_import.catalogue_check import check_catalogue

    loaded = load_catalogue(catalogue)
    findings = check_catalogue(loaded, tokens)
    for finding in findings:
        echo(f"{finding.level}: {finding.message}")
    errors = sum(finding.level == "error" for finding in findings)
    echo(f"{catalogue}: {len(loaded.names)} tools, {errors} errors, {len(findings) - errors} warnings")
    raise typer.Exit(2 if errors else 0)


@app.command()
def mock(
    source: Annotated[str, typer.Argument(metavar="SPEC", help="OpenAPI 3: a file or an address.", show_default=False)],
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 9000,
) -> None:
    """Serve a mock of an API on this machine, with answers made from its description, until Ctrl-C."""
    from urllib.parse import urlsplit

    import uvicorn

    from tuneline.core.errors import BadRequest
    from tuneline.endpoints.assistant.mock_api import build_mock
    from tuneline.engines.server import refuse_port_in_use
    from tuneline.stages.tool_import import load_api

    api = load_api(source)
    if api is None:
        raise BadRequest(f"{source}: no description of an HTTP API; `tuneline tools mock` needs OpenAPI 3")
    refuse_port_in_use("127.0.0.1", port)
    address = f"http://127.0.0.1:{port}{urlsplit(api.url).path.rstrip('/')}"
    echo(f"{api.title}: {address}; `export {api.url_variable}={address}` leads the assistant here")
    uvicorn.run(build_mock(api), host="127.0.0.1", port=port, log_level="warning", access_log=False)
