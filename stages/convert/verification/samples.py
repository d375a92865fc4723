"""The texts and conversations that every file is verified on: the run's own, and hard ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneline.stages.convert.conversations import (
    Conversation,
    load_tokenizer,
    read_conversations,
    render,
    render_prompt,
    tokenize,
)
from tuneline.stages.convert.task import Task

MAX_CONVERSATIONS = 64
"""Conversations of the run whose tokens are compared."""
HARD_TEXTS = (
    "Grüße, naïve façade, Ærøskøbing – “quotes” … 1234567 3.14159 -0x1F",
    "東京タワー 北京 서울 ไทย हिन्दी العربية עברית ქართული አማርኛ ᚠᛇᚻ",
    "😀👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 é \u200b\ufeff \U00010348 \U0001f9ff",
    "  leading\n\n\n\ttabs \r\n windows   end   ",
    'def f(x):\n    return {"a": [1, 2.5e-3, None], "b": \'\\\\n\'}  # <b>&amp;</b>',
    "I'll we've IT'S don't 'RE ' s 'll",
)
HARD_CONVERSATIONS = (
    Conversation([{"role": "user", "content": HARD_TEXTS[0]}], None),
    Conversation(
        [
            {"role": "system", "content": "  You help. "},
            {"role": "user", "content": HARD_TEXTS[2]},
            {"role": "assistant", "content": " Done. "},
            {"role": "user", "content": HARD_TEXTS[4]},
        ],
        None,
    ),
)


@dataclass(frozen=True)
class Samples:
    """What the files are compared on, and the tuned model's tokenizer."""

    tokenizer: Any
    conversations: list[Conversation]
    """The run's own, then HARD_CONVERSATIONS, without a system message where the template refuses one."""
    texts: Sequence[str]
    """HARD_TEXTS, then the rendered conversations."""

    def sequences(self, tokens: int) -> list[list[int]]:
        """Return the ids of rendered conversations, `tokens` in all."""
        sequences: list[list[int]] = []
        for text in self.texts[len(HARD_TEXTS) :]:
            ids = tokenize(self.tokenizer, text)[: tokens - sum(map(len, sequences))]
            if len(ids) < 2:
                break
            sequences.append(ids)
        return sequences

    def prompts(self, count: int) -> list[list[int]]:
        """Return the ids of the first `count` conversations, up to where the assistant answers."""
        prompts = [render_prompt(self.tokenizer, conversation) for conversation in self.conversations[:count]]
        return [tokenize(self.tokenizer, prompt) for prompt in prompts]


def load_samples(task: Task, prepared: Path) -> Samples:
    """Return the samples of the run with this prepared data."""
    tokenizer = load_tokenizer(task)
    files = ("validation.jsonl", "train.jsonl")
    hard = [_fit(conversation, tokenizer) for conversation in HARD_CONVERSATIONS]
    conversations = [*read_conversations(prepared, files, MAX_CONVERSATIONS), *hard]
    texts = [(tokenizer.bos_token or "") + text for text in HARD_TEXTS]
    texts += [render(tokenizer, conversation) for conversation in conversations]
    return Samples(tokenizer, conversations, texts)


def _fit(conversation: Conversation, tokenizer: Any) -> Conversation:
    """Return the conversation, without its system message if the chat template refuses one."""
    from jinja2 import TemplateError

    try:
        render(tokenizer, conversation)
    except TemplateError:
        return Conversation([m for m in conversation.messages if m["role"] != "system"], conversation.tools)
    return conversation
