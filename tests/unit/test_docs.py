"""README and docs: every command runs as it is written, every YAML is valid, every link and file is there.

Commands run in the order of their page, in a folder that has what the page speaks of. Those that take long or need an
account are listed in tests/doc_pages.py; tests/line/test_long_commands.py runs the long ones.
"""

import ast
import contextlib
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tests.doc_pages import LONG, OUTSIDE, PAGES, Command, read_commands, read_yaml_blocks
from tests.runs import make_run
from tests.unit.test_adapter_folder import write_adapter
from tests.unit.test_compare import answered
from tests.unit.test_load import report
from tests.unit.test_migration import AXOLOTL, LLAMA_FACTORY
from tuneline.cli import app
from tuneline.configs.catalogue import load_catalogue
from tuneline.configs.cloud import Cloud
from tuneline.configs.gateway import Gateway
from tuneline.configs.recipe import Recipe
from tuneline.configs.recipe_file import load_recipe
from tuneline.core.paths import ROOT
from tuneline.stages.evaluate import judge_command
from tuneline.stages.evaluate.load_testing import load_test
from tuneline.stages.evaluate.verdicts import gate
from tuneline.stages.evaluate.verdicts.suite_demands import Evidence
from tuneline.stages.fetch import fetch
from tuneline.stages.plan import make_plan

EXIT_CODES = {"doctor": (0, 1), "traffic": (0, 2, 3), "logs": (0, 2), "models verify": (0, 2)}
"""Exit codes other than 0 that are right here: this machine may lack something, and nothing was sent to a gateway."""
WITH_COMMANDS = [page for page in PAGES if any(read_commands(page))]
SMALL = """base: tiny
data: {sources: [{grammar: data/requests/train.yaml, rows: 24}], tools: configs/tools/handlers.yaml, validation_rows: 4}
train: {rank: 4, max_steps: 1, batch_rows: 4}
convert: {types: [F16, Q4_K_M]}
"""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder: data of every kind, the recipes of the pages on the tiny base, and a finished run `demo`."""
    monkeypatch.chdir(tmp_path)
    for folder in ("configs", "data", "examples"):
        (tmp_path / folder).symlink_to(ROOT / folder)  # pages speak from the checkout's folder
    for name in ("RUNS", "MODELS", "POLICY", "LOGS"):
        monkeypatch.setenv(f"TUNELINE_{name}", str(tmp_path / f".{name.lower()}"))
    write_data(tmp_path)
    recipe = load_recipe(ROOT / "configs/recipes/demo.yaml")
    targets = {"base": range(9), "tuned-F16": range(495), "tuned-Q4_K_M": range(490)}
    found = {("unseen_phrasings", target): answered(right) for target, right in targets.items()}
    answers = {target: {suite: of_suite} for (suite, target), of_suite in found.items()}
    decided = gate.decide_gate(recipe.evaluate, Evidence(found, "tuned-Q4_K_M", "base"))[0]
    fetch(recipe, tmp_path / ".fetched")  # the base that all runs here were made from
    for name in ("demo", "micro", "openai-recipe", "my-cheap", "my-balanced", "my-production"):
        make_run(tmp_path / ".runs" / name, recipe.model_copy(update={"name": name}), decided, answers)
    stand_in_for_servers(tmp_path, monkeypatch)
    return tmp_path


def write_data(folder: Path) -> None:
    chats = [
        {"messages": [{"role": "user", "content": f"what is {i}?"}, {"role": "assistant", "content": f"it is {i * 7}"}]}
        for i in range(60)
    ]
    files = {"rows": chats[:40], "my-data/chat": chats[:40], "openai-train": chats[:40]}
    files |= {"openai-valid": chats[40:50], "heldout": chats[50:], "chats": chats[:40]}
    for name, rows in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for style in ("letters", "reports"):
        (folder / "styles" / style).mkdir(parents=True)
        for number, source in enumerate(sorted((ROOT / "data/styles").glob("*/*.txt"))[:6]):
            (folder / "styles" / style / f"{number}.txt").write_text(f"{style} {source.read_text()}")
    for name in ("cheap", "balanced", "production"):
        (folder / f"{name}.yaml").write_text(SMALL)
    (folder / "recipe.yaml").write_text(SMALL)
    write_adapter(folder / "their-adapter")
    for name, text in (("axolotl.yaml", AXOLOTL), ("llamafactory.yaml", LLAMA_FACTORY)):
        (folder / name).write_text(text)
    (folder / "job.json").write_text(json.dumps({"model": "gpt-4.1-mini", "training_file": "openai-train.jsonl"}))
    for page in PAGES:
        for block in read_yaml_blocks(page):
            if name := re.match(r"# ([\w-]+\.yaml)\n", block):
                (folder / name[1]).write_text(block)


def stand_in_for_servers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge that finds everything good, and guidellm's report of 120 requests; no server is started."""

    class Judge:
        def connect(self, model: str) -> Any:
            return contextlib.nullcontext(self)

        async def ask(self, messages: Any, **sampling: Any) -> Any:
            return SimpleNamespace(text="GOOD")

    @contextlib.contextmanager
    def served(folder: Path) -> Iterator[Any]:
        yield SimpleNamespace(base_url="http://here/v1", process=SimpleNamespace(pid=1))

    (folder / ".load.json").write_text(json.dumps(report([0.0] * 120)))
    program = folder / ".guidellm"
    program.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        'spec = json.load(open(sys.argv[sys.argv.index("--config") + 1]))["spec"]\n'
        f'open(spec["outputs"][0]["path"], "w").write(open({str(folder / ".load.json")!r}).read())\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("TUNELINE_GUIDELLM", str(program))
    monkeypatch.setattr(judge_command, "find_provider", lambda name: Judge())
    monkeypatch.setattr("tuneline.cli.commands.evidence.start_server", served)
    monkeypatch.setattr(load_test, "find_only_model", lambda url: "demo")
    monkeypatch.setattr(load_test, "load_tools", lambda prepared: None)


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.stem)
def test_commands(world: Path, page: Path) -> None:
    for command in read_commands(page):
        if command.matches(OUTSIDE) or command.matches(LONG):
            refuse_missing_files(command)
            continue
        assert command.text.startswith("tuneline "), f"{page.name}: {command.text}: in no table of tests/doc_pages.py"
        words = shlex.split(command.text)[1:]
        prepare_for(words, world)
        done = CliRunner(env={"COLUMNS": "200"}).invoke(app, words)
        allowed = next((codes for name, codes in EXIT_CODES.items() if " ".join(words).startswith(name)), (0,))
        code = getattr(done.exception, "exit_code", done.exit_code)
        assert code in allowed, (page.name, command.text, done.output, done.exception)


def refuse_missing_files(command: Command) -> None:
    for file in re.findall(r"(?:configs|benchmarks|images|stages|requirements|examples)/[\w./-]+\.\w+", command.text):
        assert (ROOT / file).exists(), f"{command.page}: {command.text}: no {file}"


def prepare_for(words: list[str], world: Path) -> None:
    """Make what comes from outside of the commands: the fetched base, people's votes, a request in the log."""
    if words[0] == "init":  # a reader starts without this recipe
        Path(words[-1]).unlink(missing_ok=True)
    if words[:2] == ["keys", "add"]:
        CliRunner().invoke(app, ["keys", "revoke", words[2]])
    if words[0] != "plan" and words[-1].startswith("my-") and words[-1].endswith(".yaml"):
        extend_small(world / words[-1])
    if words[0] == "prepare":
        fetch(load_recipe(world / words[1]), world / ".runs" / Path(words[1]).stem)
    if words[0] == "ratings":
        (key,) = world.glob(".runs/*/ballot-*.key.json")
        ballot = json.loads(key.read_text())
        for file in words[1:]:
            rating = {
                "ballot": ballot["ballot"],
                "rater": Path(file).stem,
                "votes": dict.fromkeys(ballot["a_is_left"], "left"),
            }
            (world / file).write_text(json.dumps(rating))
    if words[0] == "rollback":  # a page may go back from its first version
        CliRunner().invoke(app, ["promote", "demo", "--as", words[1], "--override", "the version after it"])


def extend_small(recipe: Path) -> None:
    """Let a recipe of a page extend the small one beside it: the shipped one's base is not here."""
    text = recipe.read_text(encoding="utf-8").replace("extends: configs/recipes/", "extends: ")
    recipe.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: Path) -> None:
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    for block in read_yaml_blocks(page):
        settings = yaml.safe_load(block)
        if isinstance(settings, list):
            settings = {"data": {"sources": settings}}
        if set(settings) == {"tools"}:
            assert load_catalogue(tmp_path / "tools.yaml").names
        elif set(settings) <= set(Cloud.model_fields):
            Cloud.model_validate(settings)
        elif set(settings) <= set(Gateway.model_fields):
            Gateway.model_validate(settings)
        elif "as_of" not in settings and "models" not in settings:
            settings = {key: value for key, value in settings.items() if key != "extends"}
            settings["data"] = {"sources": [{"path": "rows.jsonl"}]} | settings.get("data", {})
            Recipe.model_validate({"name": "page"} | settings)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_recipes_that_extend_shipped_ones(world: Path, page: Path) -> None:
    for block in read_yaml_blocks(page):
        if "extends: configs/recipes/" in block:
            (world / "extending.yaml").write_text(block)
            plan = make_plan(load_recipe(world / "extending.yaml"), world / "no run")
            assert plan.training.rows.train and plan.line


FOREIGN_MESSAGES = (
    "command not found",  # the shell
    "ensurepip is not available",  # Python's venv
    "Token missing. Could not authenticate client",  # Modal's client
    "No such file or directory: '",
    "THESE PACKAGES DO NOT MATCH THE HASHES",  # pip
    "Hashes are required in --require-hashes mode",
    "Field 'n': Value must be between",  # llama-server
    "\\u00",
    "Permission denied",
)
"""Messages in docs/troubleshooting.md that are not ours."""


def test_messages_of_troubleshooting_are_in_the_code() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8").partition("## Limits of files")[0]
    quoted = [text for row in re.findall(r"^\| (`.+?) \| ", page, re.M) for text in re.findall(r"`([^`]+)`", row)]
    folders = ("cli", "configs", "core", "endpoints", "engines", "stages", "tests/ui", "volumes")
    messages = "\n".join(
        text for folder in folders for file in (ROOT / folder).rglob("*.py") for text in read_texts(file)
    )
    parts = [part.strip() for text in quoted for part in re.split(r"…|SIGKILL|; ", text)]
    missing = [part for part in parts if len(part) > 8 and part not in messages and not is_foreign(part)]
    assert missing == [] and len(quoted) > 40


def read_texts(file: Path) -> Iterator[str]:
    """Yield the texts of a module; of one with values in it, the parts between them."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value.replace("_", " ") if node.value.islower() and " " not in node.value else node.value


def is_foreign(part: str) -> bool:
    return part in COMMANDS_QUOTED or any(message in part for message in FOREIGN_MESSAGES)


COMMANDS_QUOTED = ("make setup", "make: command not found", "modal run", "…/app.py")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: no {target}"


def test_every_variable_is_in_the_settings() -> None:
    page = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    code = {
        variable
        for folder in (
            "benchmarks",
            "cli",
            "configs",
            "core",
            "endpoints",
            "engines",
            "publish",
            "stages",
            "tests/live",
            "volumes",
        )
        for file in (ROOT / folder).rglob("*.py")
        for variable in re.findall(r'"(TUNELINE_[A-Z_]+)"', file.read_text(encoding="utf-8"))
    }
    described = set(re.findall(r"`(TUNELINE_[A-Z_]+)`", page))
    assert code - described == set(), "not in docs/settings.md"
    assert described - code == set(), "docs/settings.md describes what no code reads"
