"""FlashAttention on packed rows, with its published interface computed by PyTorch: a GPU's kernel needs a GPU."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tuneline.configs.training import Train
from tuneline.core.attention_kernels import FLASH_ATTENTION, VARIABLE
from tuneline.core.events import Events, read_events
from tuneline.core.paths import ROOT
from tuneline.stages.train.model import base_model
from tuneline.stages.train.model.flash_attention import ATTENTION

COMMIT = "a" * 40
LENGTHS = (5, 9, 3)


def flash_attn_varlen_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
) -> torch.Tensor:
    """One document after the other; `q` has more heads than `k` and `v`, as the kernel allows."""
    assert causal and dropout_p == 0 and max_seqlen_q == int(cu_seqlens_q.diff().max()) and max_seqlen_k == max_seqlen_q
    outputs = []
    for start, end in zip(cu_seqlens_q[:-1].tolist(), cu_seqlens_k[1:].tolist(), strict=True):
        queries, keys, values = (t[start:end].transpose(0, 1) for t in (q, k, v))
        position = torch.arange(end - start)
        distance = position[:, None] - position[None]
        seen = (distance >= 0) & ((distance <= window_size[0]) | torch.tensor(window_size[0] < 0))
        attended = torch.nn.functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=seen, scale=softmax_scale, enable_gqa=True
        )
        outputs.append(attended.transpose(0, 1))
    return torch.cat(outputs)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A GPU, and an image with the kernel at one commit; the lengths of what the kernel was given."""
    calls: list[int] = []

    def attend(q: torch.Tensor, *arguments: Any, **keywords: Any) -> torch.Tensor:
        calls.append(len(q))
        return flash_attn_varlen_func(q, *arguments, **keywords)

    def get_kernel(name: str, *, revision: str) -> Any:
        assert (name, revision) == (FLASH_ATTENTION, COMMIT)
        return SimpleNamespace(flash_attn_varlen_func=attend)

    hub = ModuleType("kernels")
    hub.get_kernel = get_kernel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kernels", hub)
    (tmp_path / "kernels.json").write_text(json.dumps({FLASH_ATTENTION: COMMIT}))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "kernels.json"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    yield calls


def choose(folder: Path, **settings: Any) -> tuple[str | None, list[str]]:
    name = base_model._choose_attention(Train(**settings), Events(folder, "train"), mixture=False)
    return name, [event["text"] for event in read_events(folder) if event["kind"] == "note"]


def load(attention: str | None, **config: Any) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(
        ROOT / "data/tiny", attn_implementation=attention, dtype=torch.float32, **config
    )
    return model.eval()


def test_packed_documents_are_attended_to_as_with_a_mask(kernel: list[int], tmp_path: Path) -> None:
    attention, notes = choose(tmp_path, packing=True)
    assert attention == ATTENTION and notes == [f"packed rows: FlashAttention of {FLASH_ATTENTION} at {COMMIT}"]
    ids = torch.randint(0, 1000, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(0))
    packed = {
        "input_ids": ids,
        "position_ids": torch.cat([torch.arange(length) for length in LENGTHS])[None],
        "cu_seq_lens_q": torch.tensor([0, 5, 14, 17], dtype=torch.int32),
        "max_length_q": 9,
        "use_cache": False,  # as in training: with a cache transformers looks for no documents
    }
    by_kernel, masked = load(attention), load("sdpa")
    with torch.no_grad():
        torch.testing.assert_close(by_kernel(**packed).logits, masked(**packed).logits, atol=1e-4, rtol=1e-4)
    assert kernel == [17] * by_kernel.config.num_hidden_layers


def test_padded_rows_and_generation_go_the_usual_way(kernel: list[int], tmp_path: Path) -> None:
    by_kernel, usual = load(choose(tmp_path, packing=True)[0]), load("sdpa")
    ids = torch.randint(0, 1000, (2, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    with torch.no_grad():
        logits = [model(input_ids=ids, attention_mask=mask).logits[mask.bool()] for model in (by_kernel, usual)]
        texts = [model.generate(ids[:1], max_new_tokens=4, do_sample=False).tolist() for model in (by_kernel, usual)]
    torch.testing.assert_close(*logits)
    assert texts[0] == texts[1] and kernel == []


def test_without_flash_attention_a_note_says_so(
    kernel: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose(tmp_path, packing=False) == (None, [])
    monkeypatch.delenv(VARIABLE)
    attention, notes = choose(tmp_path, packing=True)
    assert attention is None and "no FlashAttention is installed" in notes[0]


def test_the_package_the_user_named_comes_first(
    kernel: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = ModuleType("flash_attn")
    package.flash_attn_varlen_func = flash_attn_varlen_func  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    attention, notes = choose(tmp_path, packing=True)
    assert attention == ATTENTION and notes == ["packed rows: FlashAttention of flash-attn"]
