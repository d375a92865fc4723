"""One GPU, random weights in real shapes, LoRA and QLoRA: TRL's SFTTrainer with its defaults and with our settings.

Needs no hub and no network, but the packages of `NEEDED`: what a machine lacks is named first, and its wheels have to
be carried there. Of Tuneline `stages/train/model/sparse_experts.py` is used, and the plan, whose figures are printed
beside; where its packages are missing they are left out. Each measurement is a process of its own; none begins after
`--minutes`. Rows have the lengths of `train_cpu.py`. Utilization counts 4 FLOPs a frozen weight and token, 6 a trained
one, and attention, over 989 TFLOP/s; recomputation counts nothing.

    python benchmarks/train_gpu.py [--shapes 8b scout] [--steps 12]      # on an H100
    python benchmarks/train_gpu.py --shapes tiny --steps 2               # does it run at all, on a CPU
"""

import argparse
import importlib.util
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PEAK = 989e12
"""H100 SXM, dense bf16; NVIDIA's data sheet."""
LENGTH, MEDIAN, SIGMA, LONGEST = 4096, 180, 0.9, 1024
RANK, WARM_UP = 16, 2
LLAMA = {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336, "vocab_size": 128256}
SCOUT = {"num_hidden_layers": 2, "hidden_size": 5120, "intermediate_size": 8192, "vocab_size": 202048}
SMALL = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "vocab_size": 512}
SHAPES: dict[str, dict[str, Any]] = {
    "8b": LLAMA | {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128},
    "scout": SCOUT | {"num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128, "num_local_experts": 16},
    "tiny": SMALL | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16},
    "tiny_scout": SMALL | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "num_local_experts": 4},
}
TARGETS = {"speed": 1.5, "lora_utilization": 0.40, "qlora_utilization": 0.30}
SIDES, METHODS = ("trl_defaults", "tuneline"), ("lora", "qlora")
UNPACKED = "unpacked"
"""Our settings without packing."""
NEEDED = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets")
RECIPES = {"8b": "llama-3.1-8b"}
"""Shapes that a recipe plans."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shapes", nargs="+", default=["8b", "scout"], choices=SHAPES)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--one", nargs=3, metavar=("SHAPE", "METHOD", "SIDE"), help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.one:
        print(json.dumps(measure(*words.one, words.steps)))
        return
    if missing := [package for package in NEEDED if importlib.util.find_spec(package) is None]:
        sys.exit(f"missing here: {', '.join(missing)}; carry the wheels that requirements/train.txt lists")
    print(json.dumps(found()))
    results, deadline = [], time.monotonic() + 60 * words.minutes
    for shape in words.shapes:
        for method in METHODS:
            for side in (*SIDES, UNPACKED):
                if time.monotonic() > deadline:
                    results.append({"shape": shape, "method": method, "side": side, "error": "no time left"})
                else:
                    results.append(in_process(shape, method, side, words.steps))
                print(row(results[-1]), flush=True)
            if line := planned(shape, method):
                print(line, flush=True)
    measured = ratios(results)
    slowest = min(measured.values(), default=None)
    utilization = {m: [r["utilization"] for r in results if r["method"] == m and "error" not in r] for m in METHODS}
    met = slowest is not None and slowest >= TARGETS["speed"]
    met = met and all(max(shares, default=0) >= TARGETS[f"{m}_utilization"] for m, shares in utilization.items())
    more = {"ratios": measured, "results": results, "targets": TARGETS}
    print(
        json.dumps(
            {"benchmark": "train_gpu", "ratio": slowest, "target": TARGETS["speed"], "met": met, **found(), **more}
        )
    )


def found() -> dict[str, Any]:
    """Device, versions, and which attention kernel there is."""
    import torch

    versions: dict[str, Any] = {"attention": attention()}
    for package in ("torch", "transformers", "trl", "peft", "bitsandbytes", "kernels", "flash-attn"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    versions["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return versions


def attention() -> str:
    """The best there is for packed rows: FlashAttention where it is installed, else torch's own."""
    return "flash_attention_2" if importlib.util.find_spec("flash_attn") else "sdpa"


def in_process(shape: str, method: str, side: str, steps: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--steps", str(steps), "--one", shape, method, side]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    what = {"shape": shape, "method": method, "side": side}
    if done.returncode:
        return what | {"error": (done.stderr.strip().splitlines() or ["?"])[-1]}
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return what | told


def row(result: dict[str, Any]) -> str:
    name = f"{result['shape']:<10} {result['method']:<6} {result['side']:<13}"
    if "error" in result:
        return f"{name} {result['error']}"
    utilization = f"{result['utilization']:.1%}"
    return f"{name} {result['tokens_per_second']:10.0f} tokens/s  {utilization:>6}  {result['peak_gb']:6.1f} GB"


def planned(shape: str, method: str) -> str | None:
    """What the plan says of such a training on this GPU, or on an H100; None if no recipe plans the shape."""
    if shape not in RECIPES:
        return None
    sys.path[0] = str(Path(__file__).parents[1])
    try:
        from tuneline.configs.recipe_file import load_recipe
        from tuneline.stages.plan import make_plan
    except ImportError as error:
        return f"{shape:<10} {method:<6} planned       not told: {error}"
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    gpu = "H200" if "H200" in name else "H100"
    settings = [f"train.method={method}", f"train.rank={RANK}", "train.dropout=0", f"compute.train.gpu={gpu}"]
    settings += [f"data.max_tokens={LENGTH}", "compute.micro_batch_rows=1"]
    recipe = Path(__file__).parents[1] / "configs/recipes" / f"{RECIPES[shape]}.yaml"
    plan = make_plan(load_recipe(recipe, settings), Path(tempfile.gettempdir()) / "no run")
    [way] = [way for way in plan.training.ways if way.asked]
    speed = "-".join(f"{tokens:.0f}" for tokens in way.tokens_per_second)
    return (
        f"{shape:<10} {method:<6} {'planned ' + gpu:<13} {speed:>10} tokens/s          {way.memory.total / 1e9:6.1f} GB"
    )


def ratios(results: list[dict[str, Any]]) -> dict[str, float]:
    speed = {(r["shape"], r["method"], r["side"]): r["tokens_per_second"] for r in results if "error" not in r}
    pairs = {key[:2] for key in speed if all((*key[:2], side) in speed for side in SIDES)}
    return {"_".join(pair): round(speed[*pair, SIDES[1]] / speed[*pair, SIDES[0]], 3) for pair in sorted(pairs)}


def measure(shape: str, method: str, side: str, steps: int) -> dict[str, Any]:
    """Tokens read a second, padding not counted, over all but the first steps."""
    import torch
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    on_gpu, ours = torch.cuda.is_available(), side != SIDES[0]
    torch.manual_seed(0)
    model = adapted(shape, method, ours=ours)
    lengths = made_lengths(4000 if on_gpu else 64)
    rng = random.Random(0)
    ids = [[rng.randrange(10, SHAPES[shape]["vocab_size"]) for _ in range(n)] for n in lengths]
    from datasets import Dataset

    rows = Dataset.from_dict({"input_ids": ids, "labels": ids})
    common: dict[str, Any] = {"max_steps": steps, "report_to": [], "disable_tqdm": True, "save_strategy": "no"}
    common |= {"bf16": on_gpu, "use_cpu": not on_gpu, "logging_steps": 10**6}
    if ours:
        common |= {
            "packing": side != UNPACKED,
            "max_length": LENGTH if on_gpu else 256,
            "per_device_train_batch_size": 1,
        }
        common |= {"gradient_accumulation_steps": 4, "tf32": on_gpu or None, "max_grad_norm": 0.3}
        # A frozen base leaves room: nothing is computed twice.
        common |= {"optim": "paged_adamw_8bit" if on_gpu else "adamw_torch", "activation_checkpointing": False}
    marks: list[tuple[float, float]] = []

    class Marks(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if on_gpu:
                torch.cuda.synchronize()
            marks.append((time.perf_counter(), float(trainer.read)))

    class Counting(SFTTrainer):
        read = 0

        def training_step(self, model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
            mask = inputs.get("attention_mask")
            self.read += int(mask.sum()) if mask is not None else inputs["input_ids"].numel()
            return super().training_step(model, inputs, *more, **named)

    with tempfile.TemporaryDirectory() as folder:
        trainer = Counting(
            model=model, args=SFTConfig(folder, **common), train_dataset=rows, processing_class=tokenizer()
        )
        trainer.add_callback(Marks())
        trainer.train()
    warm = min(WARM_UP, len(marks) - 2) if len(marks) > 2 else 0
    (began, before), (ended, after) = marks[warm], marks[-1]
    speed = (after - before) / (ended - began)
    flops = flops_per_token(model, SHAPES[shape], lengths)
    peak = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else 0.0
    return {
        "tokens_per_second": round(speed, 1),
        "utilization": round(speed * flops / PEAK, 4),
        "peak_gb": round(peak, 2),
        "attention": model.config._attn_implementation,
        "loss_is_finite": math.isfinite(trainer.state.log_history[-1].get("train_loss", math.nan)),
    }


def adapted(shape: str, method: str, *, ours: bool) -> Any:
    """A model of random weights on the device, in 4 bit for qlora, with an adapter on attention and MLP."""
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    settings, on_gpu = SHAPES[shape], torch.cuda.is_available()
    mixture = "num_local_experts" in settings
    extra: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 8192}
    if mixture:
        extra |= {"intermediate_size_mlp": 2 * settings["intermediate_size"], "interleave_moe_layer_step": 1}
    config = getattr(transformers, "Llama4TextConfig" if mixture else "LlamaConfig")(**settings, **extra)
    kind = "flash_attention_2" if ours and not mixture and attention() != "sdpa" else "sdpa"
    with torch.device("cuda" if on_gpu else "cpu"):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16 if on_gpu else torch.float32, attn_implementation=kind
        )
    if mixture:
        model.base_model_prefix = "model"  # TRL looks for the layers there; as it is, it cannot train a Llama 4
    if mixture and ours:
        make_sparse(model, linear=method == "qlora")
    if method == "qlora":
        quantize(model, torch.bfloat16 if on_gpu else torch.float32)
        model.is_loaded_in_4bit = True
    pattern = r".*(self_attn\.[qkvo]_proj|(mlp|feed_forward\.shared_expert|experts\.\d+)\.(gate|up|down)_proj)"
    return get_peft_model(model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=pattern, task_type="CAUSAL_LM"))


def make_sparse(model: Any, *, linear: bool) -> None:
    """Tuneline's experts, by the file alone: its package wants more than this benchmark does."""
    import torch
    from transformers.models.llama4.modeling_llama4 import Llama4TextMLP

    file = Path(__file__).parents[1] / "stages/train/model/sparse_experts.py"
    spec = importlib.util.spec_from_file_location("sparse", file)
    assert spec and spec.loader
    sparse = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sparse)
    sparse.use_sparse_experts(model)
    for layer in model.model.layers if linear else ():
        moe, config = layer.feed_forward, model.config
        with torch.device(moe.experts.down_proj.device):
            experts = [Llama4TextMLP(config).to(moe.experts.down_proj.dtype) for _ in range(moe.num_experts)]
        moe.experts = torch.nn.ModuleList(experts)  # random weights: nothing to be taken over


def quantize(model: Any, compute: Any) -> None:
    """Every Linear but the head and the router in NF4, as bitsandbytes does it when it loads a checkpoint."""
    import bitsandbytes as bnb
    import torch

    model.requires_grad_(False)
    for name, module in list(model.named_modules()):
        if type(module) is not torch.nn.Linear or name.endswith("lm_head"):
            continue
        new = bnb.nn.Linear4bit(
            module.in_features, module.out_features, bias=False, compute_dtype=compute, quant_type="nf4"
        )
        new.weight = bnb.nn.Params4bit(module.weight.data, requires_grad=False, quant_type="nf4")
        model.set_submodule(name, new.to(module.weight.device))


def tokenizer() -> Any:
    """Of no use but that the trainer wants one."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}
    model = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def made_lengths(number: int) -> list[int]:
    spread = statistics.NormalDist(math.log(MEDIAN), SIGMA)
    lengths = [min(LONGEST, max(8, round(math.exp(spread.inv_cdf((i + 0.5) / number))))) for i in range(number)]
    random.Random(1).shuffle(lengths)
    return lengths


def flops_per_token(model: Any, shape: dict[str, Any], lengths: list[int]) -> float:
    total, share = 0.0, 1 / shape.get("num_local_experts", 1)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "embed_tokens" not in name:
            state = getattr(parameter, "quant_state", None)
            weights = state.shape.numel() if state is not None else parameter.numel()
            total += weights * (share if ".experts." in name else 1) * (6 if parameter.requires_grad else 4)
    context = sum(n * n for n in lengths) / sum(lengths)
    return total + 6 * shape["num_hidden_layers"] * shape["num_attention_heads"] * shape["head_dim"] * context


if __name__ == "__main__":
    main()
