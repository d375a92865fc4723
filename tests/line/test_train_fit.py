"""Training itself, on the tiny base and short chats: each method, what it goes on from, and what it survives."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, DataCollatorForLanguageModeling, LlamaConfig, LlamaForCausalLM

from tests.line import small
from tests.unit import llama4
from tuneline.core.errors import BadRecipe, StageFailed
from tuneline.core.events import Events
from tuneline.core.paths import ROOT
from tuneline.stages.convert.onepass.merged_checkpoint import merge_adapter
from tuneline.stages.convert.reference_model import load_tuned_model
from tuneline.stages.fetch import fetch
from tuneline.stages.prepare.prepared_run import read_prepared
from tuneline.stages.prepare.rendering.renderer import Renderer
from tuneline.stages.train.loop import fit, samples
from tuneline.stages.train.loop import trainer as training
from tuneline.stages.train.model.base_model import load_model


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNELINE_MODELS", str(folder / "models"))
        fetch(small.recipe(folder), folder / "prepared")
        small.prepared(folder)
    return folder


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base's tokenizer with a random model whose output embedding is its own."""
    folder = tmp_path_factory.mktemp("untied")
    for file in small.BASE.iterdir():
        if file.name.startswith("tokenizer") or file.suffix in (".jinja", ".json"):
            shutil.copyfile(file, folder / file.name)
    torch.manual_seed(0)
    config = LlamaConfig.from_pretrained(small.BASE)
    config.tie_word_embeddings, config.num_hidden_layers, config.hidden_size = False, 1, 64
    config.num_attention_heads, config.num_key_value_heads, config.head_dim, config.intermediate_size = 2, 2, 32, 96
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def merged(base: Path, adapter: Path, out: Path) -> dict[str, torch.Tensor]:
    merge_adapter(base, adapter, out, lambda done, total: None)
    return load_file(out / "model.safetensors")


def by_peft(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    whole: Any = PeftModel.from_pretrained(model, str(adapter))
    state: dict[str, torch.Tensor] = whole.merge_and_unload().state_dict()
    return state


def test_qlora_says_what_it_adapts_and_counts_and_how_fast_it_is(here: Path) -> None:
    small.train(here, "plain", small.recipe(here))
    told = [event["text"] for event in small.events(here, "plain", "note")]
    assert told[0] == "adapters in a llama: attention 16, mlp 12"
    assert told[1].startswith("parameters: 2,359,296 quantized, ")
    page = (ROOT / "docs/training.md").read_text()
    assert told[0] in page and told[1].split(" quantized")[0] in page
    steps = [event for event in small.events(here, "plain", "metrics") if "loss" in event]
    assert len(steps) == 6
    assert all(0 < e["learned_tokens_per_second"] < e["tokens_per_second"] and e["teraflops"] > 0 for e in steps)
    assert small.losses(here, "plain")[-1] < small.losses(here, "plain")[0]


def test_the_processor_does_not_decide_what_is_trained(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With AVX512-BF16 bitsandbytes would rewrite 4-bit weights at the first validation, after the third step here."""
    adapters = []
    for has_bf16 in (True, False):
        monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda answer=has_bf16: answer)
        small.train(here, f"bf16-{has_bf16}", small.recipe(here))
        adapters.append((here / f"bf16-{has_bf16}/train/adapter/adapter_model.safetensors").read_bytes())
    assert adapters[0] == adapters[1]


def test_validation_changes_no_4_bit_weight(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    model = load_model(
        small.recipe(here).train, small.BASE, None, Events(here / "loaded", "train"), sharded=False
    ).eval()
    packed = [module.weight for module in model.modules() if isinstance(module, Linear4bit)]
    before = [(weight.data.clone(), weight.quant_state.absmax.clone()) for weight in packed]
    with torch.no_grad():
        model(input_ids=torch.arange(1, 9)[None])
    assert len(packed) == 28
    for weight, (data, absmax) in zip(packed, before, strict=True):
        assert torch.equal(weight.data, data) and torch.equal(weight.quant_state.absmax, absmax)


def test_llama_4_is_trained_whole_in_4_bit_and_merged_into_its_checkpoint(here: Path, tmp_path: Path) -> None:
    base = llama4.save_with_tokenizer(tmp_path / "base", small.BASE)
    targets = ["attention", "mlp", "router", "experts"]
    small.train(here, "llama4", small.recipe(here, targets=targets, learning_rate=1e-2), base=base)
    told = [event["text"] for event in small.events(here, "llama4", "note")]
    assert told[0] == "adapters in a llama4_text: attention 8, mlp 6, router 2, experts 24"
    assert small.losses(here, "llama4")[-1] < small.losses(here, "llama4")[0]
    adapter, before = here / "llama4/train/adapter", load_file(base / "model.safetensors")
    whole = merged(base, adapter, tmp_path / "merged")
    changed = {name for name, weight in whole.items() if not torch.equal(weight, before[name])}
    assert {name.split(".")[-1] for name in changed if ".experts." in name} == {"gate_up_proj", "down_proj"}
    assert any("router" in name for name in changed)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    tokens = llama4.tokens()
    assert (
        plain(input_ids=tokens).logits - load_tuned_model(base, adapter)(input_ids=tokens).logits
    ).abs().max() < 1e-4


def test_full_trains_every_weight_and_merges_exactly(here: Path, untied: Path, tmp_path: Path) -> None:
    metrics = small.train(here, "full", small.recipe(here, method="full"), base=untied)
    assert small.losses(here, "full")[-1] < small.losses(here, "full")[0]
    adapter, before = here / "full/train/adapter", load_file(untied / "model.safetensors")
    tuned, expected = merged(untied, adapter, tmp_path), by_peft(untied, adapter)
    assert metrics["parameters_trained"] == sum(weight.numel() for weight in before.values())
    assert tuned.keys() == before.keys()
    for name, weight in tuned.items():
        assert torch.equal(weight, expected[name]), name
        assert not torch.equal(weight, before[name]), f"{name} was not trained"


def test_full_on_a_tied_base_leaves_the_embedding_and_says_so(here: Path) -> None:
    small.train(here, "tied", small.recipe(here, method="full", max_steps=1))
    assert any("one matrix" in event["text"] for event in small.events(here, "tied", "note"))
    weights = load_file(here / "tied/train/adapter/adapter_model.safetensors")
    assert not any("embed_tokens" in name or "lm_head" in name for name in weights)


def test_embeddings_and_head_are_trained_whole_and_merge_exactly(here: Path, untied: Path, tmp_path: Path) -> None:
    wanted = small.recipe(here, method="lora", modules_to_save=["embeddings", "head"])
    small.train(here, "saved", wanted, base=untied)
    adapter, before = here / "saved/train/adapter", load_file(untied / "model.safetensors")
    tuned, expected = merged(untied, adapter, tmp_path), by_peft(untied, adapter)
    for name, weight in tuned.items():
        assert torch.equal(weight, expected[name]), name
    for name in ("lm_head.weight", "model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"):
        assert not torch.equal(tuned[name], before[name]), f"{name} was not trained"


def test_it_goes_on_from_another_runs_adapter(here: Path) -> None:
    small.train(here, "earlier", small.recipe(here))
    start = here / "earlier/train/adapter"
    small.train(here, "later", small.recipe(here, init_from="earlier", warmup_steps=5), start=start)
    fresh, gone_on = small.losses(here, "earlier"), small.losses(here, "later")
    assert gone_on[0] < fresh[0] - 0.5
    with pytest.raises(BadRecipe, match="init_from: earlier: its adapter has r 4, this recipe 2"):
        small.train(here, "other", small.recipe(here, init_from="earlier", rank=2), start=start)


def test_the_best_weights_are_the_result_and_patience_stops(here: Path) -> None:
    # So fast that validation soon gets worse, but not five times worse.
    wanted = {"learning_rate": 0.02, "max_steps": 40, "evaluate_steps": 1, "save_steps": 20}
    metrics = small.train(here, "best", small.recipe(here, keep="best", patience=2, schedule="constant", **wanted))
    validated = {
        e["step"]: e["validation_loss"] for e in small.events(here, "best", "metrics") if "validation_loss" in e
    }
    assert metrics["steps"] < 40
    assert metrics["validation_loss"] == min(validated.values()) < validated[metrics["steps"]]
    assert metrics["kept_step"] == min(validated, key=lambda step: validated[step])
    again = small.train(
        here,
        "check",
        small.recipe(here, init_from="best", max_steps=1, learning_rate=1e-12),
        start=here / "best/train/adapter",
    )
    assert again["validation_loss"] == pytest.approx(metrics["validation_loss"], abs=1e-4)


def test_divergence_keeps_the_last_good_checkpoint_and_advises(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = training.Trainer.training_step

    def spoiled(self: Any, model: Any, *more: Any, **named: Any) -> Any:
        if self.state.global_step == 14:
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.data *= 1e3
        return step(self, model, *more, **named)

    monkeypatch.setattr(training.Trainer, "training_step", spoiled)
    says = r"diverged at step 19: the .* its median.*checkpoint-14 in .* last good one.*rate \(now 0.002; try 0.0005"
    with pytest.raises(StageFailed, match=says):
        small.train(here, "diverged", small.recipe(here, max_steps=20, save_steps=1))
    newest = here / "diverged/train/scratch/checkpoints/checkpoint-14/adapter_model.safetensors"
    assert max(weight.abs().max() for weight in load_file(newest).values()) < 1
    assert not (here / "diverged/train/adapter").exists()


def test_out_of_memory_halves_the_rows_and_the_same_rows_make_a_step(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = training.Trainer.training_step

    def with_little_memory(self: Any, model: Any, inputs: Any, *more: Any) -> Any:
        if self.state.global_step >= 3 and len(inputs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("no memory left")
        return step(self, model, inputs, *more)

    small.train(here, "enough", small.recipe(here))
    validated = [event["step"] for event in small.events(here, "enough", "metrics") if "validation_loss" in event]
    assert validated == [3, 6]  # not twice at the last step
    sampled = small.events(here, "enough", "sample")
    assert [event["step"] for event in sampled] == [3, 6]
    for sample in (sample for event in sampled for sample in event["samples"]):
        assert sample["prompt"].endswith("<|start_header_id|>assistant<|end_header_id|>\n\n") and sample["got"]
        assert sample["wanted"].startswith("Ana has") and sample["wanted"].endswith("<|eot_id|>")
    monkeypatch.setattr(training.Trainer, "training_step", with_little_memory)
    monkeypatch.setattr(samples, "ROWS", 0)  # and they change nothing: the losses below are equal
    small.train(here, "little", small.recipe(here))
    told = [event["text"] for event in small.events(here, "little", "warning")]
    assert [text.split(":")[0] for text in told] == [
        "out of memory with 8 rows at a time; continuing with 4",
        "out of memory with 4 rows at a time; continuing with 2",
    ]
    # Steps 1 to 3; then from the checkpoint of step 2 on, twice.
    assert len(small.losses(here, "little")) == 3 + 1 + 4
    assert small.losses(here, "little")[-4:] == pytest.approx(small.losses(here, "enough")[-4:], abs=2e-4)
    first, *later = (e["validation_loss"] for e in small.events(here, "little", "metrics") if "validation_loss" in e)
    assert later[:2] == pytest.approx([first] * 2, abs=2e-4)  # of step 3, with 8, 4 and 2 rows at a time


def test_memory_that_never_suffices_stops_with_the_estimate(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_memory(*_: Any) -> Any:
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(training.Trainer, "training_step", without_memory)
    with pytest.raises(StageFailed, match=r"out of memory with 1 rows at a time.*planned 0.\d GB on the CPU"):
        small.train(here, "none", small.recipe(here))
    assert len(small.events(here, "none", "warning")) == 3


def test_a_base_that_does_not_fit_is_not_loaded_again_with_fewer_rows(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    def without_memory(*_: Any, **__: Any) -> Any:
        loaded.append(1)
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(fit, "load_model", without_memory)
    with pytest.raises(StageFailed, match=r"out of memory while the base was loaded.*qlora"):
        small.train(here, "unloaded", small.recipe(here))
    assert loaded == [1] and small.events(here, "unloaded", "warning") == []


def test_packing_learns_the_same_tokens(here: Path) -> None:
    plain = small.train(here, "unpacked", small.recipe(here, max_steps=1, batch_rows=80, learning_rate=1e-9))
    packed = small.train(
        here, "packed", small.recipe(here, max_steps=1, batch_rows=80, learning_rate=1e-9, packing=True)
    )
    assert packed["train_loss"] == pytest.approx(plain["train_loss"], abs=2e-4)


def test_packed_documents_see_themselves_alone(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits of what the trainer packs, on the real base, are each document's own; without separation they are not."""
    packs: list[tuple[Any, dict[str, torch.Tensor]]] = []
    compute_loss = training.Trainer.compute_loss

    def watched(self: Any, model: Any, inputs: Any, *words: Any, **more: Any) -> Any:
        packs.append((model, dict(inputs)))
        return compute_loss(self, model, inputs, *words, **more)

    monkeypatch.setattr(training.Trainer, "compute_loss", watched)
    small.train(here, "apart", small.recipe(here, max_steps=1, batch_rows=80, learning_rate=1e-9, packing=True))
    model, packed = packs[0]
    model.eval()
    ids, positions = packed["input_ids"][0], packed["position_ids"][0]
    begins = (positions == 0).nonzero()[:, 0].tolist()
    documents = [ids[a:b] for a, b in zip(begins, [*begins[1:], len(ids)], strict=True)]
    assert len(documents) > 10
    renderer = Renderer(small.BASE, None)
    whole = {tuple(renderer(row).ids) for row in read_prepared(here / "prepared/prepare/train.jsonl")}
    assert {tuple(document.tolist()) for document in documents} <= whole, "a document was cut"

    def off(**given: torch.Tensor) -> float:
        """The largest difference of a logit in the pack from that of its document alone."""
        together = model(**given).logits[0]
        return max(
            float((together[a : a + len(alone)] - model(input_ids=alone[None]).logits[0]).abs().max())
            for a, alone in zip(begins, documents, strict=True)
        )

    with torch.no_grad():
        assert off(**{name: value for name, value in packed.items() if name != "labels"}) < 1e-4
        running = torch.arange(len(ids))[None]
        assert off(input_ids=ids[None], position_ids=running) > 0.5
        seen = torch.ones_like(ids)[None]
        assert off(input_ids=ids[None], position_ids=positions[None], attention_mask=seen) > 0.5


def test_checkpoints_are_saved_by_the_clock_too(here: Path) -> None:
    small.train(here, "timed", small.recipe(here, compute={"save_minutes": 1e-6}, max_steps=3, save_steps=100))
    assert [event["step"] for event in small.events(here, "timed", "checkpoint")] == [1, 2, 3]
    small.train(here, "by-steps", small.recipe(here, compute={"save_minutes": None}, max_steps=3, save_steps=2))
    assert [event["step"] for event in small.events(here, "by-steps", "checkpoint")] == [2, 3]


def test_a_watched_bound_alerts_and_training_goes_on(here: Path) -> None:
    metrics = small.train(here, "watched", small.recipe(here, watch={"gradient_norm": 1e-6}, max_steps=2))
    assert metrics["steps"] == 2
    assert ["watch.gradient_norm" in event["text"] for event in small.events(here, "watched", "warning")] == [True]


def test_padding_that_hides_the_end_of_turn_is_refused(here: Path) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling as Ours

    from tuneline.stages.train.loop.training_data import refuse_hiding_padding

    tokenizer = AutoTokenizer.from_pretrained(small.BASE)
    end = tokenizer.eos_token_id
    rows = Dataset.from_list(
        [{"input_ids": [5, 6, 7, end], "labels": [-100, 6, 7, end]}, {"input_ids": [5, end], "labels": [-100, end]}]
    )
    tokenizer.pad_token = tokenizer.eos_token
    refuse_hiding_padding(Ours(pad_token_id=end), rows, tokenizer)

    hiding = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    with pytest.raises(BadRecipe, match=r"pads with '<\|eot_id\|>'.* padding hides"):
        refuse_hiding_padding(lambda some: hiding([{"input_ids": row["input_ids"]} for row in some]), rows, tokenizer)


@pytest.mark.parametrize(
    ("compute", "says"),
    [
        ({"micro_batch_rows": 3}, "micro_batch_rows: 3 does not divide the 8 rows"),
        ({"processes": 3}, "8 cannot be divided among 3"),
    ],
)
def test_rows_of_a_step_are_shared_out_evenly_or_refused(here: Path, compute: dict[str, Any], says: str) -> None:
    with pytest.raises(BadRecipe, match=says):
        small.train(here, f"uneven-{json.dumps(compute)}", small.recipe(here, compute=compute))
