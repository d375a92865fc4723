"""Prompts: files with versions, `configs/prompts/NAME.vN.md`, rendered in Jinja's sandbox; styles have samples besides.

A file begins with `variables` (each with what it is), `about`, and for a style `samples`, between lines of `---`.
Those of the current folder come before ours. What a version says never changes: a change is the next version.
"""

import difflib
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tuneline.configs.section import StrictModel, explain_first
from tuneline.configs.yaml_loader import parse_yaml
from tuneline.core.errors import BadData, BadRequest, NotFound
from tuneline.core.paths import ROOT, resolve
from tuneline.core.user_files import read_text
from tuneline.engines.own_key import is_own_server
from tuneline.stages.prepare.rendering.template_limits import LimitedEnvironment

FOLDER = Path("configs") / "prompts"
STYLE = "style-"
"""How the name of a style's prompt begins."""
SAMPLE_CHARACTERS = 1_200
"""Of each sample of a style in a prompt, to the end of its paragraph or verse."""
MAX_SAMPLES = 2
HASH_CHARACTERS = 12
PROMPT_HEADER = "x-tuneline-prompt"
"""Of a request to a gateway: which prompts it was made of, as in `assistant.v1=0a1b2c3d4e5f, style-epico.v1=…`."""
_NAMED = re.compile(r"([a-z0-9][a-z0-9-]{0,63}\.v[1-9]\d{0,8})=([0-9a-f]{12})")
SYSTEM_ROLES = ("system", "developer")
MAX_NAMED = 8
"""Prompts of one request that are noted."""
_FILE = re.compile(r"([a-z0-9][a-z0-9-]*)\.v([1-9]\d*)\.md")
_PARTS = re.compile(r"---\n(.*?\n)---\n(.*)", re.S)


class Header(StrictModel):
    """What a prompt's file says of it."""

    variables: dict[str, str] = {}
    about: str = ""
    samples: str | None = None


@dataclass(frozen=True)
class Prompt:
    """A version of a prompt."""

    name: str
    version: int
    file: Path
    header: Header
    text: str

    @property
    def label(self) -> str:
        return f"{self.name}.v{self.version}"

    @property
    def hash(self) -> str:
        """What tells this text from any other: it is in the request log and the trace, beside name and version."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:HASH_CHARACTERS]

    def render(self, values: Mapping[str, str] | None = None) -> str:
        """Return the prompt with its variables filled in, and a style's samples after it.

        Raises:
            BadRequest: a variable is missing or none of its own. BadData: its template fails.
        """
        from jinja2 import StrictUndefined, TemplateError

        values = values or {}
        if values.keys() != self.header.variables.keys():
            declared = ", ".join(self.header.variables) or "none"
            given = ", ".join(values) or "none"
            raise BadRequest(f"{self.label}: its variables are {declared}; given were {given}")
        environment = LimitedEnvironment(undefined=StrictUndefined, keep_trailing_newline=False)
        environment.begin()
        try:
            text = environment.from_string(self.text).render(dict(values)).strip()
        except (TemplateError, ArithmeticError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise BadData(f"{self.file}: {error}") from None
        return "\n\n".join([text, *self._samples()])

    def _samples(self) -> list[str]:
        if self.header.samples is None:
            return []
        files = sorted(resolve(Path(self.header.samples)).glob("*.txt"))[:MAX_SAMPLES]
        if not files:
            raise BadData(f"{self.file}: samples: {self.header.samples}: no .txt file there")
        return [f"For example:\n\n{_first_part(read_text(file, BadData))}" for file in files]


def list_prompts() -> list[Prompt]:
    """Return all versions of all prompts, by name and version.

    Raises:
        BadData: a file cannot be read.
    """
    files = {file.name: file for folder in (ROOT / FOLDER, FOLDER.absolute()) for file in folder.glob("*.md")}
    prompts = [_read(file) for file in files.values()]
    return sorted(prompts, key=lambda prompt: (prompt.name, prompt.version))


def find_prompt(label: str) -> Prompt:
    """Return a prompt by its name (its last version) or by name and version, as in `assistant.v1`.

    Raises:
        NotFound: there is none. BadData: a file cannot be read.
    """
    prompts = list_prompts()
    matching = [prompt for prompt in prompts if label in (prompt.name, prompt.label)]
    if not matching:
        raise NotFound(f"prompt {label!r}: there are {', '.join(prompt.label for prompt in prompts)}")
    return matching[-1]


def find_style(name: str) -> Prompt:
    """Return the prompt of a style. Raises NotFound, with those that there are."""
    try:
        return find_prompt(f"{STYLE}{name}")
    except NotFound:
        raise NotFound(f"style {name!r}: there are {', '.join(list_styles())}") from None


def list_styles() -> list[str]:
    """Return the names of the styles that a writer can pick."""
    names = (prompt.name.removeprefix(STYLE) for prompt in list_prompts() if prompt.name.startswith(STYLE))
    return list(dict.fromkeys(names))


def compare_prompts(first: Prompt, second: Prompt) -> str:
    """Return how two versions differ, as a unified diff; empty if they say the same."""
    before, after = first.text.splitlines(), second.text.splitlines()
    return "\n".join(difflib.unified_diff(before, after, first.label, second.label, lineterm=""))


def add_to_system(messages: Sequence[Mapping[str, Any]], text: str) -> list[Mapping[str, Any]]:
    """Return messages with a text, as that of a style, after what their system message says."""
    said = [_text_of(message.get("content")) for message in messages if message.get("role") in SYSTEM_ROLES]
    others = [message for message in messages if message.get("role") not in SYSTEM_ROLES]
    return [{"role": "system", "content": "\n\n".join(filter(None, [*said, text]))}, *others]


def _text_of(content: Any) -> str:
    """Return a message's text; of one in parts, its text parts."""
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return str(content or "")


def prompt_headers(url: str, prompts: Mapping[str, str]) -> dict[str, str]:
    """Return the header that tells a server of our own which prompts (label → hash) a request has; none for others."""
    if not prompts or not is_own_server(url):
        return {}
    return {PROMPT_HEADER: ", ".join(f"{label}={digest}" for label, digest in prompts.items())}


def read_prompt_header(value: str) -> dict[str, str]:
    """Return label → hash of the prompts that a request names; what is not written so is left out."""
    return dict(_NAMED.findall(value)[:MAX_NAMED])


def _read(file: Path) -> Prompt:
    name = _FILE.fullmatch(file.name)
    if not name:
        raise BadData(f"{file}: call it NAME.vN.md, in small letters, digits and '-'")
    parts = _PARTS.fullmatch(read_text(file, BadData))
    if not parts:
        raise BadData(f"{file}: begins with `---`, `variables: {{}}` and another `---`")
    try:
        header = Header.model_validate(parse_yaml(parts[1], file, BadData) or {})
    except ValidationError as error:
        raise BadData(f"{file}: {explain_first(error)}") from None
    return Prompt(name[1], int(name[2]), file, header, parts[2].strip())


def _first_part(text: str) -> str:
    """Return the beginning of a sample, whole paragraphs of it where one ends in time."""
    if len(text) <= SAMPLE_CHARACTERS:
        return text.strip()
    cut = text[:SAMPLE_CHARACTERS]
    end = max(cut.rfind("\n\n"), cut.rfind("\n") if "\n\n" not in cut else -1)
    return (cut[:end] if end > 0 else cut).strip()
