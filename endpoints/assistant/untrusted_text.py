"""Text that others wrote, as tools' results and documents: data, whatever it says.

A server renders a conversation as one text and tokenizes it with control tokens; a result that has one would end its
turn and begin another's. So control tokens of all templates are written apart.
"""

import re

_CONTROL = re.compile(
    r"<(?=\||/?(?:s|unk|pad|bos|eos|tool_call|tool_response|tools|think|start_of_turn|end_of_turn)>)"
    r"|(?<=\|)>"
    r"|\[(?=/?(?:INST|SYS|TOOL_CALLS|TOOL_RESULTS|AVAILABLE_TOOLS|SYSTEM_PROMPT|ARGS|CALL_ID)\])",
    re.I,
)
"""Where a control token of Llama, ChatML, Hermes, Mistral or Gemma begins, or one between bars ends."""


def neutralise(text: str) -> str:
    """Return a text whose control tokens are ordinary characters: `< |eot_id| >`; half a character becomes `?`."""
    whole = text.encode("utf-8", "replace").decode()
    return _CONTROL.sub(lambda match: f" {match[0]}" if match[0] == ">" else f"{match[0]} ", whole)


def cut(text: str, limit: int) -> str:
    """Return at most `limit` characters of a text; the model is told how many there were."""
    return text if len(text) <= limit else f"{text[:limit]}\n(cut: the first {limit:,} of {len(text):,} characters)"


def names_tool(text: str, dotted: str, wire: str) -> bool:
    """Return whether a text names a tool as an instruction would: a name of several words, or one that is quoted or
    called. A single word, as `order`, is in ordinary text too."""
    for name in {dotted, wire}:
        escaped = re.escape(name)
        is_word = re.fullmatch(r"[A-Za-z0-9]+", name)
        pattern = rf"[\"'`]{escaped}[\"'`]|\b{escaped}\s*\(" if is_word else rf"(?<![\w.]){escaped}(?![\w])"
        if re.search(pattern, text, re.I):
            return True
    return False
