"""The adapter ranks that vLLM takes."""

import json
from pathlib import Path

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's `max_lora_rank` (vllm/config/lora.py); an adapter of another rank is loaded with the next one."""
MAX_LORA_RANK = 128
"""The rank our server starts vLLM with; a recipe with a higher one is refused before training."""


def smallest_max_lora_rank(adapter: Path) -> int:
    """Return the smallest `max_lora_rank` that takes the adapter in this folder; a higher one slows every token."""
    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    return min(allowed for allowed in LORA_RANKS if allowed >= rank)
