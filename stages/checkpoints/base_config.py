"""Readers of a model folder's `config.json`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CHAT_TEMPLATE = "chat_template.jinja"
"""File name of the chat template in a model folder."""


def read_config(model: Path) -> dict[str, Any]:
    """Return the content of `config.json` in the folder `model`."""
    config: dict[str, Any] = json.loads((model / "config.json").read_text())
    return config


def read_context_length(model: Path) -> int:
    """Return the most tokens that the model in a folder was made for. Multimodal models say so in their `text_config`.

    Raises:
        KeyError: its config.json does not say.
    """
    config = read_config(model)
    return int(config.get("text_config", config)["max_position_embeddings"])


def is_tied(config: Mapping[str, Any]) -> bool:
    """Return whether input and output embeddings are one matrix. Multimodal models say so in their `text_config`."""
    return bool(config.get("tie_word_embeddings", config.get("text_config", {}).get("tie_word_embeddings", False)))
