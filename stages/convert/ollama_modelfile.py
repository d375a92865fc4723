"""Modelfiles for Ollama, and a reader of their format to check them with.

Ollama's TEMPLATE is in Go's template language, a GGUF's in Jinja. So what the chat template writes around each turn is
found by rendering, and written in Go; both templates must then render other conversations to the same text. The first
token is left out: Ollama itself puts it before the prompt. https://docs.ollama.com/modelfile
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SUFFIX = ".Modelfile"
MAX_CONTEXT = 8192
"""Largest context in a Modelfile, in tokens: Ollama reserves memory for all of it at once."""
ROLES = ("system", "user", "assistant")
_INSTRUCTION = re.compile(
    r'(FROM|TEMPLATE|PARAMETER \w+) (?:"""((?:.|\n)*?)"""|("(?:[^"\\\n]|\\.)*")|([^"\n][^\n]*))\n'
)
_RANGE = re.compile(r"(.*?)\{\{ range \.Messages \}\}(.*)\{\{ end \}\}\{\{ end \}\}(.*)", re.S)
_BRANCH = re.compile(r'\{\{ (?:else )?if eq \.Role "(\w+)" \}\}(.*?)\{\{ \.Content \}\}(.*?)(?=\{\{ else if|\Z)', re.S)


@dataclass(frozen=True)
class Turns:
    """A chat template as the texts that it writes at the start, around each role's content, and before an answer."""

    start: str
    around: dict[str, tuple[str, str]]
    answer: str

    @property
    def go_template(self) -> str:
        """The template in Go's language, over Ollama's list of messages."""
        cases = "{{ else ".join(
            f'{"" if n else "{{ "}if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}'
            for n, (role, (before, after)) in enumerate(self.around.items())
        )
        return f"{self.start}{{{{ range .Messages }}}}{cases}{{{{ end }}}}{{{{ end }}}}{self.answer}"


def find_turns(tokenizer: Any) -> Turns | None:
    """Return the turns of the tokenizer's chat template, or None if it does more than put a text around each."""
    from jinja2 import TemplateError

    conversation = [{"role": role, "content": f"\x01{role}\x01"} for role in ROLES]
    _, user, _ = conversation

    def render(messages: Sequence[dict[str, str]], *, prompt: bool = False) -> str:
        text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt)
        return text.removeprefix(tokenizer.bos_token or "")

    try:
        question, instructed, answered = (render(m) for m in ([user], conversation[:2], conversation))
        turn = render([user, user]).removeprefix(question)
        start = question.removesuffix(turn)
        parts = instructed.removeprefix(start).removesuffix(turn), turn, answered.removeprefix(instructed)
        cut = [part.partition(message["content"]) for part, message in zip(parts, conversation, strict=True)]
        around = {role: (before, after) for role, (before, _, after) in zip(ROLES, cut, strict=True)}
        turns = Turns(start, around, render([user], prompt=True).removeprefix(question))
        same = all(
            render_go_template(turns.go_template, messages) == render(messages, prompt=True)
            for messages in _other_conversations(*conversation)
        )
    except (TemplateError, ValueError):  # a template may refuse two questions in a row, or a role
        return None
    return turns if same and '"""' not in turns.go_template else None


def _other_conversations(
    system: dict[str, str], user: dict[str, str], assistant: dict[str, str]
) -> list[list[dict[str, str]]]:
    """Return conversations of these roles that end with the user, with other contents."""
    conversations = (
        [user],
        [system, user],
        [system, user, assistant, user],
        [user, assistant, user],
        [system, user, assistant, user, assistant, user],
    )
    return [[message | {"content": f"text {n}"} for n, message in enumerate(turns)] for turns in conversations]


def format_modelfile(file: str, turns: Turns, stops: Sequence[str], *, context: int) -> str:
    """Return the text of a Modelfile for the GGUF `file`, which is in the same folder."""
    parameters = [f"num_ctx {context}", "temperature 0", *(f"stop {json.dumps(stop)}" for stop in stops)]
    lines = [f"FROM ./{file}", f'TEMPLATE """{turns.go_template}"""', *(f"PARAMETER {line}" for line in parameters)]
    return "\n".join(lines) + "\n"


def parse_modelfile(text: str) -> dict[str, list[str]]:
    """Return the values of each instruction in a Modelfile, in order. The key of a parameter includes its name.

    Raises:
        ValueError: a line is not an instruction; the message has its number.
    """
    instructions: dict[str, list[str]] = {}
    at = 0
    while at < len(text):
        match = _INSTRUCTION.match(text, at)
        if match is None:
            raise ValueError(f"line {text.count(chr(10), 0, at) + 1} is no instruction: {text[at : at + 40]!r}")
        long, quoted, bare = match[2], match[3], match[4]
        value = long if long is not None else json.loads(quoted) if quoted else bare
        instructions.setdefault(match[1], []).append(value)
        at = match.end()
    return instructions


def render_go_template(template: str, messages: Sequence[dict[str, Any]]) -> str:
    """Return what Go renders from a template as it is written here: a range over messages, in it a choice by role.

    Raises:
        ValueError: it is a template of another kind.
    """
    parts = _RANGE.fullmatch(template)
    if parts is None:
        raise ValueError("no range over messages")
    branches = {role: (before, after) for role, before, after in _BRANCH.findall(parts[2])}
    texts = [part for pair in branches.values() for part in pair]
    if set(branches) != set(ROLES) or any("{{" in text for text in (parts[1], *texts, parts[3])):
        raise ValueError("no choice of one text around each role")
    turns = [branches[m["role"]][0] + m["content"] + branches[m["role"]][1] for m in messages]
    return "".join([parts[1], *turns, parts[3]])
