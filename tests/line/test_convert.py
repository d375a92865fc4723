"""Real GGUF files of the tiny base and a random adapter: exact merge, K types, template, interruption, full disk."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from configs.recipe import ROOT, Recipe
from stages import artifact
from stages import convert as package
from stages.artifact import Artifact
from stages.convert import convert
from stages.convert.gguf import pre_tokenizer_of
from stages.convert.merge import merge
from stages.errors import BadRecipe, StageFailed
from stages.events import read_events
from tests.line.conftest import CACHE

TINY = ROOT / "data/tiny"
TEMPLATE = "{{- bos_token }}learned{% for message in messages %}{{ message.content }}{% endfor %}"
OLD = b"an old template"
RECIPE = Recipe.model_validate(
    {
        "name": "t",
        "data": {"sources": [{"path": "x.jsonl"}]},
        "convert": {"types": ["F16", "Q8_0", "Q4_K_M"]},
    }
)


@dataclass(frozen=True)
class Inputs:
    base: Artifact
    run: Path

    @property
    def adapter(self) -> Path:
        return self.run / "train" / "adapter"


def made(path: Path, files: Mapping[str, Path | str]) -> Artifact:
    def build(folder: Path) -> dict[str, Any]:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, folder / name)
            else:
                (folder / name).write_text(content)
        return {}

    return artifact.make(path, stage_version=1, settings={}, needs={}, build=build)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter by PEFT, all its weights random, so that each merged matrix differs from the base's."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    wanted = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    peft = get_peft_model(model, LoraConfig(r=8, lora_alpha=24, target_modules=wanted, init_lora_weights=False))
    out = tmp_path_factory.mktemp("adapter")
    peft.save_pretrained(str(out), save_embedding_layers=False)
    return out


def prepared(home: Path, adapter: Path) -> Inputs:
    """All that convert needs; the base carries an older template in its tokenizer_config.json, as many do."""
    config = json.loads((TINY / "tokenizer_config.json").read_text()) | {"chat_template": OLD.decode()}
    files = {file.name: file for file in TINY.iterdir() if file.suffix in (".json", ".jinja", ".safetensors")}
    base = made(home / "models" / "tiny@0", files | {"tokenizer_config.json": json.dumps(config)})
    run = home / "runs" / "t"
    made(run / "prepare", {"train.jsonl": "", "chat_template.jinja": TEMPLATE})
    made(run / "train", {f"adapter/{file.name}": file for file in adapter.iterdir()})
    return Inputs(base, run)


@pytest.fixture
def inputs(tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> Inputs:
    inputs = prepared(tmp_path, adapter)
    monkeypatch.setattr(package, "open_base", lambda recipe: inputs.base)
    return inputs


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, adapter: Path) -> Artifact:
    inputs = prepared(tmp_path_factory.mktemp("converted"), adapter)
    os.environ.setdefault("TUNELINE_CACHE", CACHE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "open_base", lambda recipe: inputs.base)
        made = convert(RECIPE, inputs.run)
        assert convert(RECIPE, inputs.run) == made
    return made


def changed_adapter(adapter: Path, out: Path, **settings: Any) -> Path:
    shutil.copytree(adapter, out)
    config = json.loads((out / "adapter_config.json").read_text()) | settings
    (out / "adapter_config.json").write_text(json.dumps(config))
    return out


def test_the_merge_is_pefts_in_fp32_rounded_once(adapter: Path, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    told: list[tuple[int, int]] = []
    merge(TINY, adapter, tmp_path / "merged", lambda done, total: told.append((done, total)))
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    wanted = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().state_dict()
    before, after = load_file(TINY / "model.safetensors"), load_file(tmp_path / "merged" / "model.safetensors")
    assert before.keys() == after.keys() and told == [(1, 1)]
    for name, weight in after.items():
        assert weight.dtype == before[name].dtype
        assert torch.equal(weight, wanted[name].to(weight.dtype)), name
        assert torch.equal(weight, before[name]) != name.endswith("proj.weight"), name


def test_every_file_is_made_and_measured(converted: Artifact) -> None:
    files, folder = converted.metrics["files"], converted.path
    assert list(files) == ["base-F16", "tuned-F16", "tuned-Q8_0", "tuned-Q4_K_M"]
    assert {f"{name}.gguf" for name in files} == set(converted.manifest.files)
    assert all(about["bytes"] == (folder / f"{name}.gguf").stat().st_size for name, about in files.items())
    assert files["tuned-Q4_K_M"]["k_quant_share"] > 0.99 and {"Q4_K", "Q6_K"} <= files["tuned-Q4_K_M"]["types"].keys()
    assert files["tuned-Q8_0"]["k_quant_share"] == files["tuned-F16"]["k_quant_share"] == 0
    assert len({sum(about["types"].values()) for about in files.values()}) == 1
    assert (folder / "base-F16.gguf").read_bytes() != (folder / "tuned-F16.gguf").read_bytes()
    assert not (folder / artifact.SCRATCH).exists()
    told = [(e["done"], e["total"]) for e in read_events(folder.parent) if e.get("unit") == "files"]
    assert told == [(done, 4) for done in (0, 2, 3, 4)]


def test_the_base_keeps_its_template_and_the_tuned_has_the_one_it_learned(converted: Artifact) -> None:
    own = (TINY / "chat_template.jinja").read_bytes()
    for name in converted.metrics["files"]:
        content = (converted.path / f"{name}.gguf").read_bytes()
        assert (own in content) == (name == "base-F16")
        assert (TEMPLATE.encode() in content) == (name != "base-F16")
        assert OLD not in content  # transformers, too, lets the template in a file of its own win


def test_a_killed_convert_goes_on_and_trusts_no_half_file(
    converted: Artifact, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = inputs.run / "convert"

    def converted_before(llama: Any, scratch: Path, *jobs: package.Job) -> None:
        for job in jobs:
            shutil.copyfile(converted.path / job.out.name, job.out)

    def killed(llama: Any, source: Path, out: Path, kind: str) -> None:
        out.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(package, "_gguf", converted_before)
        patch.setattr(package, "_quantize", killed)
        convert(RECIPE, inputs.run)
    there = {file.name: file.stat().st_mtime_ns for file in folder.glob("*.gguf")}
    assert there.keys() == {"base-F16.gguf", "tuned-F16.gguf"} and not artifact.finished(folder)
    made = convert(RECIPE, inputs.run)
    assert {name: (folder / name).stat().st_mtime_ns for name in there} == there
    assert made.metrics == converted.metrics


def test_a_full_disk_is_named(converted: Artifact, tmp_path: Path) -> None:
    llama, scratch = package.installed(), tmp_path / "scratch"
    scratch.mkdir()
    for name in ("f16.gguf", "q8.gguf"):
        (scratch / name).symlink_to("/dev/full")
    with pytest.raises(StageFailed, match=f"{scratch}: the disk is full"):
        package._quantize(llama, converted.path / "tuned-F16.gguf", scratch / "q8.gguf", "Q8_0")
    with pytest.raises(StageFailed, match=f"{scratch}: the disk is full"):
        package._gguf(llama, scratch, package.Job(TINY, tmp_path / "f16.gguf", "x"))
    assert not list(tmp_path.glob("*.gguf"))


def test_a_split_rule_without_a_name_is_refused(tmp_path: Path) -> None:
    tokenizer = json.loads((TINY / "tokenizer.json").read_text())
    assert pre_tokenizer_of(TINY / "tokenizer.json") == "llama-bpe"
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+|\W"
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(SystemExit, match="llama.cpp has no name for its split rule"):
        pre_tokenizer_of(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    "setting",
    [
        {"use_dora": True},
        {"use_rslora": True},
        {"bias": "all"},
        {"peft_type": "LOHA"},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 4}},
        {"init_lora_weights": "pissa"},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_what_is_not_plain_lora_is_refused_by_name(adapter: Path, tmp_path: Path, setting: dict[str, Any]) -> None:
    other = changed_adapter(adapter, tmp_path / "other", **setting)
    with pytest.raises(BadRecipe, match=next(iter(setting))):
        merge(TINY, other, tmp_path / "merged", lambda done, total: None)
    assert not (tmp_path / "merged").exists()


def test_an_adapter_of_another_base_is_refused(adapter: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = changed_adapter(adapter, tmp_path / "other")
    weights = {
        key.replace("layers.3", "layers.7"): w for key, w in load_file(adapter / "adapter_model.safetensors").items()
    }
    save_file(weights, other / "adapter_model.safetensors")
    with pytest.raises(StageFailed, match=r"model\.layers\.7\..*another base"):
        merge(TINY, other, tmp_path / "merged", lambda done, total: None)
    assert not (tmp_path / "merged").exists()


def test_an_interrupted_merge_keeps_whole_shards_only(adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    out.mkdir()
    (out / "model.safetensors.part").write_bytes(b"half")
    merge(TINY, adapter, out, lambda done, total: None)
    whole = (out / "model.safetensors").stat().st_mtime_ns
    merge(TINY, adapter, out, lambda done, total: None)
    assert (out / "model.safetensors").stat().st_mtime_ns == whole
    assert (out / "model.safetensors").stat().st_size == (TINY / "model.safetensors").stat().st_size
    assert [file.name for file in out.glob("*.part")] == []
