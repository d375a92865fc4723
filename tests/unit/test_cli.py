"""What the command says to bad input: one message, the right exit code, nothing written."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tuneline import cli
from tuneline.core.paths import ROOT

MICRO = (ROOT / "configs/recipes/micro.yaml").read_text()


def tuneline(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    roots = {"TUNELINE_RUNS": str(home / "runs"), "TUNELINE_MODELS": str(home / "models")}
    environment = os.environ | roots | {"COLUMNS": "200"}
    command = [sys.executable, "-m", "tuneline", *words]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("learning_rate", "learning_rte"), "train.learning_rte: unknown key; did you mean 'learning_rate'?"),
        (("rank: 8", "rank: eight"), "train.rank: 'eight'"),
        (("base: tiny", "base: tinny"), "tinny"),
        (("data/requests/train.yaml", "data/requests/none.yaml"), "data/requests/none.yaml: no such file"),
        (("base: tiny", "base: [tiny"), "not YAML"),
    ],
)
def test_a_bad_recipe_is_refused_before_anything_is_written(tmp_path: Path, change: tuple[str, str], told: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(MICRO.replace(*change))
    done = tuneline(tmp_path, "run", str(recipe))
    assert done.returncode == 2
    assert told in done.stderr and "Traceback" not in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["recipe.yaml"]


def test_unknown_runs_and_recipes_are_named(tmp_path: Path) -> None:
    for words in (["report", "nowhere"], ["serve", "nowhere"], ["chat", "nowhere", "hi"], ["runs", "show", "nowhere"]):
        done = tuneline(tmp_path, *words)
        assert done.returncode == 2 and "nowhere" in done.stderr and "tuneline runs ls" in done.stderr
    done = tuneline(tmp_path, "run", "no.yaml")
    assert done.returncode == 2 and "no.yaml: no such recipe" in done.stderr


def test_the_usual_options_work_and_the_command_has_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tuneline(tmp_path, "--version").stdout.startswith("tuneline 0.")
    page = tuneline(tmp_path, "run", "-h").stdout
    assert (
        "Usage: tuneline run [OPTIONS]" in page and "<str>" in page and "<bool>" not in page and "RECIPE  <" not in page
    )
    # --show-completion asks which shell has started it, and make's is none that has completion.
    monkeypatch.setenv("_TUNELINE_COMPLETE", "source_bash")
    assert "complete -o default -F _tuneline_completion tuneline" in tuneline(tmp_path).stdout


def test_schema_is_json_schema_with_a_description_for_every_setting(tmp_path: Path) -> None:
    schema = json.loads(tuneline(tmp_path, "schema").stdout)
    assert schema["additionalProperties"] is False
    assert "tokens" in schema["$defs"]["Data"]["properties"]["max_tokens"]["description"]


def test_help_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "pydantic", "yaml", "openai")
    code = f"import sys, cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_command_and_option_says_what_it_is_in_words_of_users() -> None:
    root = typer.main.get_command(cli.app)
    pages = dict(render_pages(root, ()))
    assert len(pages) > 60
    assert [name for name, (help_texts, _) in pages.items() if not all(help_texts)] == []
    odd = ("list[", " range>", "<datetime", "<%", "…}...", "...]]")
    assert {name: found for name, (_, page) in pages.items() if (found := [word for word in odd if word in page])} == {}


def render_pages(command: typer.core.TyperCommand | typer.core.TyperGroup, words: tuple[str, ...]) -> Iterator[Any]:
    """Yield each command with its help texts and its page."""
    page = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, [*words, "--help"]).output
    yield " ".join(words), ([command.help, *(getattr(parameter, "help", None) for parameter in command.params)], page)
    for verb, below in getattr(command, "commands", {}).items():
        yield from render_pages(below, (*words, verb))
