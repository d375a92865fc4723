"""A Llama of random weights in shards, with an adapter beside it."""

import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.common.rounds import ROOT

SHARD_BYTES = 1 << 30
RANK = 16
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SHAPES = {
    0.1: {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 10},
    0.3: {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 22},
    1.1: {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22},
    3.0: {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28},
}


def save_random_llama(folder: Path, billions: float) -> tuple[Path, int]:
    """A random model in shards with the tiny base's tokenizer, `adapter/` beside it; and how many parameters it has."""
    import torch
    from safetensors.torch import save_file

    config = json.loads((ROOT / "data/tiny/config.json").read_text()) | SHAPES[billions]
    hidden = config["hidden_size"]
    heads, shared = hidden // 64, max(1, hidden // 512)
    config |= {"num_attention_heads": heads, "num_key_value_heads": shared, "vocab_size": 32000, "head_dim": 64}
    base, adapter = folder / "base", folder / "adapter"
    base.mkdir(parents=True)
    adapter.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copyfile(ROOT / "data/tiny" / name, base / name)
    (base / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    tensors = llama_shapes(config) | {"lm_head.weight": (32000, hidden)}
    torch.manual_seed(0)
    _save_shards(base, tensors)
    weights = {}
    for name, shape in tensors.items():
        if name.endswith("proj.weight"):
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            weights[f"{stem}.lora_A.weight"] = torch.randn(RANK, shape[1]) * 0.02
            weights[f"{stem}.lora_B.weight"] = torch.randn(shape[0], RANK) * 0.02
    save_file(weights, adapter / "adapter_model.safetensors", {"format": "pt"})
    lora = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 32, "target_modules": LINEARS}
    (adapter / "adapter_config.json").write_text(json.dumps(lora | {"bias": "none", "inference_mode": True}))
    return base, sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in tensors.values())


def llama_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight of a Llama with this configuration, but for `lm_head`."""
    hidden, middle = config["hidden_size"], config["intermediate_size"]
    shared = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = dict(zip(LINEARS, [(hidden, hidden), (shared, hidden), (shared, hidden), (hidden, hidden)], strict=False))
    shapes |= {"gate_proj": (middle, hidden), "up_proj": (middle, hidden), "down_proj": (hidden, middle)}
    tensors = {"model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        tensors |= {f"{at}.{n}_layernorm.weight": (hidden,) for n in ("input", "post_attention")}
        for name, shape in shapes.items():
            tensors[f"{at}.{'mlp' if name in LINEARS[4:] else 'self_attn'}.{name}.weight"] = shape
    return tensors


def _save_shards(base: Path, tensors: dict[str, Any]) -> None:
    import torch
    from safetensors.torch import save_file

    shard: dict[str, torch.Tensor] = {}
    shards: list[dict[str, torch.Tensor]] = []
    index: dict[str, str] = {}
    left = sum(2 * torch.Size(shape).numel() for shape in tensors.values())
    total, count = left, -(-left // SHARD_BYTES)
    for name, shape in tensors.items():
        shard[name] = torch.randn(shape).mul_(0.02).to(torch.bfloat16)
        left -= 2 * shard[name].numel()
        if sum(2 * weight.numel() for weight in shard.values()) >= SHARD_BYTES or not left:
            file = f"model-{len(shards) + 1:05}-of-{count:05}.safetensors"
            save_file(shard, base / file, {"format": "pt"})
            index |= dict.fromkeys(shard, file)
            shards.append({})
            shard = {}
    (base / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": index})
    )
