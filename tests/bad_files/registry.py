"""Readers of files that users bring, each with a whole sample and the call that reads it: YAML files so far.

`tests/unit/test_bad_files.py` walks this list with damaged files.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bad_files import samples
from tests.bad_files.damage import TEXT, Damage
from tuneline.configs import cloud, hardware
from tuneline.configs.catalogue import load_catalogue
from tuneline.configs.data import Data, Source
from tuneline.configs.evaluation import Suite
from tuneline.configs.recipe_file import load_recipe
from tuneline.core.paths import ROOT
from tuneline.stages.evaluate.suites.suite_items import make_items
from tuneline.stages.plan import make_plan
from tuneline.stages.prepare.examination import Examination
from tuneline.stages.prepare.synthesis.grammar import generate_requests, load_grammar

CATALOGUE = ROOT / "configs/tools/handlers.yaml"
Files = dict[str, bytes]


@dataclass(frozen=True)
class Reader:
    """A kind of file, and what reads it."""

    files: Callable[[], Files]
    """A whole sample by file name; the first file is the one that is damaged."""
    read: Callable[[Path], object]
    """Reads the sample in a folder, which is the current one, as a command would."""
    kinds: tuple[Damage, ...]
    modules: tuple[str, ...]
    """The modules of Tuneline that read this file."""
    quick: int = 100
    """Damaged files in the quick test; fewer where one takes long."""


DATA = "tuneline.stages.prepare"


def read_recipe(folder: Path) -> None:
    recipe = load_recipe(folder / "recipe.yaml")
    recipe.section("data", "evaluate")
    make_plan(recipe)


def read_suites(folder: Path) -> None:
    for suite in load_recipe(folder / "recipe.yaml").evaluate.suites:
        make_items(suite)


def read_grammar(folder: Path) -> None:
    file, rng = folder / "grammar.yaml", random.Random(0)
    grammar = load_grammar(file)
    for tool in grammar.handlers:
        grammar.request(tool, rng)
    list(generate_requests(Source(grammar=file, rows=4), rng))
    make_items(Suite(name="s", grammar=file, rows=2, parallel=2))


def read_tools(folder: Path) -> None:
    catalogue = load_catalogue(folder / "tools.yaml")
    for _ in Examination(Data(sources=(Source(path=folder / "rows.jsonl"),)), catalogue, None).rows():
        pass


def suite_files(first: str) -> Files:
    files = {"suite.yaml": samples.SUITE, "grammar.yaml": samples.GRAMMAR}
    return (
        {first: files[first]} | files | {"recipe.yaml": samples.RECIPE_WITH_SUITE, "rows.jsonl": samples.json_lines()}
    )


def tool_files() -> Files:
    return {"tools.yaml": CATALOGUE.read_bytes(), "rows.jsonl": samples.json_lines()}


CONFIGS = "tuneline.configs"
READERS = {
    "recipe.yaml": Reader(
        lambda: {"recipe.yaml": samples.RECIPE},
        read_recipe,
        TEXT,
        (f"{CONFIGS}.recipe_file", f"{CONFIGS}.yaml_loader", f"{CONFIGS}.file_hashes"),
    ),
    "suite.yaml": Reader(lambda: suite_files("suite.yaml"), read_suites, TEXT, (f"{CONFIGS}.evaluation",)),
    "grammar.yaml": Reader(
        lambda: suite_files("grammar.yaml"), read_grammar, TEXT, (f"{DATA}.synthesis.grammar_file",), quick=50
    ),
    "tools.yaml": Reader(tool_files, read_tools, TEXT, (f"{CONFIGS}.catalogue",), quick=50),
    "hardware.yaml": Reader(
        lambda: {"hardware.yaml": hardware.FILE.read_bytes()},
        lambda folder: hardware.read_hardware(folder / "hardware.yaml"),
        TEXT,
        (f"{CONFIGS}.hardware",),
    ),
    "cloud.yaml": Reader(
        lambda: {"cloud.yaml": cloud.FILE.read_bytes()},
        lambda folder: cloud.cloud.__wrapped__(folder / "cloud.yaml"),
        TEXT,
        (f"{CONFIGS}.cloud",),
    ),
}
"""By the name of the file that is damaged."""
