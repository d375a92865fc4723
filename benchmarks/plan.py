"""Peak memory as planned against measured, on the CPU, in fp32: five cases to calibrate on, five that were not seen.

Each case is a process of its own: a Llama with random weights made in place (quantized matrix by matrix), our own
trainer with the arguments of `tuneline.stages.train.loop.arguments`, two optimizer steps. Measured is the most physical
memory from the moment the model is there (VmHWM, reset), less what the same process held after two steps of a tiny
model: the interpreter, its libraries, and what they keep for good.

    python benchmarks/plan.py [--only NAME …]      # one at a time, 5 to 10 minutes on one idle core, up to 4 GB
"""

import argparse
import ctypes
import json
import random
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parents[1])
from benchmarks.common.rounds import ROOT, in_own_process, print_result, threads
from tuneline.configs.models import Shape
from tuneline.stages.plan.memory import Workload, estimate_peak_memory

TARGET = 0.15
STEPS = 2
"""In the second the optimizer's state is there while gradients are made."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained."""

    method: str
    hidden: int
    layers: int
    ffn: int
    rows: int = 1
    tokens: int
    vocabulary: int
    heads: int = 16
    kv_heads: int = 4
    rank: int = 16
    checkpointing: bool = False
    packed: bool = False
    learned: float = 0.5
    """Of a row, or of each that is packed, its end."""
    tied: bool = False

    @property
    def shape(self) -> Shape:
        return Shape(
            family="llama",
            layers=self.layers,
            hidden=self.hidden,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.hidden // self.heads,
            ffn=self.ffn,
            vocabulary=self.vocabulary,
            tied=self.tied,
        )

    @property
    def work(self) -> Workload:
        return Workload.on_the_cpu(
            method=self.method,
            rank=self.rank,
            rows=self.rows,
            tokens=self.tokens,
            loss_share=self.learned,
            masked=self.packed,
            checkpointing="layers" if self.checkpointing else "none",
        )


TINY = Case(method="lora", hidden=64, layers=1, ffn=128, heads=4, tokens=64, vocabulary=4096)
LARGE = {"vocabulary": 128256}
CALIBRATION = {
    "lora": Case(
        method="lora", hidden=768, layers=12, ffn=2048, heads=12, rows=3, tokens=512, vocabulary=64000, learned=0.25
    ),
    "qlora": Case(method="qlora", hidden=1024, layers=16, ffn=2816, rows=2, tokens=256, rank=32, **LARGE),
    "full": Case(method="full", hidden=768, layers=8, ffn=2048, heads=12, rows=2, tokens=128, vocabulary=32000),
    "packed": Case(method="lora", hidden=512, layers=14, ffn=1408, heads=8, tokens=1792, vocabulary=48000, packed=True),
    "checkpointed": Case(
        method="lora", hidden=1024, layers=8, ffn=2816, rows=2, tokens=256, learned=1.0, checkpointing=True, **LARGE
    ),
}
UNSEEN = {
    "lora, long": Case(
        method="lora",
        hidden=384,
        layers=20,
        ffn=1024,
        heads=6,
        kv_heads=2,
        tokens=2560,
        rank=64,
        vocabulary=64000,
        learned=0.1,
    ),
    "qlora, checkpointed": Case(
        method="qlora",
        hidden=1280,
        layers=8,
        ffn=3456,
        heads=20,
        rows=3,
        tokens=192,
        vocabulary=144000,
        checkpointing=True,
    ),
    "full, checkpointed": Case(
        method="full",
        hidden=640,
        layers=10,
        ffn=1728,
        heads=10,
        kv_heads=5,
        rows=2,
        tokens=256,
        vocabulary=48000,
        checkpointing=True,
    ),
    "qlora, packed": Case(
        method="qlora",
        hidden=768,
        layers=12,
        ffn=2048,
        heads=12,
        kv_heads=3,
        tokens=1280,
        vocabulary=64000,
        packed=True,
    ),
    "lora, wide vocabulary": Case(
        method="lora", hidden=512, layers=8, ffn=1408, heads=8, rows=4, tokens=256, learned=1.0, tied=True, **LARGE
    ),
}
CASES = CALIBRATION | UNSEEN


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--one", choices=CASES, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.one:
        print(json.dumps(measure(CASES[words.one])))
        return
    print(f"{'':<24} {'planned':>9} {'measured':>9} {'off':>7}  GB; planned by part")
    results = {}
    for name in words.only:
        results[name] = compared(CASES[name], in_own_process("--one", name))
        print(line(name, results[name]), flush=True)
    off = {
        what: max((abs(results[name]["off"]) for name in cases if name in results), default=None)
        for what, cases in (("calibration", CALIBRATION), ("unseen", UNSEEN))
    }
    met = off["unseen"] is not None and off["unseen"] <= TARGET
    smallest = min(result["measured"] for result in results.values())
    print_result(
        "plan",
        off["unseen"],
        TARGET,
        met=met,
        worst=off,
        smallest_gb=round(smallest / 1e9, 2),
        cases={name: {k: r[k] for k in ("planned", "measured", "off")} for name, r in results.items()},
    )


def compared(case: Case, measured: dict[str, Any]) -> dict[str, Any]:
    parts = estimate_peak_memory(case.shape, case.work)
    return measured | {
        "planned": round(parts.total),
        "off": round(parts.total / measured["measured"] - 1, 3),
        "parts": {name: round(value / 1e9, 2) for name, value in asdict(parts).items() if value},
    }


def line(name: str, result: dict[str, Any]) -> str:
    planned, measured = result["planned"] / 1e9, result["measured"] / 1e9
    return f"{name:<24} {planned:9.2f} {measured:9.2f} {result['off']:+7.1%}  {result['parts']}"


def measure(case: Case) -> dict[str, Any]:
    """Bytes at the peak of two steps, and after the model was made, without the interpreter's own."""
    with tempfile.TemporaryDirectory() as folder:
        _train(TINY, Path(folder))
    own = _held()
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        model_bytes = _train(case, Path(folder)) - own
    return {
        "measured": _most() - own,
        "model": model_bytes,
        "own": own,
        "seconds": round(time.monotonic() - started, 1),
    }


def _train(case: Case, folder: Path) -> int:
    """Two steps; the bytes held once the model was there."""
    import torch
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoTokenizer, PrinterCallback

    from tuneline.configs.recipe import Recipe
    from tuneline.stages.train.distributed.allocator import return_freed_memory
    from tuneline.stages.train.loop.arguments import build_training_arguments
    from tuneline.stages.train.loop.trainer import Trainer
    from tuneline.stages.train.model.adapter_weights import cast_adapter_to_fp32

    disable_progress_bars()
    torch.set_num_threads(threads())
    torch.manual_seed(0)
    recipe = Recipe.model_validate(
        {
            "data": {"sources": [{"grammar": "unused", "rows": 1}], "max_tokens": case.tokens},
            "train": {
                "method": case.method,
                "rank": case.rank,
                "batch_rows": case.rows,
                "max_steps": STEPS,
                "packing": case.packed,
                "save_steps": 10**6,
            },
        }
    )
    model = _model(case, recipe, folder)
    arguments = build_training_arguments(recipe, folder, STEPS * case.rows, model)
    arguments.save_strategy = arguments.eval_strategy = "no"
    arguments.activation_checkpointing = case.checkpointing
    trainer = Trainer(
        batch_rows=case.rows,
        make_optimizer=None,
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(_rows(case)),
        processing_class=AutoTokenizer.from_pretrained(ROOT / "data/tiny"),
    )
    trainer.remove_callback(PrinterCallback)
    cast_adapter_to_fp32(model)
    return_freed_memory(10**9)  # as for all models that are worth planning
    held = _held()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # proc(5): VmHWM starts anew
    trainer.train()
    return held


def _model(case: Case, recipe: Any, folder: Path) -> Any:
    """As `tuneline.stages.train.model.base_model` makes it, but of random weights; nothing is ever held twice."""
    import torch
    from accelerate import init_empty_weights
    from peft import prepare_model_for_kbit_training
    from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM
    from transformers.quantizers.auto import AutoHfQuantizer
    from transformers.utils.quantization_config import QuantizationMethod

    from tuneline.core.events import SilentEvents
    from tuneline.stages.train.model.base_model import add_adapter

    shape = case.shape
    config = LlamaConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.ffn,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
        attn_implementation="sdpa",
    )
    config.save_pretrained(folder)
    with init_empty_weights(include_buffers=False):
        model: Any = LlamaForCausalLM(config)
    quantized = case.method == "qlora"
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and not name.endswith("lm_head") and quantized:
            _put(model, name, _in_4_bit(torch.randn(module.weight.shape) * 0.02))
        else:
            for key, parameter in list(module.named_parameters(recurse=False)):
                made = torch.randn(parameter.shape) * 0.02 if parameter.ndim > 1 else torch.ones(parameter.shape)
                setattr(module, key, torch.nn.Parameter(made))
    model.tie_weights()
    if quantized:
        model.is_loaded_in_4bit = model.is_quantized = True
        model.quantization_method = QuantizationMethod.BITS_AND_BYTES
        model.hf_quantizer = AutoHfQuantizer.from_config(BitsAndBytesConfig(load_in_4bit=True))  # the trainer asks it
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    adapted = add_adapter(recipe.train, model, folder, "llama", None, SilentEvents(folder, "train"))
    adapted.checkpoint_prefix = ""
    return adapted


def _in_4_bit(weight: Any) -> Any:
    import bitsandbytes as bnb
    import torch

    rows, columns = weight.shape
    with torch.device("meta"):
        made = bnb.nn.Linear4bit(columns, rows, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    made.weight = bnb.nn.Params4bit(weight, requires_grad=False, compress_statistics=True, quant_type="nf4").to("cpu")
    return made


def _put(model: Any, name: str, module: Any) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def _rows(case: Case) -> dict[str, list[list[int]]]:
    from tuneline.stages.train.loop.loss import IGNORED

    rng = random.Random(0)
    length, many = (case.tokens // 4, 4) if case.packed else (case.tokens, 1)
    ids = [[rng.randrange(10, 4000) for _ in range(length)] for _ in range(STEPS * case.rows * many)]
    prompt = round(length * (1 - case.learned))
    return {"input_ids": ids, "labels": [[IGNORED] * prompt + row[prompt:] for row in ids]}


def _held() -> int:
    import gc

    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return _status("VmRSS")


def _most() -> int:
    return _status("VmHWM")


def _status(key: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(row for row in text.splitlines() if row.startswith(key)).split()[1]) * 1024


if __name__ == "__main__":
    main()
