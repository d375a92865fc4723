"""The parser by which vLLM reads a base's tool calls."""

import json
from pathlib import Path

from tuneline.configs.models import registry
from tuneline.engines.tool_calls import HERMES, MISTRAL, TAG

LLAMA_3 = "llama3_json"
LLAMA_4 = "tuneline_llama4"
"""The name under which `LLAMA_4_PLUGIN` registers our own parser."""
LLAMA_4_PLUGIN = Path(__file__).with_name("llama4_tool_parser.py")
PARSERS_BY_TAG = {TAG: LLAMA_3, MISTRAL: "mistral"}
"""vLLM's parsers by the tag that the tokenizer has."""
PARSERS_BY_TEXT = {HERMES: "hermes", MISTRAL: "mistral"}
"""vLLM's parsers by what a chat template writes before calls."""


def tool_parser_for(base: str, model: Path, template: str | None = None) -> str | None:
    """Return the name of vLLM's tool parser for a model in the folder `model`, or None if it has none.

    It is the one that reads what the tuned model's `template` (or the folder's own) writes; else the one that
    models.yaml names for the base; else that of Llama 4, or of the tag that the tokenizer has.
    """
    text = template or _read_template(model)
    if parser := next((parser for tag, parser in PARSERS_BY_TEXT.items() if tag in text), None):
        return parser
    if (key := registry().find(base)) and (listed := registry().models[key].tool_parser):
        return listed
    config, tokenizer = model / "config.json", model / "tokenizer.json"
    if config.exists() and str(json.loads(config.read_text("utf-8")).get("model_type")).startswith("llama4"):
        return LLAMA_4
    tokenizer_text = tokenizer.read_text("utf-8") if tokenizer.exists() else ""
    return next((parser for tag, parser in PARSERS_BY_TAG.items() if tag in tokenizer_text), None)


def _read_template(model: Path) -> str:
    """Return the chat templates beside a tokenizer, or an empty text if it has none."""
    files = [model / "chat_template.jinja", *model.glob("additional_chat_templates/*.jinja")]
    texts = [file.read_text("utf-8") for file in files if file.exists()]
    config = model / "tokenizer_config.json"
    if not texts and config.exists():
        texts = [json.dumps(json.loads(config.read_text("utf-8")).get("chat_template") or "", ensure_ascii=False)]
    return "\n".join(texts)
