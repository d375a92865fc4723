"""The run's own conversations and the tokenizer that renders them, as the model was trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneline.stages.checkpoints.base_tokenizer import load_tokenizer as load_base_tokenizer
from tuneline.stages.convert.task import Task


@dataclass(frozen=True)
class Conversation:
    """Messages of which the last is the assistant's or the user's, and the tools that the model is shown."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None

    @property
    def prompt(self) -> list[dict[str, Any]]:
        """The messages before the assistant's last answer."""
        return self.messages[:-1] if self.messages[-1]["role"] == "assistant" else self.messages


def read_conversations(prepared: Path, files: Sequence[str], limit: int) -> list[Conversation]:
    """Return up to `limit` conversations of the run, from these files of its prepared data in this order."""
    from tuneline.stages.prepare.prepared_run import load_tools, read_prepared

    catalogue = load_tools(prepared)
    conversations: list[Conversation] = []
    for file in (prepared / name for name in files):
        for row in read_prepared(file) if file.exists() and len(conversations) < limit else ():
            if row.messages:
                tools = catalogue.openai(row.tools) if catalogue and row.tools else None
                conversations.append(Conversation(row.chat(), tools))
    return conversations[:limit]


def load_tokenizer(task: Task) -> Any:
    """Return the base's tokenizer with the tuned model's chat template."""
    tokenizer = load_base_tokenizer(task.base)
    if task.template:
        tokenizer.chat_template = task.template.read_text("utf-8")
    return tokenizer


def render(tokenizer: Any, conversation: Conversation) -> str:
    """Return the text the model was trained on, up to where the assistant answers if the last message is the user's."""
    return _apply_template(tokenizer, conversation.messages, conversation.tools)


def render_prompt(tokenizer: Any, conversation: Conversation) -> str:
    """Return the text up to where the assistant gives its last answer."""
    return _apply_template(tokenizer, conversation.prompt, conversation.tools)


def _apply_template(tokenizer: Any, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str:
    text: str = tokenizer.apply_chat_template(
        messages, tools=tools, tokenize=False, add_generation_prompt=messages[-1]["role"] != "assistant"
    )
    return text


def tokenize(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of a rendered text, which has its special tokens already."""
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids
