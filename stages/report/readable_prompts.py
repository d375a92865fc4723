"""A prompt as people read it: who says what, without the control tokens of the chat template."""

import re

_HEADER = re.compile(
    r"<\|start_header_id\|>\s*(\w+)\s*<\|end_header_id\|>"  # Llama 3
    r"|<\|header_start\|>\s*(\w+)\s*<\|header_end\|>"  # Llama 4
    r"|<\|im_start\|>\s*(\w+)"  # ChatML
    r"|(\[INST\])"  # Mistral and Llama 2
)
_CONTROL = re.compile(r"<\|[a-z0-9_]+\|>|</?s>|\[/?INST\]")


def split_prompt(text: str) -> list[tuple[str, str]]:
    """Return (role, text) of each message in a rendered prompt; the role is empty where the prompt's start is cut off.

    A prompt of a template with other headers is one message without its control tokens. Empty messages, as the header
    of the answer to come, are left out.
    """
    messages, role, position = [], "", 0
    for header in _HEADER.finditer(text):
        messages.append((role, text[position : header.start()]))
        role = "user" if header[4] else next(name for name in header.groups()[:3] if name)
        position = header.end()
    messages.append((role, text[position:]))
    cleaned = ((role, _CONTROL.sub("", content).strip()) for role, content in messages)
    return [(role, content) for role, content in cleaned if content]
