"""The tokens at which a tuned model stops: those of its base, and the one that ends a turn of its chat template."""

import json
from pathlib import Path
from typing import Any

from tuneline.core.errors import BadRecipe
from tuneline.stages.prepare.rendering.assistant_turns import AssistantTurns
from tuneline.stages.prepare.rendering.chat_templates import ChatTemplate

GENERATION_CONFIG = "generation_config.json"


def stop_token_ids(tokenizer: Any) -> list[int]:
    """Return the ids at which a model with this tokenizer and its chat template stops."""
    added = added_stop_id(tokenizer)
    return sorted([*base_stop_ids(tokenizer), *([] if added is None else [added])])


def added_stop_id(tokenizer: Any) -> int | None:
    """Return the id that ends a turn of the chat template if the base does not stop at it, else None.

    None as well if no token ends a turn: prepare refuses such a template for conversations, and training on texts alone
    does not need it.
    """
    if not tokenizer.chat_template:
        return None
    try:
        end = _turn_end_id(tokenizer)
    except BadRecipe:
        return None
    return None if end in base_stop_ids(tokenizer) else end


def base_stop_ids(tokenizer: Any) -> list[int]:
    """Return the ids at which transformers and vLLM stop: of the generation config beside a tokenizer, and its EOS."""
    file = Path(tokenizer.name_or_path) / GENERATION_CONFIG
    configured = json.loads(file.read_text("utf-8")).get("eos_token_id") if file.exists() else None
    ids = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in (*ids, tokenizer.eos_token_id) if token is not None})


def _turn_end_id(tokenizer: Any) -> int:
    template = ChatTemplate(tokenizer.chat_template, tokenizer.special_tokens_map)
    end: int = tokenizer.convert_tokens_to_ids(AssistantTurns(template, control_tokens(tokenizer)).end_token)
    return end


def control_tokens(tokenizer: Any) -> set[str]:
    """Return the texts of a tokenizer's tokens that can end a turn."""
    return {*tokenizer.get_added_vocab(), *map(str, tokenizer.special_tokens_map.values())}
