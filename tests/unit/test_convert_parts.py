"""The parts of converting that need no llama.cpp: blocks, rows that move, the journal."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tuneline.core.errors import StageFailed
from tuneline.core.paths import ROOT
from tuneline.stages.checkpoints.base_config import read_context_length
from tuneline.stages.checkpoints.safetensors_files import StoredTensor
from tuneline.stages.convert.folders import tensorrt
from tuneline.stages.convert.folders.onnx_exporter import to_transformers_4
from tuneline.stages.convert.onepass import journal as journals
from tuneline.stages.convert.onepass import stream
from tuneline.stages.convert.onepass.converter import list_unnamed_ends
from tuneline.stages.convert.onepass.journal import Journal
from tuneline.stages.convert.onepass.output_files import SAME, Destination, OutputFile, write_rows
from tuneline.stages.convert.onepass.stream import block_ranges

TINY = ROOT / "data/tiny"


def tensor(rows: int, columns: int) -> StoredTensor:
    return StoredTensor("w", Path("f"), "BF16", (rows, columns), 0, rows * columns * 2)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (7, 5_000_000), (128256, 4096), (33, 64), (100_000, 3)])
def test_blocks_cover_every_row_once_and_stay_small(rows: int, columns: int) -> None:
    ranges = list(block_ranges(tensor(rows, columns)))
    assert [row for first, last in ranges for row in range(first, last)] == list(range(rows))
    assert all((last - first) * columns * 2 <= stream.BLOCK_BYTES or last - first == 1 for first, last in ranges)


@pytest.mark.parametrize("seed", range(5))
def test_rows_lie_where_they_belong(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    order, data = rng.permutation(64), rng.integers(0, 255, (64, 6), dtype=np.uint8)
    if seed == 0:
        order = np.arange(64)[::-1].copy()
    file = tmp_path / "f"
    file.write_bytes(bytes(10 + 64 * 6))
    descriptor = os.open(file, os.O_WRONLY)
    for first in range(0, 64, 16):
        write_rows(descriptor, Destination(0, True, SAME, 10, 6, order=order), first, data[first : first + 16])
    os.close(descriptor)
    found = np.frombuffer(file.read_bytes()[10:], np.uint8).reshape(64, 6)
    assert (found[order] == data).all()


def test_a_journal_counts_only_for_the_same_files(tmp_path: Path) -> None:
    target = OutputFile(tmp_path / "a", 3, b"abc")
    journal = Journal(tmp_path / "journal", [target], durable=True)
    journal.begin()
    journal.add(["x", "y"])
    assert Journal(journal.path, [target], durable=True).finished == set()  # the file itself is not there
    target.path.write_bytes(b"abc")
    assert Journal(journal.path, [target], durable=True).finished == {"x", "y"}
    assert Journal(journal.path, [OutputFile(tmp_path / "a", 3, b"abd")], durable=True).finished == set()
    with journal.path.open("a") as file:
        file.write("half of a na")
    assert Journal(journal.path, [target], durable=True).finished == {"x", "y"}


def test_what_is_not_brought_to_the_disk_counts_until_the_machine_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = OutputFile(tmp_path / "a", 3, b"abc")
    target.path.write_bytes(b"abc")
    monkeypatch.setattr(journals, "_boot_id", lambda: "today")
    journal = Journal(tmp_path / "journal", [target], durable=False)
    journal.begin()
    journal.add(["x"])
    assert Journal(journal.path, [target], durable=False).finished == {"x"}
    monkeypatch.setattr(journals, "_boot_id", lambda: "tomorrow")
    assert Journal(journal.path, [target], durable=False).finished == set()


def test_a_checkpoint_for_tensorrt_llm_is_refused_before_it_would_be_misread(tmp_path: Path) -> None:
    groups: dict[str, dict[str, Any]] = {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}
    groups["input_activations"] = {"num_bits": 8, "type": "float", "strategy": "token"}
    config: dict[str, Any] = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64}
    config |= {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"group_0": groups}}}
    (tmp_path / "tokenizer.json").write_text("{}")
    header: dict[str, Any] = {"a.weight": {"dtype": "F8_E4M3", "shape": [1, 1], "data_offsets": [0, 1]}}
    header["a.weight_scale"] = {"dtype": "BF16", "shape": [1, 1], "data_offsets": [1, 3]}

    def misfit() -> str | None:
        (tmp_path / "config.json").write_text(json.dumps(config))
        told = json.dumps(header).encode()
        (tmp_path / "model.safetensors").write_bytes(len(told).to_bytes(8, "little") + told + bytes(3))
        return tensorrt.explain_refusal(tmp_path)

    assert misfit() is None
    tensorrt.add_launch_script(tmp_path)
    assert "--max_seq_len 64" in (tmp_path / "serve.sh").read_text()
    groups["weights"]["type"] = "int"
    assert misfit() == "weights of 8 bits, int, by channel, not of 8, float, by channel"
    groups["weights"]["type"] = "float"
    del header["a.weight_scale"]
    assert misfit() == "a has no weight_scale"
    config["architectures"] = ["GPT2LMHeadModel"]
    misfit()
    with pytest.raises(StageFailed, match="PyTorch backend has no GPT2LMHeadModel; take TensorRT-LLM out"):
        tensorrt.add_launch_script(tmp_path)


@pytest.mark.parametrize(
    ("ends", "unnamed"), [([0, 1, 2], [1]), ([0, 3], []), (2, []), (None, [])], ids=["scout", "llama-3", "one", "none"]
)
def test_ends_that_llama_cpp_does_not_know_by_name_are_listed(tmp_path: Path, ends: Any, unnamed: list[int]) -> None:
    tokens = ["<|end_of_text|>", "<|eom|>", "<|eot|>", "<|eom_id|>"]
    if ends is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    assert list_unnamed_ends(tmp_path, tokens, 2) == unnamed


def test_transformers_4_is_told_the_rope_of_transformers_5() -> None:
    plain = {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}, "hidden_size": 8}
    assert to_transformers_4(plain) == {"rope_theta": 5e5, "rope_scaling": None, "hidden_size": 8}
    scaled = {"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0}}
    assert to_transformers_4(scaled) == {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}
    assert to_transformers_4({"rope_theta": 1e4}) == {"rope_theta": 1e4}


@pytest.mark.parametrize("nested", [False, True])
def test_the_context_of_a_multimodal_base_is_in_its_text_config(tmp_path: Path, nested: bool) -> None:
    text = {"max_position_embeddings": 4096}
    (tmp_path / "config.json").write_text(json.dumps({"text_config": text, "vision_config": {}} if nested else text))
    assert read_context_length(tmp_path) == 4096
