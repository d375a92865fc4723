"""Recipes for other trainers: their own packages read what is written, and it is what Tuneline trains on.

Axolotl, LLaMA-Factory, Together and Unsloth have an environment of their own, which `make test-all` makes.
"""

import ast
import json
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml
from openai.types.chat import ChatCompletionFunctionToolParam, ChatCompletionMessageParam
from openai.types.fine_tuning.job_create_params import JobCreateParams
from pydantic import TypeAdapter

from tests.environments import TRAINERS
from tuneline.configs.recipe import Recipe
from tuneline.configs.recipe_file import load_recipe
from tuneline.core.errors import BadRequest
from tuneline.core.paths import ROOT
from tuneline.stages.exchange.export import export_run, refuse_unexportable
from tuneline.stages.exchange.migration import migrate
from tuneline.stages.fetch import fetch
from tuneline.stages.prepare import prepare
from tuneline.stages.prepare.prepared_run import load_tools, read_prepared
from tuneline.stages.prepare.rendering.renderer import Rendered, Renderer
from tuneline.stages.prepare.rows import Row

OPENAI_MODEL = "gpt-4.1-mini-2025-04-14"
READERS = ROOT / "tests/clients"


def write_rows(folder: Path) -> Path:
    """Conversations of several turns, of which one has an answer that is kept out of the loss."""
    rows = []
    for n in range(24):
        weight = {"weight": 0} if n % 5 == 4 else {}
        turns = [("user", f"Ana has {n} figs?", {}), ("assistant", f"Yes, {n}.", weight), ("user", "Twice?", {})]
        turns += [("assistant", f"{2 * n} figs.", {})]
        chat = [{"role": "system", "content": "You count."}]
        chat += [{"role": role, "content": text} | more for role, text, more in turns]
        rows.append({"messages": chat})
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared run of conversations and tool calls on the tiny base."""
    folder = tmp_path_factory.mktemp("exports")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNELINE_MODELS", str(folder / "models"))
        fetch(recipe(folder), folder / "run")
        prepare(recipe(folder), folder / "run")
    return folder / "run"


@pytest.fixture(autouse=True)
def models(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELINE_MODELS", str(run.parent / "models"))


def recipe(folder: Path, **train: Any) -> Recipe:
    rows = folder / "rows.jsonl"
    sources = [{"path": rows if rows.exists() else write_rows(folder)}]
    sources.append({"grammar": ROOT / "data/requests/train.yaml", "rows": 24})
    data = {"sources": sources, "tools": ROOT / "configs/tools/business.yaml", "validation_rows": 6, "max_tokens": 900}
    return Recipe.model_validate({"name": "figs", "data": data, "train": {"method": "lora"} | train})


def read_rows(run: Path, split: str = "train") -> list[Row]:
    return read_prepared(run / f"prepare/{split}.jsonl")


def render(run: Path, rows: list[Row]) -> list[Rendered]:
    [base] = (run.parent / "models").glob("tiny@*")
    return list(Renderer(base, load_tools(run / "prepare"), run / "prepare/chat_template.jinja").batch(rows))


def read_lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


SETTINGS = {
    "defaults": {},
    "lora": {"rank": 8, "alpha": 24, "dropout": 0.05, "targets": ["attention"], "max_steps": 7, "batch_rows": 12},
    "qlora": {"method": "qlora", "lora_plus": 4.0, "schedule": "linear", "patience": 2, "keep": "best", "seed": 3},
    "full": {"method": "full", "epochs": 2.0, "final_learning_rate": 1e-5, "packing": True, "weight_decay": 0.1},
    "saved": {"modules_to_save": ["embeddings", "head"], "warmup_steps": 5, "save_steps": 9, "evaluate_steps": 3},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("trainer", ["axolotl", "llamafactory"])
def test_a_recipe_comes_back_as_it_was(run: Path, trainer: str, settings: dict[str, Any], tmp_path: Path) -> None:
    before = recipe(run.parent, **settings)
    export_run(before, run, trainer, tmp_path / "out")
    migration = migrate(tmp_path / f"out/{trainer}.yaml", tmp_path / "back.yaml")
    after = load_recipe(tmp_path / "back.yaml")
    assert not migration.lost
    unused = {"rank": 16, "alpha": 32, "targets": ("attention", "mlp")} if before.train.method == "full" else {}
    assert after.train.model_dump() == before.train.model_dump() | unused
    assert after.data.max_tokens == 900
    [source], validation = after.data.sources, after.data.validation
    assert source.path == tmp_path / "out/train.jsonl" and validation
    assert validation.path == tmp_path / "out/validation.jsonl"


def test_openais_rows_and_job_are_of_its_own_types(run: Path, tmp_path: Path) -> None:
    export = export_run(recipe(run.parent, epochs=2.5), run, "openai", tmp_path / "out", OPENAI_MODEL)
    rows = read_lines(tmp_path / "out/train.jsonl")
    assert len(rows) == len(read_rows(run))
    messages, tools = TypeAdapter(ChatCompletionMessageParam), TypeAdapter(ChatCompletionFunctionToolParam)
    calls = 0
    for row in rows:
        assert row.keys() <= {"messages", "tools"}
        for message in row["messages"]:
            messages.validate_python(message)
            for call in message.get("tool_calls", ()):
                json.loads(call["function"]["arguments"])
                calls += 1
        for tool in row.get("tools", ()):
            tools.validate_python(tool)
    assert calls > 10
    assert sum(message.get("weight") == 0 for row in rows for message in row["messages"]) >= 2
    job = json.loads((tmp_path / "out/job.json").read_text())
    assert TypeAdapter(JobCreateParams).validate_python(job)["model"] == OPENAI_MODEL
    assert "train.epochs: 2.5: whole epochs only: 2" in export.notes
    migration = migrate(tmp_path / "out/job.json", tmp_path / "back.yaml", "tiny")
    assert [note.key for note in migration.lost] == ["model"]
    assert load_recipe(tmp_path / "back.yaml").train.batch_rows == 32


def test_unsloths_rows_are_the_tokens_and_the_loss_of_tuneline(run: Path, tmp_path: Path) -> None:
    export_run(recipe(run.parent), run, "unsloth", tmp_path / "out")
    rows, expected = read_lines(tmp_path / "out/train.jsonl"), render(run, read_rows(run))
    assert [row["input_ids"] for row in rows] == [one.ids for one in expected]
    assert [[int(label != -100) for label in row["labels"]] for row in rows] == [one.mask for one in expected]
    compile((tmp_path / "out/train.py").read_text(), "train.py", "exec")


def test_what_a_trainer_has_no_words_for_is_said_or_refused(run: Path, tmp_path: Path) -> None:
    for trainer, words in {
        "axolotl2": "known: axolotl",
        "openai": "--model gpt",
        "together": "is not on the hub",
    }.items():
        with pytest.raises(BadRequest, match=words):
            refuse_unexportable(recipe(run.parent), trainer, None)
    with pytest.raises(BadRequest, match="the script for Unsloth trains adapters"):
        export_run(recipe(run.parent, method="full"), run, "unsloth", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "used").mkdir()
    (tmp_path / "used/mine").touch()
    with pytest.raises(BadRequest, match="not an empty folder"):
        export_run(recipe(run.parent), run, "axolotl", tmp_path / "used")
    notes = export_run(recipe(run.parent), run, "llamafactory", tmp_path / "lf").notes
    rows = [*read_rows(run), *read_rows(run, "validation")]
    left_out = sum(any(message.weight == 0 for message in row.messages) for row in rows)
    assert left_out and f"{left_out} rows left out: an answer is kept out of the loss, which" in notes[0]


@pytest.fixture(scope="module")
def other_python() -> str:
    if TRAINERS not in os.environ:
        pytest.skip(f"{TRAINERS} does not name a Python with the other trainers: make test-all")
    return os.environ[TRAINERS]


def ask(python: str, script: Path | str, *words: object) -> Any:
    """Return what a script prints after RESULT, run with the other trainers' packages before ours."""
    command = [python, *(["-c", script] if isinstance(script, str) else [str(script)]), *map(str, words)]
    environment = os.environ | {"PYTHONPATH": sysconfig.get_paths()["purelib"], "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert results, done.stdout[-1000:] + done.stderr[-3000:]
    return json.loads(results[0].removeprefix("RESULT"))


def test_axolotl_trains_on_the_same_tokens_and_loss(run: Path, other_python: str, tmp_path: Path) -> None:
    export_run(recipe(run.parent, final_learning_rate=1e-5, patience=2), run, "axolotl", tmp_path / "out")
    read = ask(other_python, READERS / "axolotl_reader.py", tmp_path / "out")
    assert read["unknown"] == []
    expected = render(run, read_rows(run))
    assert read["rows"] == [[row.ids, row.mask] for row in expected]


def test_llama_factory_takes_the_settings_and_every_row(run: Path, other_python: str, tmp_path: Path) -> None:
    export_run(recipe(run.parent, rank=8, final_learning_rate=1e-5), run, "llamafactory", tmp_path / "out")
    read = ask(other_python, READERS / "llamafactory_reader.py", tmp_path / "out", tmp_path / "trained")
    assert read["rank"] == 8
    written = {split: len(read_lines(tmp_path / f"out/{split}.jsonl")) for split in ("train", "validation")}
    assert {"train": len(read["rows"]), "validation": read["evaluated"]} == written
    assert all(sum(mask) > 0 for _, mask in read["rows"])


def test_together_takes_the_file_and_the_job(run: Path, other_python: str, tmp_path: Path) -> None:
    export_run(recipe(run.parent), run, "together", tmp_path / "out", "meta-llama/Meta-Llama-3.1-8B-Instruct-Reference")
    script = (
        "import inspect, json, sys; from together import Together\n"
        "from together.lib.utils.files import check_file\n"
        "names = sorted(inspect.signature(Together(api_key='x').fine_tuning.create).parameters)\n"
        "print('RESULT' + json.dumps([check_file(sys.argv[1]), names]))"
    )
    report, names = ask(other_python, script, tmp_path / "out/train.jsonl")
    assert report["is_check_passed"], report
    assert report["num_samples"] == len(read_rows(run))
    assert json.loads((tmp_path / "out/job.json").read_text()).keys() <= set(names)


def test_unsloth_knows_every_argument_of_the_script(run: Path, other_python: str, tmp_path: Path) -> None:
    """It does not import without a GPU: its signatures are read from its source."""
    export_run(recipe(run.parent), run, "unsloth", tmp_path / "out")
    settings = json.loads((tmp_path / "out/settings.json").read_text())
    [package] = Path(other_python).parents[1].glob("lib/python3.*/site-packages/unsloth")
    for file, function, call in (("loader", "from_pretrained", "model"), ("llama", "get_peft_model", "adapter")):
        tree = ast.parse((package / f"models/{file}.py").read_text(encoding="utf-8"))
        nodes = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == function)
        assert settings[call].keys() <= {argument.arg for argument in next(nodes).args.args}


def test_a_config_is_yaml_that_names_its_files(run: Path, tmp_path: Path) -> None:
    export_run(recipe(run.parent).model_copy(update={"template": "hermes"}), run, "axolotl", tmp_path / "out")
    config = yaml.safe_load((tmp_path / "out/axolotl.yaml").read_text())
    for entry in (*config["datasets"], *config["test_datasets"]):
        assert (tmp_path / "out" / entry["path"]).is_file()
