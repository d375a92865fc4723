"""The system message: the run's own or a prompt's, the style, what was said before, and passages of documents."""

from collections.abc import Sequence
from dataclasses import dataclass

from tuneline.endpoints.assistant.documents import Passage
from tuneline.endpoints.assistant.untrusted_text import neutralise
from tuneline.endpoints.prompts import Prompt, find_prompt, find_style

DOCUMENTS, EARLIER = "documents", "earlier"


@dataclass(frozen=True)
class SystemMessage:
    """Its text (empty: none is sent), and which versions of prompts it was made of, with their hashes."""

    text: str
    prompts: dict[str, str]


def compose_system(
    system: str, prompt: str | None, style: str | None, passages: Sequence[Passage], summary: str = ""
) -> SystemMessage:
    """Return the system message of `system`, a prompt's name, a style's name, passages and a summary of dropped turns;
    each may be empty.

    Raises:
        NotFound: no such prompt or style.
    """
    used: list[tuple[Prompt, str]] = []
    if prompt:
        used.append((found := find_prompt(prompt), found.render()))
    if style:
        used.append((written := find_style(style), written.render()))
    if summary:
        used.append((earlier := find_prompt(EARLIER), earlier.render({"summary": neutralise(summary)})))
    if passages:
        text = "\n\n".join(f"[{passage.source}]\n{neutralise(passage.text)}" for passage in passages)
        around = find_prompt(DOCUMENTS)
        used.append((around, around.render({"passages": text})))
    texts = [system, *(text for _, text in used)]
    return SystemMessage("\n\n".join(filter(None, texts)), {entry.label: entry.hash for entry, _ in used})
