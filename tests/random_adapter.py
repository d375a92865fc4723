"""An adapter of the tiny base, made by PEFT alone, and changed copies of it."""

import json
import shutil
from pathlib import Path
from typing import Any

from tuneline.core.paths import ROOT

TINY = ROOT / "data/tiny"


def save_random_adapter(out: Path) -> Path:
    """Return a LoRA adapter by PEFT, its weights random, so that each merged matrix differs from the base's."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    wanted = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    peft = get_peft_model(model, LoraConfig(r=8, lora_alpha=24, target_modules=wanted, init_lora_weights=False))
    peft.save_pretrained(str(out), save_embedding_layers=False)
    return out


def changed_adapter(adapter: Path, out: Path, **settings: Any) -> Path:
    shutil.copytree(adapter, out)
    config = json.loads((out / "adapter_config.json").read_text()) | settings
    (out / "adapter_config.json").write_text(json.dumps(config))
    return out
