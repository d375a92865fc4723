"""Configurations of other trainers become recipes; every key that was not carried over is named, with its line."""

import contextlib
import json
from pathlib import Path

import pytest
import yaml

from tuneline.configs.recipe_file import load_recipe
from tuneline.core.errors import BadRequest
from tuneline.core.paths import ROOT
from tuneline.stages.exchange.migration import migrate

AXOLOTL = """\
base_model: acme/llama-8b
revision_of_model: 0123456789abcdef0123456789abcdef01234567
load_in_8bit: false
load_in_4bit: true
adapter: qlora
lora_r: 32
lora_alpha: 16
lora_target_modules: [q_proj, v_proj, gate_proj, up_proj, down_proj]
datasets:
  - path: rows.jsonl
    type: chat_template
    message_property_mappings: {role: from, content: value}
  - path: acme/stories
    type: completion
    field: story
chat_template: llama3
val_set_size: 0.05
micro_batch_size: 2
gradient_accumulation_steps: 4
learning_rate: 2e-4
optimizer: lion_pytorch
lr_scheduler: cosine
max_steps: 200
warmup_ratio: 0.1
neftune_noise_alpha: 5
wandb_project: mine
bf16: auto
plugins: [axolotl.integrations.liger.LigerPlugin]
special_tokens: {pad_token: <|end|>}
"""
LLAMA_FACTORY = """\
model_name_or_path: acme/llama-8b
stage: sft
do_train: true
finetuning_type: lora
lora_target: all
dataset_dir: sets
dataset: mine,theirs
template: llama3
gradient_accumulation_steps: 8
use_rslora: true
warmup_ratio: 0.1
deepspeed: z3.json
"""
DATASET_INFO = {
    "mine": {"file_name": "mine.json", "columns": {"prompt": "q", "response": "a"}},
    "theirs": {"hf_hub_url": "acme/chats", "formatting": "sharegpt"},
}


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_axolotls_settings_are_carried_and_the_rest_is_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"messages": []}\n')
    (tmp_path / "datasets/acme--stories").mkdir(parents=True)
    migration = migrate(write(tmp_path, "theirs.yml", AXOLOTL), tmp_path / "recipe.yaml")
    recipe = load_recipe(tmp_path / "recipe.yaml")
    train = recipe.train
    assert (recipe.base, recipe.revision) == ("acme/llama-8b", "0123456789abcdef0123456789abcdef01234567")
    assert (train.method, train.rank, train.alpha, train.batch_rows, train.learning_rate) == ("qlora", 32, 16, 8, 2e-4)
    assert (train.max_steps, train.warmup_steps) == (200, 20), "a tenth of the steps that are stated"
    rows, stories = recipe.data.sources
    assert rows.path == tmp_path / "rows.jsonl" and rows.format is None
    assert (stories.format, stories.learn, stories.columns) == ("text", "continuation", {"text": "story"})
    assert migration.downloads == [("acme/stories", "datasets/acme--stories")]
    lost = {(note.line, note.key) for note in migration.lost}
    assert lost == {(8, "lora_target_modules"), (16, "chat_template"), (21, "optimizer"), (25, "neftune_noise_alpha")}
    assert {note.key for note in migration.unneeded} == {
        *("load_in_4bit", "gradient_accumulation_steps", "wandb_project", "bf16", "plugins", "special_tokens")
    }


def test_llama_factorys_defaults_and_datasets_are_written_out(tmp_path: Path) -> None:
    write(tmp_path, "sets/dataset_info.json", json.dumps(DATASET_INFO))
    write(tmp_path, "sets/mine.json", "[]")
    migration = migrate(write(tmp_path, "theirs.yaml", LLAMA_FACTORY), tmp_path / "new/recipe.yaml")
    (tmp_path / "new/datasets/acme--chats").mkdir(parents=True)
    recipe = load_recipe(tmp_path / "new/recipe.yaml")
    train = recipe.train
    assert (train.rank, train.alpha, train.batch_rows, train.epochs, train.schedule) == (8, 16, 64, 3.0, "linear")
    mine, theirs = recipe.data.sources
    assert mine.path == tmp_path / "sets/mine.json" and mine.columns == {"instruction": "q", "output": "a"}
    assert theirs.path == tmp_path / "new/datasets/acme--chats"
    assert {(note.line, note.key) for note in migration.lost} == {
        *((8, "template"), (10, "use_rslora"), (11, "warmup_ratio"))
    }


def test_openais_job_and_rows_become_a_recipe(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": str(n)}, {"role": "assistant", "content": "x"}]} for n in range(3)
    ]
    write(tmp_path, "train.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    settings = {"n_epochs": 3, "batch_size": "auto", "learning_rate_multiplier": 1.8}
    job = {
        "model": "gpt-4.1-mini-2025-04-14",
        "training_file": "train.jsonl",
        "suffix": "my shop",
        "method": {"type": "supervised", "supervised": {"hyperparameters": settings}},
    }
    file = write(tmp_path, "job.json", json.dumps(job, indent=2))
    with pytest.raises(BadRequest, match="--base"):
        migrate(file, tmp_path / "recipe.yaml")
    migration = migrate(file, tmp_path / "recipe.yaml", "tiny")
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert (recipe.name, recipe.base, recipe.train.epochs) == ("my-shop", "tiny", 3)
    assert {(note.line, note.key) for note in migration.lost} == {(2, "model"), (5, "method")}
    assert "1.8" in migration.lost[0].text + migration.lost[1].text
    migrate(tmp_path / "train.jsonl", tmp_path / "rows-only.yaml", "tiny")
    assert load_recipe(tmp_path / "rows-only.yaml").data.sources[0].path == tmp_path / "train.jsonl"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (AXOLOTL + "rl: dpo\n", r":30: rl: dpo: it trains on preferences"),
        (AXOLOTL + "processor_type: AutoProcessor\n", "it trains on images"),
        (AXOLOTL.replace("lora_r: 32", "lora_r: many"), r"train\.rank: 'many'"),
        (AXOLOTL.replace("learning_rate: 2e-4", "learning_rate: fast"), "learning_rate: 'fast': not a number"),
        (AXOLOTL.partition("datasets:")[0] + "learning_rate: 1\n", "nothing to train on"),
        (LLAMA_FACTORY.replace("stage: sft", "stage: ppo"), ":2: stage: ppo"),
        (LLAMA_FACTORY.replace("dataset: mine,theirs\n", ""), "not the configuration of a training"),
        ("compute_environment: LOCAL_MACHINE\n", "looked for these keys: Axolotl: base_model"),
        ("- base_model\n", "a mapping of keys; this is list"),
        ("base_model: [\n", "not YAML"),
        ("training_file: file-abc\n", "its model is OpenAI's"),
    ],
)
def test_what_no_recipe_describes_is_refused_and_nothing_is_written(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=words):
        migrate(write(tmp_path, "theirs.yaml", text), tmp_path / "recipe.yaml")
    assert not (tmp_path / "recipe.yaml").exists()


def test_a_recipe_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("mine")
    with pytest.raises(BadRequest, match="exists already"):
        migrate(write(tmp_path, "theirs.yaml", AXOLOTL), tmp_path / "recipe.yaml")
    with pytest.raises(BadRequest, match="no such file"):
        migrate(tmp_path / "none.yaml", tmp_path / "new.yaml")
    assert (ROOT / "data/questions.jsonl").exists() and not (tmp_path / "new.yaml").exists()


SMALL = {
    "axolotl": {"base_model": "a/b", "adapter": "lora", "learning_rate": 1e-4, "datasets": [{"path": "x/y"}]},
    "llama-factory": {"model_name_or_path": "a/b", "stage": "sft", "dataset": "alpaca", "finetuning_type": "lora"},
    "openai": {"training_file": "rows.jsonl", "model": "gpt"},
}
ODD_KEYS = {
    "axolotl": ("base_model", "cosine_min_lr_ratio", "datasets", "lora_modules_to_save", "plugins", "test_datasets",
                "chat_template_jinja", "lora_target_modules"),
    "llama-factory": ("dataset", "dataset_dir", "eval_dataset", "lora_rank", "lora_alpha", "model_name_or_path"),
    "openai": ("training_file", "validation_file", "suffix", "hyperparameters"),
}  # fmt: skip
ODD_VALUES = [
    5,
    "x",
    "x" * 5000,
    "a\0b",
    [1],
    [None],
    {"a": 1},
    [{"path": "x" * 5000}],
    [{"path": "a", "type": 5}],
    True,
]


@pytest.mark.parametrize("trainer", SMALL)
def test_values_that_are_none_of_a_trainers_are_named(trainer: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    base = "a/b" if trainer == "openai" else None
    for number, (key, value) in enumerate((key, value) for key in ODD_KEYS[trainer] for value in ODD_VALUES):
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(SMALL[trainer] | {key: value}))
        with contextlib.suppress(BadRequest):
            migrate(tmp_path / "c.yaml", tmp_path / f"{number}.yaml", base)


def test_an_expression_of_a_configuration_takes_no_years(tmp_path: Path) -> None:
    patterns = {r".*\.(q|v)_proj": ["attention"], "([a-z_.0-9]+)+[a-z_.0-9]+x!": None, "(": None}
    for number, (pattern, targets) in enumerate(patterns.items()):
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(SMALL["axolotl"] | {"lora_target_modules": pattern}))
        migration = migrate(tmp_path / "c.yaml", tmp_path / f"{number}.yaml")
        assert migration.recipe["train"].get("targets") == targets
