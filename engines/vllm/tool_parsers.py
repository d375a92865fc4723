"""The parser by which vLLM reads a base's tool calls."""

import json
from pathlib import Path

from tuneline.configs.models import registry
from tuneline.engines.tool_calls import MISTRAL, TAG

LLAMA_3 = "llama3_json"
LLAMA_4 = "tuneline_llama4"
"""The name under which `LLAMA_4_PLUGIN` registers our own parser."""
LLAMA_4_PLUGIN = Path(__file__).with_name("llama4_tool_parser.py")
PARSERS_BY_TAG = {TAG: LLAMA_3, MISTRAL: "mistral"}
"""vLLM's parsers by the tag that the tokenizer has."""


def tool_parser_for(base: str, model: Path) -> str | None:
    """Return the name of vLLM's tool parser for a base whose weights are in the folder `model`, or None if it has none.

    It is the one that models.yaml names; else that of Llama 4, or of the tag that the tokenizer has.
    """
    if (key := registry().find(base)) and (listed := registry().models[key].tool_parser):
        return listed
    config, tokenizer = model / "config.json", model / "tokenizer.json"
    if config.exists() and str(json.loads(config.read_text("utf-8")).get("model_type")).startswith("llama4"):
        return LLAMA_4
    tokenizer_text = tokenizer.read_text("utf-8") if tokenizer.exists() else ""
    return next((parser for tag, parser in PARSERS_BY_TAG.items() if tag in tokenizer_text), None)
