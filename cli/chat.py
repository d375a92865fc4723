"""A conversation with a served model in the terminal."""

import asyncio
import json
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneline.cli.consoles import console, errors_console
from tuneline.cli.run_folders import open_stage
from tuneline.configs.catalogue import Catalogue, load_catalogue
from tuneline.core.errors import BadRequest, NotFound, TunelineError
from tuneline.endpoints.prompts import find_style, list_styles
from tuneline.endpoints.tool_selection import load_tool_selector
from tuneline.engines.chat_messages import Answer
from tuneline.engines.own_key import own_key
from tuneline.engines.providers import Provider, find_provider
from tuneline.stages.prepare.prepared_run import load_tools

if TYPE_CHECKING:
    from tuneline.endpoints.tool_selection import ToolSelector

MAX_ANSWER_TOKENS = 1024
COMMANDS = {
    "/exit": "leave, as Ctrl-D does",
    "/reset": "begin a new conversation",
    "/save FILE": "add the conversation to a file of JSON lines, a row of training data",
    "/style NAME": "begin a new conversation in another style",
    "/help": "show this",
}
OF_RUN = 'Write in the style "{style}".'
"""The system message of a style that a run was trained on and that has no prompt of its own."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A served model and the tools that it is shown."""

    provider: Provider
    name: str
    catalogue: Catalogue | None = None
    selector: "ToolSelector | None" = None
    styles: tuple[str, ...] = ()
    """Styles that the model was trained on."""


@dataclass(frozen=True, kw_only=True)
class ChatSettings:
    """How it is asked."""

    system: str | None = None
    style: str | None = None
    temperature: float | None = None
    """None: 0 with tools; the server's own without."""
    max_tokens: int = MAX_ANSWER_TOKENS


@dataclass
class Conversation:
    """Questions and answers, each printed while it arrives. Calls are printed, not made."""

    model: Model
    settings: ChatSettings = ChatSettings()
    messages: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._style = self.settings.style
        self.reset()

    def reset(self, style: str | None = None) -> None:
        """Begin a new conversation, in another style if one is named. Raises NotFound if there is no such style."""
        system = [self.settings.system, find_style_prompt(self.model, style or self._style)]
        self._style = style or self._style
        text = "\n\n".join(part for part in system if part)
        self.messages = [{"role": "system", "content": text}] if text else []

    def ask(self, question: str) -> Answer:
        """Ask a question and print the answer; the conversation keeps both, or neither if it fails."""
        if self.messages and self.messages[-1].get("tool_calls"):
            self.reset()  # nobody made the call, so there is no result to go on from
        asked = [*self.messages, {"role": "user", "content": question}]
        # An event loop for each answer: while one runs, Ctrl-C would not end the wait for the next question.
        answer = asyncio.run(self._stream(asked))
        self.messages = [*asked, _to_message(answer)]
        return answer

    async def _stream(self, messages: list[dict[str, Any]]) -> Answer:
        tools = self.model.catalogue.openai() if self.model.catalogue else None
        if self.model.selector and tools:
            tools = self.model.selector.select(messages, tools)
        sampling: dict[str, Any] = {"max_tokens": self.settings.max_tokens}
        if (temperature := self.settings.temperature) is not None or tools:
            sampling["temperature"] = temperature or 0
        provider = self.model.provider
        async with provider.connect(self.model.name, key=own_key(provider.base_url)) as client:
            return await print_answer(client.stream(messages, tools, **sampling))

    def save(self, file: Path) -> None:
        """Add the conversation to a file of JSON lines. Raises BadRequest if nothing was said yet."""
        if not any(message["role"] == "assistant" for message in self.messages):
            raise BadRequest("/save: nothing was answered yet")
        row: dict[str, Any] = {"messages": self.messages}
        if self.model.catalogue:
            row["tools"] = self.model.catalogue.openai()
        with file.expanduser().open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")


async def print_answer(pieces: Any) -> Answer:
    """Print an answer while it arrives, its calls at its end; return it whole."""
    has_text = False
    async for piece in pieces:
        if isinstance(piece, Answer):
            if has_text:
                _print_piece("\n")
            for call in piece.tool_calls:
                _print_piece(f"model {call.name}({json.dumps(call.arguments, ensure_ascii=False)})\n")
            return piece
        if piece.text:
            _print_piece(piece.text if has_text else f"model {piece.text}")
            has_text = True
    raise AssertionError("a stream ends with the whole answer")


def open_model(
    url: str,
    name: str | None,
    *,
    run: Path | None = None,
    catalogue: Path | None = None,
    key_variable: str | None = None,
) -> Model:
    """Return the model at a URL, or at a provider of that name, with the tools of a run or of a catalogue.

    `name` is the model's there; the run's name, or the only one that the server has, if None.

    Raises:
        BadRequest: the server has several models and none is named, or tools of a run and of a catalogue.
        NotFound: it does not answer.
    """
    from tuneline.engines.listed_models import find_only_model

    if run and catalogue:
        raise BadRequest("--catalogue: a run has its own; leave one of the two out")
    provider = find_provider(url, key_variable)
    key = provider.read_key() if provider.key_variable else None
    name = name or find_only_model(provider.base_url, key)
    if run:
        return replace(open_run_model(url, run), provider=provider, name=name)
    return Model(provider=provider, name=name, catalogue=load_catalogue(catalogue) if catalogue else None)


def open_run_model(url: str, run: Path) -> Model:
    """Return the model of a run that is served at a URL, with the tools and styles that it learned."""
    from tuneline.stages.evaluate.suites.style_classifier import held_out_passages

    prepared = open_stage(run, "prepare").path
    rows = [file for name in ("train", "validation") if (file := prepared / f"{name}.jsonl").exists()]
    styles = {style for file in rows for style, _ in held_out_passages(file)}
    return Model(
        provider=find_provider(url),
        name=run.name,
        catalogue=load_tools(prepared),
        selector=load_tool_selector(run),
        styles=tuple(sorted(styles)),
    )


def find_style_prompt(model: Model, style: str | None) -> str:
    """Return the system message of a style: its prompt, or a sentence if the model was trained on it; "" without one.

    Raises:
        NotFound: no style of that name, with those that there are.
    """
    if style is None:
        return ""
    if style in list_styles():
        return find_style(style).render()
    if style in model.styles:
        return OF_RUN.format(style=style)
    raise NotFound(f"style {style!r}: there are {', '.join(sorted({*model.styles, *list_styles()}))}")


def hold_conversation(conversation: Conversation, questions: Iterable[str]) -> None:
    """Answer questions and obey commands until there are none; an error ends an answer, not the conversation."""
    errors_console.print(
        f"/exit or Ctrl-D leaves, so does Ctrl-C between answers; {', '.join(list(COMMANDS)[1:])}", soft_wrap=True
    )
    for question in questions:
        try:
            if question == "/exit":
                return
            if question.startswith("/"):
                _obey(conversation, question)
            elif conversation.ask(question).tool_calls:
                errors_console.print("      (calls are shown, not made: the next question begins a new conversation)")
        except KeyboardInterrupt:
            console.print()
        except (TunelineError, OSError) as error:
            errors_console.print(str(error), soft_wrap=True)


def _obey(conversation: Conversation, words: str) -> None:
    """Carry out a command. Raises BadRequest for an unknown one, or one without what it needs."""
    name, _, argument = words.partition(" ")
    argument = argument.strip()
    actions: dict[str, Callable[[], None]] = {
        "/reset": conversation.reset,
        "/help": lambda: console.print("\n".join(f"{command:<12}{about}" for command, about in COMMANDS.items())),
    }
    if name in actions and not argument:
        actions[name]()
    elif name == "/save" and argument:
        file = Path(shlex.split(argument)[0])
        conversation.save(file)
        read = f"; `tuneline validate {file}` reads it" if file.suffix == ".jsonl" else ", as a line of JSON"
        errors_console.print(f"      {file} has it{read}", soft_wrap=True)
    elif name == "/style" and argument:
        conversation.reset(argument)
    else:
        raise BadRequest(f"{words}: not a command; {', '.join(COMMANDS)}")


def _to_message(answer: Answer) -> dict[str, Any]:
    calls = [call.openai() for call in answer.tool_calls]
    return {"role": "assistant", "content": answer.text} | ({"tool_calls": calls} if calls else {})


def _print_piece(text: str) -> None:
    console.print(text, end="", soft_wrap=True)
