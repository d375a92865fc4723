"""A Modelfile for Ollama beside the GGUF, and a reader of its format to check it with.

Ollama's TEMPLATE is in Go's template language, the GGUF's in Jinja. So what the chat template writes around each turn
is found by rendering, and written as Go; both then have to make the same of other conversations. Ollama puts the first
token before the prompt itself, so it is left out. https://docs.ollama.com/modelfile
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SUFFIX = ".Modelfile"
MOST_CONTEXT = 8192
"""Ollama reserves memory for all of it at once."""
ROLES = ("system", "user", "assistant")
_INSTRUCTION = re.compile(
    r'(FROM|TEMPLATE|PARAMETER \w+) (?:"""((?:.|\n)*?)"""|("(?:[^"\\\n]|\\.)*")|([^"\n][^\n]*))\n'
)
_RANGE = re.compile(r"(.*?)\{\{ range \.Messages \}\}(.*)\{\{ end \}\}\{\{ end \}\}(.*)", re.S)
_BRANCH = re.compile(r'\{\{ (?:else )?if eq \.Role "(\w+)" \}\}(.*?)\{\{ \.Content \}\}(.*?)(?=\{\{ else if|\Z)', re.S)


@dataclass(frozen=True)
class Turns:
    """What a chat template writes at the start, around each role's content, and before an answer."""

    start: str
    around: dict[str, tuple[str, str]]
    answer: str

    @property
    def go(self) -> str:
        """The template in Go's language, over Ollama's list of messages."""
        cases = "{{ else ".join(
            f'{"" if n else "{{ "}if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}'
            for n, (role, (before, after)) in enumerate(self.around.items())
        )
        return f"{self.start}{{{{ range .Messages }}}}{cases}{{{{ end }}}}{{{{ end }}}}{self.answer}"


def turns_of(tokenizer: Any) -> Turns | None:
    """How the tokenizer's chat template writes turns; None if it does more than put a text around each."""
    from jinja2 import TemplateError

    talk = [{"role": role, "content": f"\x01{role}\x01"} for role in ROLES]
    system, user, _ = talk

    def render(messages: Sequence[dict[str, str]], *, prompt: bool = False) -> str:
        text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt)
        return text.removeprefix(tokenizer.bos_token or "")

    try:
        one, two, three = (render(messages) for messages in ([user], talk[:2], talk))
        turn = render([user, user]).removeprefix(one)
        start = one.removesuffix(turn)
        parts = two.removeprefix(start).removesuffix(turn), turn, three.removeprefix(two)
        cut = [part.partition(m["content"]) for part, m in zip(parts, talk, strict=True)]
        around = {role: (before, after) for role, (before, _, after) in zip(ROLES, cut, strict=True)}
        turns = Turns(start, around, render([user], prompt=True).removeprefix(one))
        talks = ([user], [system, user], [*talk, user], [user, talk[2], user], [*talk, user, talk[2], user])
        plain = [[m | {"content": f"text {n}"} for n, m in enumerate(messages)] for messages in talks]
        same = all(rendered(turns.go, messages) == render(messages, prompt=True) for messages in plain)
    except (TemplateError, ValueError):  # a template may refuse two questions in a row, or a role
        return None
    return turns if same and '"""' not in turns.go else None


def written(file: str, turns: Turns, stops: Sequence[str], *, context: int) -> str:
    """The text of a Modelfile for the GGUF `file`, which lies beside it."""
    parameters = [f"num_ctx {context}", "temperature 0", *(f"stop {json.dumps(stop)}" for stop in stops)]
    lines = [f"FROM ./{file}", f'TEMPLATE """{turns.go}"""', *(f"PARAMETER {line}" for line in parameters)]
    return "\n".join(lines) + "\n"


def read(text: str) -> dict[str, list[str]]:
    """Instructions of a Modelfile and their values, in order; a parameter is an instruction with its name.

    Raises:
        ValueError: a line is none; with its number.
    """
    found: dict[str, list[str]] = {}
    at = 0
    while at < len(text):
        match = _INSTRUCTION.match(text, at)
        if match is None:
            raise ValueError(f"line {text.count(chr(10), 0, at) + 1} is no instruction: {text[at : at + 40]!r}")
        long, quoted, bare = match[2], match[3], match[4]
        found.setdefault(match[1], []).append(long if long is not None else json.loads(quoted) if quoted else bare)
        at = match.end()
    return found


def rendered(template: str, messages: Sequence[dict[str, Any]]) -> str:
    """What Go makes of a template of the kind written here: a range over messages, and in it a choice by role.

    Raises:
        ValueError: it is of another kind.
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
