"""Readers of files that users bring, each with a whole sample and the call that reads it: YAML files and data.

`tests/unit/test_bad_files.py` walks this list with damaged files.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.bad_files import samples
from tests.bad_files.damage import BYTES, JSON, TEXT, Damage, damage_header
from tuneline.configs import cloud, gateway, hardware, hosts
from tuneline.configs.catalogue import load_catalogue
from tuneline.configs.data import Data, Source
from tuneline.configs.evaluation import Suite
from tuneline.configs.recipe import recipe_of
from tuneline.configs.recipe_file import load_recipe
from tuneline.core.errors import BadData
from tuneline.core.ledger import read_ledger
from tuneline.core.paths import ROOT
from tuneline.endpoints import keys, promotion
from tuneline.endpoints.batch import read_prompts
from tuneline.endpoints.score_history import read_score_history
from tuneline.publish.record import read_published
from tuneline.stages.checkpoints.buffers import BufferPool
from tuneline.stages.checkpoints.lora_adapter import Adapter
from tuneline.stages.checkpoints.safetensors_files import list_model_tensors
from tuneline.stages.evaluate.scoring.llm_judge import read_labels
from tuneline.stages.evaluate.suites.suite_items import make_items
from tuneline.stages.evaluate.verdicts.ratings import read_ratings
from tuneline.stages.exchange import adapter_folder, migration
from tuneline.stages.fetch.model_files import refuse_unusable
from tuneline.stages.plan import make_plan
from tuneline.stages.prepare.checks.problems import Problem
from tuneline.stages.prepare.checks.text_checks import repair_text
from tuneline.stages.prepare.examination import Examination
from tuneline.stages.prepare.formats.containers import read_records
from tuneline.stages.prepare.rendering.renderer import Renderer
from tuneline.stages.prepare.rows import Row
from tuneline.stages.prepare.synthesis.grammar import generate_requests, load_grammar
from tuneline.stages.runs.failures import read_failure

PLAIN = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".md")
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


def read_data(name: str, folder: Path) -> None:
    """Read a data file as `validate` and as `prepare` with `data.personal: mask` do."""
    source = Source(path=folder / name, style="plain" if name.startswith("book") else None)
    for repair in (None, repair_text):
        for _ in Examination(Data(sources=(source,)), load_catalogue(CATALOGUE), None, repair=repair).rows():
            pass


def read_problems(name: str, folder: Path) -> None:
    """Read a data file and raise the problems of reading it as one error."""
    if problems := [record for record in read_records(folder / name) if isinstance(record, Problem)]:
        raise BadData("\n".join(map(str, problems)))


def read_base(folder: Path) -> None:
    """Check a base folder and render a row with its template, as `fetch` and `prepare` do."""
    refuse_unusable(folder)
    renderer = Renderer(folder, load_catalogue(CATALOGUE))
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "answer"}]
    row = Row.model_validate({"messages": turns})
    renderer.measure([row.model_dump_json(exclude_none=True).encode()])


def read_adapter(folder: Path) -> None:
    """Check an adapter and merge it, as `convert` does."""
    import torch

    adapter, tensors = Adapter(folder), list_model_tensors(samples.TINY)
    adapter.check_base(tensors, tied=True)
    for tensor in (tensor for tensor in tensors if tensor.name in adapter.weight_names):
        zeros = torch.zeros(tensor.rows, tensor.columns)
        adapter.merge_rows(tensor.name, zeros, 0, tensor.rows, BufferPool(), torch.float32)


def read_migration(name: str, folder: Path) -> None:
    """Read another trainer's configuration as `migrate` does, without writing the recipe."""
    trainer, read = migration.read_configuration(folder / name, None)
    migration.TRAINERS[trainer][1](read)
    migration.check(read)


def suite_files(first: str) -> Files:
    files = {"suite.yaml": samples.SUITE, "grammar.yaml": samples.GRAMMAR}
    return (
        {first: files[first]} | files | {"recipe.yaml": samples.RECIPE_WITH_SUITE, "rows.jsonl": samples.json_lines()}
    )


def tool_files() -> Files:
    return {"tools.yaml": CATALOGUE.read_bytes(), "rows.jsonl": samples.json_lines()}


CONFIGS, CHECKPOINTS = "tuneline.configs", "tuneline.stages.checkpoints"
RECIPE = ROOT / "configs/recipes/demo.yaml"
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
    "hosts.yaml": Reader(
        lambda: {"hosts.yaml": hosts.FILE.read_bytes()},
        lambda folder: hosts.read_hosts(folder / "hosts.yaml"),
        TEXT,
        (f"{CONFIGS}.hosts",),
    ),
    "gateway.yaml": Reader(
        lambda: {"gateway.yaml": gateway.FILE.read_bytes()},
        lambda folder: gateway.read_gateway(folder / "gateway.yaml"),
        TEXT,
        (f"{CONFIGS}.gateway",),
    ),
    "cloud.yaml": Reader(
        lambda: {"cloud.yaml": cloud.FILE.read_bytes()},
        lambda folder: cloud.cloud.__wrapped__(folder / "cloud.yaml"),
        TEXT,
        (f"{CONFIGS}.cloud",),
    ),
}
"""By the name of the file that is damaged."""
STATE_READERS = {
    "policy/keys.json": Reader(
        lambda: {"policy/keys.json": samples.keys()}, lambda _: keys.list_owners(), JSON, ("tuneline.endpoints.keys",)
    ),
    "policy/models/demo.json": Reader(
        lambda: {"policy/models/demo.json": samples.promotion()},
        lambda _: promotion.read_promotions(),
        JSON,
        ("tuneline.endpoints.promotion",),
    ),
    "published.json": Reader(
        lambda: {"published.json": samples.published()}, read_published, JSON, ("tuneline.publish.record",)
    ),
    "recipe.json": Reader(
        lambda: {"recipe.json": load_recipe(RECIPE).model_dump_json().encode()},
        recipe_of,
        JSON,
        (f"{CONFIGS}.recipe",),
    ),
}
"""Files that Tuneline itself writes, by the name of the one that is damaged."""
STATE_READERS |= {
    name: Reader(
        partial(samples.adapter, name),
        read_adapter,
        kinds,
        (f"{CHECKPOINTS}.lora_settings", f"{CHECKPOINTS}.lora_adapter", f"{CHECKPOINTS}.safetensors_files"),
    )
    for name, kinds in {"adapter_config.json": JSON, "adapter_model.safetensors": (damage_header, *BYTES)}.items()
}
READERS["prompts.jsonl"] = Reader(
    lambda: {"prompts.jsonl": samples.prompts()},
    lambda folder: read_prompts(folder / "prompts.jsonl", "m"),
    JSON,
    ("tuneline.endpoints.batch",),
)
READERS["rating.json"] = Reader(
    samples.rating,
    lambda folder: read_ratings([folder / "rating.json"]),
    JSON,
    ("tuneline.stages.evaluate.verdicts.ratings",),
)
READERS["labels.jsonl"] = Reader(
    lambda: {"labels.jsonl": samples.labels()},
    lambda folder: read_labels(folder / "labels.jsonl"),
    JSON,
    ("tuneline.stages.evaluate.scoring.llm_judge",),
)
READERS |= {
    name: Reader(
        partial(samples.base, name),
        read_base,
        kinds,
        ("tuneline.stages.fetch.base_checks", "tuneline.stages.fetch.base_weights", f"{DATA}.rendering.chat_templates"),
        quick=20,
    )
    for name, kinds in {
        **dict.fromkeys(("config.json", "tokenizer_config.json", "model.safetensors.index.json"), JSON),
        "tokenizer.json": BYTES,
        "chat_template.jinja": TEXT,
        "model.safetensors": (damage_header, *BYTES),
    }.items()
}
READERS |= {
    name: Reader(
        partial(lambda name, content: {name: content}, name, content),
        partial(read_data, name),
        (JSON if ".json" in name else TEXT) if name.endswith(PLAIN) else BYTES,
        tuple(
            f"{DATA}.formats.{name}" for name in ("containers", "compressed_files", "json_files", "tables", "reader")
        ),
        quick=40,
    )
    for name, content in samples.data_files().items()
}
EXCHANGE = "tuneline.stages.exchange"
READERS |= {
    name: Reader(
        partial(lambda name, content: {name: content}, name, content),
        partial(read_migration, name),
        TEXT,
        (f"{EXCHANGE}.migration", f"{EXCHANGE}.migration.axolotl", f"{EXCHANGE}.migration.llama_factory"),
    )
    for name, content in samples.TRAINERS.items()
}
READERS["a foreign adapter_config.json"] = Reader(
    partial(samples.adapter, "adapter_config.json"),
    adapter_folder.read_adapter,
    JSON,
    (f"{EXCHANGE}.adapter_folder",),
)
STATE_READERS |= {
    name: Reader(partial(lambda name, content: {name: content}, name, content), read, JSON, (module,))
    for name, content, read, module in (
        (".ledger/demo.jsonl", samples.LEDGER, read_ledger, "tuneline.core.ledger"),
        ("router/1.json", samples.SCORES, read_score_history, "tuneline.endpoints.score_history"),
        ("failure.json", samples.FAILURE, read_failure, "tuneline.stages.runs.failures"),
    )
}
