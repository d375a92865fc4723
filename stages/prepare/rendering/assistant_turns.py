"""Finds the assistant's turns in a rendered conversation: the text that is in the loss.

A turn is what the template adds to the prompt that serving sends: the prompt is the conversation before the turn,
rendered with the generation prompt, and the turn is what the rendering up to and including it adds, to the end of the
token that ends it. This costs two renderings a turn. So what is found faster (the template's own `{% generation %}`, or
the text between the header of an assistant's turn and its end) is compared with it once for each shape of conversation,
and used for that shape where both agree.
"""

import re
from collections.abc import Collection
from typing import Any

from tuneline.core.errors import BadRecipe
from tuneline.stages.prepare.rendering.chat_templates import (
    LOSS_BEGIN,
    Chat,
    ChatTemplate,
    Spans,
    Tools,
    add_marks,
    strip_marks,
)

_QUESTION, _ANSWER = {"role": "user", "content": "questionX"}, {"role": "assistant", "content": "answerX"}
_REPETITION = re.compile(r"(.{1,8}?)\1{2,}")
SHAPES_KEPT = 10_000
THINKING = "<think>"
FEWEST_SHARED = 4
"""Characters at a prompt's end that must be found where the answer begins."""


class SeveralRenderings(ValueError):
    """The prompts of a conversation's turns are not prefixes of its rendering: each turn must be a row of its own."""


class AssistantTurns:
    """Finds the assistant's turns in conversations rendered with one template."""

    def __init__(self, template: ChatTemplate, control_tokens: Collection[str]) -> None:
        """`control_tokens` are the tokens that can end a turn.

        Raises:
            BadRecipe: The template writes no answer, or ends it with no token on which an engine could stop.
        """
        self._template = template
        self._control = re.compile("|".join(map(re.escape, sorted(control_tokens, key=len, reverse=True))) or r"(?!)")
        self._agreed: dict[tuple[Any, ...], bool] = {}
        self._header, self._end, self.end_token = self._learn_frame()

    def mark(self, messages: Chat, tools: Tools) -> str:
        """Return the rendered conversation with marks around each of the assistant's turns whose weight is not 0.

        Raises:
            SeveralRenderings: The turns are not parts of one rendering.
            TemplateError, TypeError, ValueError, AttributeError: The template refuses the conversation.
        """
        marked = self._template.mark(messages, tools)
        shape = _shape(messages, tools)
        agreed = self._agreed.get(shape)
        quick = self._mark_quickly(marked, messages) if agreed is not False else None
        if agreed and quick:
            return quick
        text = strip_marks(marked)[0]
        in_loss = [at for at, m in enumerate(messages) if m["role"] == "assistant" and m.get("weight") != 0]
        try:
            exact = add_marks(text, [self._find(text, at, messages, tools) for at in in_loss])
        except SeveralRenderings:
            self._remember(shape, agreed=False)
            if len(in_loss) > 1:
                raise
            return self._append_to_prompt(text, in_loss[0], messages, tools)
        self._remember(shape, agreed=quick == exact)
        return exact

    def mark_quickly(self, messages: Chat, tools: Tools) -> str:
        """Return the conversation marked as one rendering, whether or not serving sends the same prompts.

        Raises:
            SeveralRenderings: The turns cannot be found in it.
        """
        if quick := self._mark_quickly(self._template.mark(messages, tools), messages):
            return quick
        raise SeveralRenderings("earlier turns are rendered differently; make each answer a separate row")

    def strip_end(self, turn: str) -> str:
        """Return a turn without control tokens and white space."""
        return self._control.sub("", turn).strip()

    def _remember(self, shape: tuple[Any, ...], *, agreed: bool) -> None:
        if len(self._agreed) < SHAPES_KEPT:
            self._agreed[shape] = agreed

    def _learn_frame(self) -> tuple[str, str, str]:
        """Return the header that begins an assistant's turn, the token that ends it, and the token that ends the last.

        The first two are empty where not every turn has them.
        """
        from jinja2.exceptions import TemplateError

        render = self._template.render
        try:
            question, prompt = render([_QUESTION], None), render([_QUESTION], None, prompt=True)
            last = render([_QUESTION, _ANSWER], None)
            earlier = render([_QUESTION, _ANSWER, _QUESTION], None)
        except (TemplateError, TypeError, ValueError, AttributeError) as error:
            raise BadRecipe(f"the chat template refuses a question and its answer: {error}; {_REMEDY}") from None
        if _ANSWER["content"] not in last:
            raise BadRecipe(f"the chat template does not write the assistant's answer; {_REMEDY}")
        header = prompt.removeprefix(question) if prompt.startswith(question) else ""
        tail = last.rpartition(_ANSWER["content"])[2]
        if question == prompt:
            self._refuse_begun_answer(prompt.rpartition(_QUESTION["content"])[2], tail)
        common = _common_prefix(tail, earlier.rpartition(_ANSWER["content"])[2])
        ends = self._control.findall(common) or self._control.findall(tail)
        if not ends:
            raise BadRecipe(
                f"the chat template ends an answer with {tail!r}, which is not a token of this tokenizer: an "
                f"engine could not stop there; {_REMEDY}"
            )
        return header if header.strip() else "", ends[-1] if self._control.search(common) else "", ends[-1]

    def _refuse_begun_answer(self, begun: str, tail: str) -> None:
        """Raise BadRecipe if a template that is not asked for it begins an answer, after an answer too.

        `begun` and `tail` are what it writes after a question and after an answer.
        """
        if len(self._control.findall(_common_suffix(begun, tail))) > 1:  # one alone ends a turn, whoever's
            raise BadRecipe(
                f"the chat template begins another answer after each one ({tail!r}): a model would learn to go on "
                f"instead of stopping; {_REMEDY}"
            )

    def _mark_quickly(self, marked: str, messages: Chat) -> str | None:
        """Return the conversation marked by `{% generation %}`, or by header and end of each turn; None if neither."""
        turns = [message for message in messages if message["role"] == "assistant"]
        if LOSS_BEGIN in marked:
            if all(turn.get("weight") != 0 for turn in turns):
                return marked if marked.count(LOSS_BEGIN) == len(turns) else None
            text, spans = strip_marks(marked)
        else:
            text, spans = marked, self._search(marked, len(turns))
        if len(spans) != len(turns):
            return None
        return add_marks(text, [span for span, turn in zip(spans, turns, strict=True) if turn.get("weight") != 0])

    def _search(self, text: str, turns: int) -> Spans:
        """Return the texts between a header and the end of a turn; none if there are not as many as turns."""
        if not self._header or not self._end or text.count(self._header) != turns:
            return []
        spans, at = Spans(), 0
        for _ in range(turns):
            begin = text.find(self._header, at) + len(self._header)
            at = text.find(self._end, begin) + len(self._end)
            spans.append((begin, at))
        return spans if all(begin < end for begin, end in spans) else []

    def _find(self, text: str, number: int, messages: Chat, tools: Tools) -> tuple[int, int]:
        """Return where the turn `messages[number]` is in the rendered conversation."""
        prompt = self._template.render(messages[:number], tools, prompt=True)
        is_last = number == len(messages) - 1
        until_here = text if is_last else self._template.render(messages[: number + 1], tools)
        turn = self._cut(until_here[len(prompt) :])
        if not until_here.startswith(prompt) or not text.startswith(prompt + turn):
            raise SeveralRenderings(f"messages.{number}: is rendered differently once other messages follow")
        return len(prompt), len(prompt) + len(turn)

    def _append_to_prompt(self, text: str, number: int, messages: Chat, tools: Tools) -> str:
        """Return the prompt of a turn and then the turn, for templates that write both otherwise once it is answered.

        Some show the system message only in a last question; some begin the thinking in the prompt, and drop it later.
        """
        prompt = self._template.render(messages[:number], tools, prompt=True)
        until_here = text if number == len(messages) - 1 else self._template.render(messages[: number + 1], tools)
        header, begins_thinking = prompt.removesuffix("\n").removesuffix(THINKING), prompt.rstrip().endswith(THINKING)
        shared = _longest_suffix_in(header if begins_thinking else prompt, until_here)
        if len(shared) < max(len(self._header.partition(THINKING)[0]), FEWEST_SHARED):
            raise ValueError(f"messages.{number}: the end of its prompt is not in the conversation that it answers")
        turn = self._cut(until_here[until_here.rindex(shared) + len(shared) :])
        if begins_thinking:
            turn = _end_thinking(turn, messages[number])
        return add_marks(prompt + turn, [(len(prompt), len(prompt) + len(turn))])

    def _cut(self, turn: str) -> str:
        """Return a turn without what the template writes after the token that ends it."""
        if self._end and (at := turn.rfind(self._end)) >= 0:
            return turn[: at + len(self._end)]
        ends = list(self._control.finditer(turn))
        return turn[: ends[-1].end()] if ends and not turn[ends[-1].end() :].strip() else turn


_REMEDY = "write `template: NAME` in the recipe (names: docs/data.md), or replace the template next to its tokenizer"


def split_turns(messages: Chat) -> list[Chat]:
    """Return for each assistant's turn in the loss the conversation up to it, in which only that turn has a weight."""
    rows = []
    for number, message in enumerate(messages):
        if message["role"] == "assistant" and message.get("weight") != 0:
            before = [m | {"weight": 0} if m["role"] == "assistant" else m for m in messages[:number]]
            rows.append([*before, message])
    return rows


def _shape(messages: Chat, tools: Tools) -> tuple[Any, ...]:
    """Return what a template may decide by: order and kinds of turns, and what is known to be looked for in them.

    A pattern of turns that is repeated more than twice counts as repeated twice.
    """
    kinds = "".join([_kind(message) for message in messages])
    questions = [message.get("content") for message in messages if message["role"] == "user"]
    repeated = len(questions) != len(set(questions))
    return _REPETITION.sub(r"\1\1", kinds), bool(tools), repeated


def _kind(message: dict[str, Any]) -> str:
    content = message.get("content")
    role: str = message["role"]
    if role != "assistant":
        return role[0] if content else role[0].upper()
    calls = message.get("tool_calls")
    kind = "a" if not calls else "b" if len(calls) == 1 else "c"
    flags = "-" if not content else "<" if "<" in content else ""
    flags += "r" if message.get("reasoning_content") else ""
    return kind + flags + ("0" if message.get("weight") == 0 else "")


def _end_thinking(turn: str, message: dict[str, Any]) -> str:
    """Return a turn whose prompt ends with `<think>`: the thinking, if there is any, its end, and what follows."""
    if "</think>" in turn:
        return turn.partition(THINKING)[2].removeprefix("\n") or turn
    before, end, _ = (message.get("content") or "").partition("</think>")
    thinking = message.get("reasoning_content") or (before.rpartition(THINKING)[2] if end else "")
    return f"{str(thinking).strip()}\n</think>\n\n{turn}"


def _longest_suffix_in(text: str, other: str) -> str:
    """Return the longest end of a text that is also somewhere in another."""
    fits, too_long = 0, len(text) + 1
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        fits, too_long = (middle, too_long) if text[-middle:] in other else (fits, middle)
    return text[len(text) - fits :]


def _common_suffix(one: str, other: str) -> str:
    return _common_prefix(one[::-1], other[::-1])[::-1]


def _common_prefix(one: str, other: str) -> str:
    length = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]
