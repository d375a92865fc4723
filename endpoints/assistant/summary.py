"""Summaries: what the model makes of a conversation's oldest turns before they are dropped."""

from collections.abc import Sequence

from tuneline.endpoints.assistant.events import Limits
from tuneline.endpoints.assistant.history import CHARACTERS_PER_TOKEN
from tuneline.endpoints.assistant.store import Message
from tuneline.endpoints.assistant.untrusted_text import neutralise
from tuneline.endpoints.prompts import Prompt, find_prompt, prompt_headers
from tuneline.engines.chat_messages import Answer
from tuneline.engines.providers import Chat

PROMPT = "summary"


async def summarise(chat: Chat, before: str, dropped: Sequence[Message], limits: Limits) -> tuple[Prompt, Answer]:
    """Return the prompt that the model was asked with, and its summary of `before` and the dropped messages.

    Of messages that are longer together than a prompt's history, the newest are read.

    Raises:
        StageFailed: the model does not answer; nothing may be dropped then.
    """
    turns = "\n".join(f"{message['role']}: {_text_of(message)}" for message in dropped)
    turns = turns[-round(limits.history_tokens * CHARACTERS_PER_TOKEN) :]
    prompt = find_prompt(PROMPT)
    text = prompt.render({"summary": before, "turns": neutralise(turns)})
    return prompt, await chat.ask(
        [{"role": "user", "content": text}],
        temperature=0,
        max_tokens=limits.summary_tokens,
        extra_headers=prompt_headers(chat.provider.base_url, {prompt.label: prompt.hash}),
    )


def _text_of(message: Message) -> str:
    calls = [f"{call['function']['name']}({call['function']['arguments']})" for call in message.get("tool_calls", ())]
    return " ".join([*filter(None, [message.get("content")]), *calls])
