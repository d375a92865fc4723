"""Help texts, messages and pages are in plain technical English: words that no textbook of the field uses stay out."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from tuneline import cli
from tuneline.core.paths import ROOT

# What to write instead is in the comment; a pattern matches whole words, whatever their case.
ODD = re.compile(
    r"\b(?:"
    r"mends?|mended"  # fix
    r"|anew"  # again
    r"|doubles"  # duplicates; a number that doubles is rare enough to be said otherwise
    r"|(?:is|are|was|were) told"  # is reported, is notified
    r"|stands? in"  # is in, replaces
    r"|wants|wanted"  # requires, expected
    r"|lies in|lies (?:there|beside)"  # is in
    r"|front door"  # gateway
    r"|carriers?"  # template, sentence frame
    r"|the walk|walks"  # pipeline run
    r"|learned tokens?"  # tokens in the loss
    r"|held against"  # compared with
    r"|(?:requests|tokens|steps|USD) an? (?:second|minute|hour|day|month)"  # per second
    r"|nobody|somebody|whoever|whose key"  # no process, a person
    r"|all the same|so long|come what may"
    r"|at hand"  # on this machine
    r")\b",
    re.IGNORECASE,
)
FOLDERS = (
    "cli",
    "configs",
    "core",
    "endpoints",
    "engines",
    "images",
    "publish",
    "rehearsal",
    "stages",
    "ui",
    "volumes",
)


PAGES = (ROOT / "README.md", *(file for file in sorted((ROOT / "docs").glob("*.md")) if file.stem != "log"))


def find_odd(text: str) -> list[str]:
    return [text[max(0, match.start() - 30) : match.end() + 30].replace("\n", " ") for match in ODD.finditer(text)]


def test_help_texts() -> None:
    pages = dict(render_help(typer.main.get_command(cli.app), "tuneline"))
    assert len(pages) > 40
    assert {name: odd for name, text in pages.items() if (odd := find_odd(text))} == {}


def render_help(command: typer.core.TyperCommand | typer.core.TyperGroup, name: str) -> Iterator[tuple[str, str]]:
    helps = [command.help or "", *(getattr(parameter, "help", None) or "" for parameter in command.params)]
    yield name, "\n".join(helps)
    for verb, below in getattr(command, "commands", {}).items():
        yield from render_help(below, f"{name} {verb}")


@pytest.mark.parametrize("folder", FOLDERS)
def test_messages(folder: str) -> None:
    odd = {}
    for file in sorted((ROOT / folder).rglob("*.py")):
        if found := [text for message in read_messages(file) for text in find_odd(message)]:
            odd[str(file.relative_to(ROOT))] = found
    assert odd == {}


def test_pages() -> None:
    odd = {page.name: found for page in PAGES if (found := find_odd(page.read_text(encoding="utf-8")))}
    assert odd == {} and len(PAGES) > 20


def read_messages(file: Path) -> Iterator[str]:
    """Yield the texts of a module that have words in them, without docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare
        if is_text and " " in node.value.strip():  # one word is a key or a name
            yield node.value
