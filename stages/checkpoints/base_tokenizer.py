"""Loads the tokenizer of a model folder."""

from pathlib import Path
from typing import Any

from tuneline.core.errors import BadRecipe


def load_tokenizer(folder: Path) -> Any:
    """Return the fast tokenizer of a model folder, as transformers has it; no code of the folder is run.

    Raises:
        BadRecipe: its files are damaged.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except BaseException as error:  # whatever transformers does with values it did not expect; a panic of tokenizers
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        text = f"{type(error).__name__}: {str(error)[:300]}"
        raise BadRecipe(f"{folder}: its tokenizer cannot be loaded: {text}; fetch or save it again") from None
    template = tokenizer.chat_template
    texts = [*template.keys(), *template.values()] if isinstance(template, dict) else [template or ""]
    if not all(isinstance(text, str) for text in texts):
        raise BadRecipe(f"{folder}: its chat_template is neither a text nor a list of named texts; fetch it again")
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise BadRecipe(f"{folder}: its tokenizer has no fast form (tokenizer.json)")
    return tokenizer
