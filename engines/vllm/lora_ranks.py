"""The adapter ranks that vLLM takes."""

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's `max_lora_rank` (vllm/config/lora.py); an adapter of another rank is loaded with the next one."""
MAX_LORA_RANK = 128
"""The rank our server starts vLLM with; a recipe with a higher one is refused before training."""
