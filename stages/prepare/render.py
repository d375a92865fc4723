"""From messages to token ids and the mask of learned tokens, by the base's own chat template.

Training, evaluation and serving use one template, the one that lies beside the base's tokenizer. Assistant turns
stand inside `{% generation %}`; only what is inside is learned.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.catalogue import Catalogue
from stages.errors import BadRecipe
from stages.prepare.rows import Row


@dataclass(frozen=True)
class Rendered:
    """Token ids of a row and, for each, 1 if it is learned."""

    ids: list[int]
    mask: list[int]


class Renderer:
    """Renders rows with one base's tokenizer and chat template."""

    def __init__(self, base: Path, catalogue: Catalogue | None) -> None:
        from transformers import AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(base, local_files_only=True)
        self.catalogue = catalogue
        if "{% generation %}" not in _without_dashes(self.tokenizer.chat_template or ""):
            raise BadRecipe(
                f"{base}: its chat template marks no assistant turn with {{% generation %}}: nothing could be learned; "
                "put one that does in chat_template.jinja beside its tokenizer"
            )

    def __call__(self, row: Row) -> Rendered:
        out: Any = self.tokenizer.apply_chat_template(
            row.chat(), tools=self.tools(row), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        return Rendered(out["input_ids"], out["assistant_masks"])

    def tools(self, row: Row) -> list[dict[str, Any]] | None:
        return self.catalogue.openai(row.tools) if self.catalogue and row.tools else None


def _without_dashes(template: str) -> str:
    return template.replace("{%-", "{%").replace("-%}", "%}")
