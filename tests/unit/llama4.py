"""A tiny random Llama 4: two layers, four experts each, small enough to train in a second."""

from pathlib import Path
from typing import Any

EXPERTS = 4


def config(**other: Any) -> Any:
    from transformers import Llama4TextConfig

    small = {"hidden_size": 64, "intermediate_size": 96, "intermediate_size_mlp": 128, "num_hidden_layers": 2}
    small |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 128}
    small |= {"num_local_experts": EXPERTS, "interleave_moe_layer_step": 1, "attention_chunk_size": 128}
    small |= {"max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return Llama4TextConfig(**small | other)


def random_model(**other: Any) -> Any:
    import torch
    from transformers import Llama4ForCausalLM

    torch.manual_seed(0)
    model = Llama4ForCausalLM(config(**other))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.08)
    return model


def save(folder: Path, dtype: str = "float32", **other: Any) -> Path:
    """As a checkpoint of the text model."""
    import torch

    random_model(**other).to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


def save_with_tokenizer(folder: Path, tokenizer: Path) -> Path:
    """Its words those of another base."""
    import json
    import shutil

    folder.mkdir(parents=True, exist_ok=True)
    for file in tokenizer.iterdir():
        if file.name.startswith(("tokenizer", "generation")) or file.suffix == ".jinja":
            shutil.copyfile(file, folder / file.name)
    words = json.loads((tokenizer / "config.json").read_text())
    ids = {key: words[key] for key in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
    return save(folder, **ids, max_position_embeddings=1024)


def tokens() -> Any:
    import torch

    return torch.randint(3, 128, (3, 40), generator=torch.Generator().manual_seed(1))
