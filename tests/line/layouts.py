"""Repositories of the shape that public models have on the hub, at tiny width: shards and index, config, files beside.

Weights are random, words are this project's own. Facts are those of the repositories' file lists and configs: shards
and types, ids that end a turn, rope scaling, tied heads, the prefix of Llama 4's text model, makers' own layouts.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.line import small
from tests.unit import llama2, llama4, mistral
from tuneline.core.paths import ROOT

TINY = ROOT / "data/tiny"
WORDS = " ".join(f"Ana has {n} {fruit} more. How many?" for n in range(100) for fruit in small.FRUIT)
LLAMA_3_ENDS = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
LLAMA_4_NAMES = {
    "<|start_header_id|>": "<|header_start|>",
    "<|end_header_id|>": "<|header_end|>",
    "<|eot_id|>": "<|eot|>",
    "<|eom_id|>": "<|eom|>",
    "<|python_tag|>": "<|python_start|>",
}
"""Control tokens for which Llama 4 has other names."""
BESIDE: Mapping[str, bytes] = {
    ".gitattributes": b"*.safetensors filter=lfs",
    "LICENSE.txt": b"",
    "README.md": b"---\n---\n",
    "USE_POLICY.md": b"",
}
META_FILES = ("original/consolidated.00.pth", "original/params.json", "original/tokenizer.model")


@dataclass(frozen=True)
class Layout:
    """A public model's repository."""

    repository: str
    shards: int
    """1 is `model.safetensors`, without an index."""
    make: Callable[[Path], Any]
    """Writes tokenizer, config and generation_config to a folder, and returns the model."""
    beside: tuple[str, ...] = META_FILES
    """Files that are not taken."""
    gated: bool = True
    template: str = ""
    """The recipe's template, where its own is not used."""


def llama_3(*, tied: bool, factor: float, ends: tuple[str, ...] = LLAMA_3_ENDS, head_dim: int = 16) -> Any:
    """Llama 3.x Instruct: the tiny base's tokenizer, of its family; several ends of turn, no padding token."""

    def make(folder: Path) -> Any:
        from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

        tokenizer = AutoTokenizer.from_pretrained(TINY)
        tokenizer.save_pretrained(folder)
        ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.convert_tokens_to_ids(list(ends))}
        scaling = {"factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_type": "llama3"}
        scaling |= {"original_max_position_embeddings": 512}
        config = LlamaConfig(
            **_small(4, 2, head_dim, len(tokenizer)),
            **ids,
            rope_theta=500000.0,
            rope_scaling=scaling,
            tie_word_embeddings=tied,
            max_position_embeddings=2048,
        )
        (folder / "generation_config.json").write_text(json.dumps(ids | {"do_sample": True, "temperature": 0.6}))
        return LlamaForCausalLM(config)

    return make


def llama_2(folder: Path) -> Any:
    """Llama 2 7B chat: a SentencePiece tokenizer, as many heads of keys as of queries, in fp16."""
    from transformers import AutoModelForCausalLM

    llama2.save(folder, WORDS)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(ids | {"do_sample": True, "max_length": 4096}))
    return AutoModelForCausalLM.from_pretrained(folder)


def mistral_7b(folder: Path) -> Any:
    """Mistral 7B 0.3: no sliding window, control tokens of calls, and Mistral's own files beside the hub's."""
    from transformers import AutoModelForCausalLM

    mistral.save(folder, WORDS)
    return AutoModelForCausalLM.from_pretrained(folder)


def llama_4(folder: Path) -> Any:
    """Llama 4 Scout: a text model inside one that sees, whose weights are named after it."""
    from transformers import AutoTokenizer, Llama4Config, Llama4ForConditionalGeneration, Llama4VisionConfig

    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    for file in folder.iterdir():
        text = file.read_text(encoding="utf-8")
        for ours, theirs in LLAMA_4_NAMES.items():
            text = text.replace(ours, theirs)
        file.write_text(text, encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ends = tokenizer.convert_tokens_to_ids(["<|end_of_text|>", "<|eom|>", "<|eot|>"])
    ids = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id, "eos_token_id": ends}
    ids["pad_token_id"] = tokenizer.convert_tokens_to_ids("<|end_of_text|>")
    # Every fourth layer sees all: llama.cpp keeps a cache for these alone, and does not start where there is none.
    text = llama4.config(**ids, max_position_embeddings=2048, num_hidden_layers=4)
    vision = Llama4VisionConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        projector_input_dim=32,
        projector_output_dim=32,
        vision_output_dim=32,
        image_size=28,
        patch_size=14,
    )
    config = Llama4Config(text_config=text.to_dict(), vision_config=vision.to_dict(), tie_word_embeddings=False)
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "Llama4ImageProcessorFast"}')
    (folder / "processor_config.json").write_text('{"processor_class": "Llama4Processor"}')
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends, "do_sample": True}))
    return Llama4ForConditionalGeneration(config)


MISTRAL_FILES = ("consolidated.safetensors", "params.json", "tokenizer.model.v3")
LLAMA_2_FILES = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json")
LAYOUTS = {
    "llama-2-7b-chat": Layout("meta-llama/Llama-2-7b-chat-hf", 2, llama_2, LLAMA_2_FILES),
    "llama-3.1-8b": Layout("meta-llama/Llama-3.1-8B-Instruct", 4, llama_3(tied=False, factor=8.0)),
    "llama-3.2-1b": Layout("meta-llama/Llama-3.2-1B-Instruct", 1, llama_3(tied=True, factor=32.0, head_dim=8)),
    "llama-3.3-70b": Layout("meta-llama/Llama-3.3-70B-Instruct", 30, llama_3(tied=False, factor=8.0)),
    "llama-4-scout": Layout("meta-llama/Llama-4-Scout-17B-16E-Instruct", 50, llama_4, (), template="llama-4"),
    "mistral-7b-0.3": Layout("mistralai/Mistral-7B-Instruct-v0.3", 3, mistral_7b, MISTRAL_FILES),
}


def make_repository(layout: Layout, folder: Path) -> dict[str, bytes]:
    """Return the content of the repository's files, by their names."""
    import torch

    torch.manual_seed(0)
    made = folder / "made"
    made.mkdir()
    model = layout.make(made)
    weights = folder / "weights"
    dtype = torch.float16 if layout.make is llama_2 else torch.bfloat16
    model.to(dtype).save_pretrained(weights)
    for file in made.glob("*.safetensors"):
        file.unlink()
    (made / "config.json").write_bytes((weights / "config.json").read_bytes())
    files = {file.name: file.read_bytes() for file in made.iterdir()}
    return {**files, **_split(weights, layout.shards), **BESIDE, **dict.fromkeys(layout.beside, b"other")}


def _split(folder: Path, count: int) -> dict[str, bytes]:
    """Return the weights of a folder in `count` shards with their index, named as the hub's are."""
    from safetensors.torch import load_file, save

    tensors = {name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(file).items()}
    if count == 1:
        return {"model.safetensors": save(tensors, {"format": "pt"})}
    names = [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
    shards: dict[str, dict[str, Any]] = {name: {} for name in names}
    for position, (tensor, value) in enumerate(tensors.items()):
        shards[names[position * count // len(tensors)]][tensor] = value
    written = {name: shard for name, shard in shards.items() if shard}
    index = {
        "metadata": {"total_size": sum(t.numel() * t.element_size() for t in tensors.values())},
        "weight_map": {tensor: name for name, shard in written.items() for tensor in shard},
    }
    content = {name: save(shard, {"format": "pt"}) for name, shard in written.items()}
    return content | {"model.safetensors.index.json": json.dumps(index).encode()}


def _small(heads: int, kv_heads: int, head_dim: int, vocabulary: int) -> dict[str, Any]:
    return {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": vocabulary,
    }
