"""The merge of an adapter: PEFT's to the bit, resumed, and refused where it would not be exact."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.random_adapter import TINY, changed_adapter, save_random_adapter
from tuneline.core.errors import BadRecipe, StageFailed
from tuneline.stages.convert.onepass import stream
from tuneline.stages.convert.onepass.merged_checkpoint import merge_adapter


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_adapter(tmp_path_factory.mktemp("adapter"))


def test_the_merge_is_pefts_in_fp32_rounded_once(adapter: Path, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    told: list[tuple[int, int]] = []
    merge_adapter(TINY, adapter, tmp_path / "merged", lambda done, total: told.append((done, total)))
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    wanted = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().state_dict()
    before, after = load_file(TINY / "model.safetensors"), load_file(tmp_path / "merged" / "model.safetensors")
    assert before.keys() == after.keys()
    assert told == sorted(told) and told[0][0] == 0 and told[-1][0] == told[-1][1]
    for name, weight in after.items():
        assert weight.dtype == before[name].dtype
        assert torch.equal(weight, wanted[name].to(weight.dtype)), name
        assert torch.equal(weight, before[name]) != name.endswith("proj.weight"), name


@pytest.mark.parametrize(
    "setting",
    [
        {"bias": "all"},
        {"peft_type": "LOHA"},
        {"init_lora_weights": "pissa"},
        {"fan_in_fan_out": True},
        {"lora_bias": True},
        {"a_setting_of_tomorrow": 1},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_what_cannot_be_merged_exactly_is_refused_by_name(
    adapter: Path, tmp_path: Path, setting: dict[str, Any]
) -> None:
    other = changed_adapter(adapter, tmp_path / "other", **setting)
    with pytest.raises(BadRecipe, match=next(iter(setting))):
        merge_adapter(TINY, other, tmp_path / "merged", lambda done, total: None)
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("setting", [{"use_dora": True}, {"r": 4}, {"rank_pattern": {"v_proj": 2}}], ids=str)
def test_settings_that_its_weights_contradict_are_refused(
    adapter: Path, tmp_path: Path, setting: dict[str, Any]
) -> None:
    other = changed_adapter(adapter, tmp_path / "other", **setting)
    with pytest.raises(StageFailed, match="use_dora|rank 8"):
        merge_adapter(TINY, other, tmp_path / "merged", lambda done, total: None)
    assert not (tmp_path / "merged").exists()


def test_an_adapter_of_another_base_is_refused(adapter: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = changed_adapter(adapter, tmp_path / "other")
    weights = {
        key.replace("layers.3", "layers.7"): w for key, w in load_file(adapter / "adapter_model.safetensors").items()
    }
    save_file(weights, other / "adapter_model.safetensors")
    with pytest.raises(StageFailed, match=r"model\.layers\.7\..*another base"):
        merge_adapter(TINY, other, tmp_path / "merged", lambda done, total: None)
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("file", "damage", "told"),
    [
        ("base/model.safetensors", lambda old: old[: len(old) // 2], r"\d+ bytes of \d+; fetch"),
        ("base/model.safetensors", lambda old: old[:4], "incomplete or damaged safetensors file"),
        ("base/model.safetensors.index.json", lambda old: b'{"weight_map": {"x": "gone.safetensors"}}', "missing"),
        ("base/model.safetensors.index.json", lambda old: b"{", "not an index"),
        ("adapter/adapter_model.safetensors", lambda old: old[: len(old) // 2], r"\d+ bytes of \d+; fetch or train"),
        ("adapter/adapter_model.safetensors", lambda old: b"\x02" + bytes(7) + b"{}", "no weights in it"),
        ("adapter/adapter_config.json", lambda old: b'{"r":', "not JSON"),
        (
            "adapter/adapter_config.json",
            lambda old: old.replace(b'"lora_alpha"', b'"lora_dropout"'),
            "lora_alpha .*None",
        ),
    ],
)
def test_damaged_files_are_named_before_anything_is_written(
    adapter: Path, tmp_path: Path, file: str, damage: Callable[[bytes], bytes], told: str
) -> None:
    shutil.copytree(TINY, tmp_path / "base")
    shutil.copytree(adapter, tmp_path / "adapter")
    place = tmp_path / file
    place.write_bytes(damage(place.read_bytes() if place.exists() else b""))
    with pytest.raises(StageFailed, match=told):
        merge_adapter(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged", lambda done, total: None)
    assert not (tmp_path / "merged").exists()


def test_an_adapter_that_is_no_numbers_is_named(adapter: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = changed_adapter(adapter, tmp_path / "other")
    weights = load_file(adapter / "adapter_model.safetensors")
    name = sorted(weights)[0]
    save_file(weights | {name: weights[name] * float("nan")}, other / "adapter_model.safetensors")
    with pytest.raises(StageFailed, match=f"{name}: has values that are not finite"):
        merge_adapter(TINY, other, tmp_path / "merged", lambda done, total: None)


def test_an_interrupted_merge_goes_on_behind_its_last_tensor(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "DURABLE_BYTES", 1)
    whole, out = tmp_path / "whole", tmp_path / "out"
    merge_adapter(TINY, adapter, whole, lambda done, total: None)

    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_adapter(TINY, adapter, out, stop)
    resumed: list[float] = []
    merge_adapter(TINY, adapter, out, lambda done, total: resumed.append(done / total))
    assert resumed[0] > 0.5 and resumed[-1] == 1
    assert {f.name: f.read_bytes() for f in out.iterdir()} == {f.name: f.read_bytes() for f in whole.iterdir()}
