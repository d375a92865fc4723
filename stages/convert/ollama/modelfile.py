"""Modelfiles for Ollama, one for every GGUF, and a reader of their format to check them with.

`TEMPLATE` is the chat template in Go's language, without tools: Ollama reads a tool's schema into values of its own,
which drop `format`, `pattern`, `minimum` and more, sort its properties and write no space after a comma (api/types.go
and template/template.go of Ollama 0.33), so Go cannot write the text that a model was trained on. From 0.30 on, Ollama
takes the GGUF's own chat template where that one writes tools and `TEMPLATE` does not (server/images.go,
shouldPreferChatTemplate), or where there is no `TEMPLATE`. https://docs.ollama.com/modelfile
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneline.stages.checkpoints.base_config import read_context_length
from tuneline.stages.convert.ollama.turns import InexpressibleTemplate, find_turns
from tuneline.stages.prepare.rendering.stop_tokens import GENERATION_CONFIG, stop_token_ids

SUFFIX = ".Modelfile"
MAX_CONTEXT = 8192
"""Largest context in a Modelfile, in tokens: Ollama reserves memory for all of it at once."""
OWN_TEMPLATE = "0.30.0"
"""The first Ollama that renders a GGUF's own chat template."""
SAMPLING = ("temperature", "top_p", "top_k", "min_p")
"""Settings that a base's generation_config.json and Ollama call the same."""
_INSTRUCTION = re.compile(r'(FROM|REQUIRES|TEMPLATE|PARAMETER \w+) (?:"""((?:.|\n)*?)"""|"([^"\n]*)"|([^"\n][^\n]*))\n')
_COMMENT = re.compile(r"#[^\n]*\n")


@dataclass(frozen=True, kw_only=True)
class Modelfile:
    """What a Modelfile says, but for the file that it is about."""

    template: str | None
    """In Go's language; None if Ollama takes the GGUF's own."""
    comments: Sequence[str]
    """Sentences about the template."""
    parameters: Mapping[str, Any]
    stops: Sequence[str]

    def write(self, gguf: str) -> str:
        """Return the text of the Modelfile for a GGUF in the same folder."""
        lines = [*(f"# {comment}" for comment in self.comments), f"FROM ./{gguf}"]
        lines.append(f"REQUIRES {OWN_TEMPLATE}" if self.template is None else f'TEMPLATE """{self.template}"""')
        lines += [f"PARAMETER {name} {value}" for name, value in self.parameters.items()]
        return "\n".join([*lines, *(f"PARAMETER stop {_quote(stop)}" for stop in self.stops)]) + "\n"


def _quote(text: str) -> str:
    """Return a value in quotes. Ollama knows no escapes: quotes inside take three around it."""
    return f'"""{text}"""' if '"' in text else f'"{text}"'


def make_modelfile(tokenizer: Any, *, calls_tools: bool) -> Modelfile:
    """Return the Modelfile of a model with this tokenizer and its chat template.

    One that calls tools answers at temperature 0, as it is evaluated. One that writes prose samples as its base's
    generation_config.json says, or as Ollama does by itself.
    """
    base = Path(tokenizer.name_or_path)
    template, comments = _write_template(tokenizer)
    return Modelfile(
        template=template,
        comments=comments,
        parameters={
            "num_ctx": min(read_context_length(base), MAX_CONTEXT),
            "repeat_penalty": 1,  # older versions punish repetition by 1.1, and an argument repeats the question
            **({"temperature": 0} if calls_tools else _read_sampling(base)),
        },
        stops=tokenizer.convert_ids_to_tokens(stop_token_ids(tokenizer)),
    )


def _write_template(tokenizer: Any) -> tuple[str | None, list[str]]:
    """Return the chat template in Go's language, if it can be, and what is to say of it."""
    if not tokenizer.chat_template:
        return "{{ .Prompt }}", [
            "The model was trained on texts and has no chat template: it continues what it is given."
        ]
    try:
        turns = find_turns(tokenizer)
    except InexpressibleTemplate as error:
        reason = f"No TEMPLATE: the chat template cannot be written in Ollama's language, because {error}."
        return None, [
            reason,
            f"Ollama {OWN_TEMPLATE} and later render the chat template in the GGUF; earlier ones cannot.",
        ]
    comments = [] if turns.system else ["The chat template takes no system message: TEMPLATE leaves it out."]
    if "tools" in tokenizer.chat_template:
        comments.append(f"Tools: Ollama {OWN_TEMPLATE} and later render them by the chat template in the GGUF.")
    return turns.go_template, comments


def _read_sampling(base: Path) -> dict[str, Any]:
    """Return how a base's own generation_config.json samples; nothing if it does not say."""
    file = base / GENERATION_CONFIG
    settings = json.loads(file.read_text("utf-8")) if file.exists() else {}
    if settings.get("do_sample") is False:
        return {}
    return {name: settings[name] for name in SAMPLING if settings.get(name) is not None}


def parse_modelfile(text: str) -> dict[str, list[str]]:
    """Return the values of each instruction in a Modelfile, in order. The key of a parameter includes its name.

    Raises:
        ValueError: a line is not an instruction; the message has its number.
    """
    instructions: dict[str, list[str]] = {}
    at = 0
    while at < len(text):
        if comment := _COMMENT.match(text, at):
            at = comment.end()
            continue
        match = _INSTRUCTION.match(text, at)
        if match is None:
            raise ValueError(f"line {text.count(chr(10), 0, at) + 1} is no instruction: {text[at : at + 40]!r}")
        value = next(group for group in match.groups()[1:] if group is not None)
        instructions.setdefault(match[1], []).append(value)
        at = match.end()
    return instructions
