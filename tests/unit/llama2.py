"""A tiny random Llama 2 Chat: its kind of tokenizer, chat template and weights."""

import json
from pathlib import Path
from typing import Any

from tests.unit import mistral
from tests.unit.public_templates import LLAMA_2


def tokenizer(words: str) -> Any:
    """Pieces as of Llama 2: a space before each text and before what follows a control token; `[INST]` is text."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    held = json.loads(mistral.tokenizer(words, ()).backend_tokenizer.to_str())
    prepend = {"type": "Prepend", "prepend": "▁"}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    held["normalizer"] = {"type": "Sequence", "normalizers": [prepend, replace]}
    held["pre_tokenizer"] = None
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    made = Tokenizer.from_str(json.dumps(held))
    return PreTrainedTokenizerFast(tokenizer_object=made, chat_template=LLAMA_2, **names)


def save(folder: Path, words: str) -> Path:
    """As a checkpoint: a head of its own, as many heads of keys as of queries."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    own = tokenizer(words)
    own.save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(mistral.sentencepiece(own))
    small: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    small |= {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": len(own)}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**small | ids, tie_word_embeddings=False)).save_pretrained(folder)
    return folder
