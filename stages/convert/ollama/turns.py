"""A chat template as texts around each turn, found by rendering, and the same in Go's template language.

Ollama's templates are in Go's language, a GGUF's in Jinja. So what a chat template writes around each turn is found
with conversations whose contents are marks, and stated in Go; both must then render other conversations to the same
text.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from tuneline.core.errors import BadRecipe
from tuneline.stages.convert.ollama.go_template import render_go_template
from tuneline.stages.prepare.rendering.chat_templates import ChatTemplate

Messages = Sequence[dict[str, str]]
Render = Callable[[Messages, bool], str]
"""Render messages; True adds the text before an answer."""
_DATE = "\x02"


class InexpressibleTemplate(ValueError):
    """A chat template that Go's language cannot write; the message is a clause that says why."""


@dataclass(frozen=True, kw_only=True)
class Turns:
    """A chat template as the texts that it writes before the first turn, around each content, and before an answer."""

    default: str
    """Before the first turn, where there is no system message."""
    system: tuple[str, str] | None
    """Around the system message; None if the template takes none."""
    place: Literal["own", "first", "last"]
    """The system message has a turn of its own, or is in the first or last question."""
    user: tuple[str, str]
    assistant: tuple[str, str]
    answer: str

    @property
    def go_template(self) -> str:
        """The template in Go's language, over Ollama's `.Messages` and `.System`."""
        inside = ""
        roles = {"user": self.user, "assistant": self.assistant}
        if self.system and self.place == "own":
            roles = {"system": self.system, **roles}
        elif self.system:
            condition = "(eq $i 1)" if self.place == "first" else "(eq (len (slice $.Messages $i)) 1)"
            inside = (
                f"{{{{ if and $.System {condition} }}}}{self.system[0]}{{{{ $.System }}}}{self.system[1]}{{{{ end }}}}"
            )
        cases = "{{ else ".join(
            f'if eq .Role "{role}" }}}}{before}{inside if role == "user" else ""}{{{{ .Content }}}}{after}'
            for role, (before, after) in roles.items()
        )
        loop = "range $i, $m := .Messages" if inside else "range .Messages"
        default = self._default_text(has_own_turn="system" in roles)
        return f"{default}{{{{ {loop} }}}}{{{{ {cases}{{{{ end }}}}{{{{ end }}}}{self.answer}"

    def _default_text(self, *, has_own_turn: bool) -> str:
        if has_own_turn and self.default:
            return f"{{{{ if not .System }}}}{self.default}{{{{ end }}}}"
        return self.default


def find_turns(tokenizer: Any) -> Turns:
    """Return the turns of the tokenizer's chat template.

    Raises:
        InexpressibleTemplate: it writes more than a text around each turn, or refuses a plain conversation.
    """
    from jinja2 import TemplateError

    try:
        render = _make_renderer(tokenizer)
        text = render(_conversation("u"), True)
        if _DATE in text:
            raise InexpressibleTemplate("it writes today's date, which Ollama's templates have in another form only")
        if "{{" in text or '"""' in text:
            raise InexpressibleTemplate('it writes {{ or """, which a Modelfile has for itself')
        candidates = _list_candidates(render)
        turns = next((turns for turns in candidates if _writes_same(turns, render)), None)
    except (TemplateError, BadRecipe) as error:
        raise InexpressibleTemplate(f"it refuses a plain conversation: {error}") from None
    if turns is None:
        raise InexpressibleTemplate("it writes more than a text around each turn")
    return turns


def _make_renderer(tokenizer: Any) -> Render:
    """Return a function that renders as the model was trained, less the token that Ollama puts before a prompt."""
    begins = tokenizer("x").input_ids[:1] == [tokenizer.bos_token_id]
    first = tokenizer.bos_token if begins and tokenizer.bos_token else ""
    names = {**tokenizer.special_tokens_map, "strftime_now": lambda form: _DATE}
    template = ChatTemplate(tokenizer.chat_template, names)

    def render(messages: Messages, prompt: bool) -> str:
        return template.render(list(messages), None, prompt=prompt).removeprefix(first)

    return render


def _conversation(roles: str, content: str = "\x01{role}{n}\x01") -> list[dict[str, str]]:
    """Return messages of these roles, by their first letters, each with a content of its own."""
    names = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": names[role], "content": content.format(role=role, n=n)} for n, role in enumerate(roles)]


def _list_gaps(render: Render, roles: str, *, prompt: bool = True) -> list[str] | None:
    """Return what a template writes before, between and after contents; None if it leaves one out or repeats it."""
    rest, gaps = render(messages := _conversation(roles), prompt), []
    for message in messages:
        gap, mark, rest = rest.partition(message["content"])
        if not mark:
            return None
        gaps.append(gap)
    return None if "\x01" in rest else [*gaps, rest]


def _list_candidates(render: Render) -> Iterator[Turns]:
    """Yield what the turns may be: where one text ends and the next begins is not always to be seen."""
    gaps = _list_gaps(render, "uau")
    if gaps is None:
        return
    default, question_to_answer, answer_to_question, end = gaps
    for after_answer, after_question in itertools.product(
        _list_ends(render, "ua", answer_to_question, _shared_begin(default[::-1], answer_to_question[::-1])[::-1]),
        _list_ends(render, "u", end, _shared_begin(question_to_answer, end)),
    ):
        user_begin = answer_to_question.removeprefix(after_answer)
        if not default.endswith(user_begin) or not question_to_answer.startswith(after_question):
            continue
        found = Turns(
            default=default.removesuffix(user_begin),
            system=None,
            place="own",
            user=(user_begin, after_question),
            assistant=(question_to_answer.removeprefix(after_question), after_answer),
            answer=end.removeprefix(after_question),
        )
        yield from _with_system(found, render)


def _list_ends(render: Render, roles: str, gap: str, shared: str) -> Iterator[str]:
    """Yield what may end the last of these turns: what is written after it, or else the part of a gap before a text."""
    gaps = _list_gaps(render, roles, prompt=False)
    if gaps and gap.startswith(gaps[-1]):
        yield gaps[-1]
    yield shared if gap.startswith(shared) else gap.removesuffix(shared)


def _shared_begin(first: str, second: str) -> str:
    """Return the longest text that both begin with."""
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    return "".join(character for character, _ in same)


def _with_system(turns: Turns, render: Render) -> Iterator[Turns]:
    """Yield the turns with each way in which a system message may be written, or as they are if none is taken."""
    from jinja2 import TemplateError

    try:
        gaps = _list_gaps(render, "su")
    except TemplateError:
        gaps = None
    if gaps is None:
        yield turns
        return
    before, between, _ = gaps
    question = turns.user[0]
    if between.endswith(question):
        yield replace(turns, system=(before, between.removesuffix(question)))
    if before.startswith(inside := turns.default + question):
        for place in ("first", "last"):
            yield replace(turns, system=(before.removeprefix(inside), between), place=place)


def _writes_same(turns: Turns, render: Render) -> bool:
    """Return whether Go renders other conversations as the chat template does."""
    for roles in ("u", "uau", "uauau", *(("su", "suau", "suauau") if turns.system else ())):
        messages = _conversation(roles, "text {n}\nof {role}")
        try:
            text = render_go_template(turns.go_template, messages)
        except ValueError:  # a text has actions of its own
            return False
        if text != render(messages, True):
            return False
    return True
