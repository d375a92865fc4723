"""The dataset row, and how rows come from files and grammars.

A row is one JSON line: `messages` in OpenAI's chat format, `tools` (dotted names of the tools it may call) and
`source`. Tool calls carry wire names (`whatsapp__send`) and their arguments as an object. A row of plain `text` has no
messages; all of it is learned.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from tuneline.configs.catalogue import Catalogue, dotted_name
from tuneline.core.errors import BadData
from tuneline.engines.tool_calls import ToolCall
from tuneline.stages.prepare.checks.problems import Problem
from tuneline.stages.prepare.checks.row_checks import Toolbox
from tuneline.stages.prepare.synthesis.grammar import Request


class Function(BaseModel):
    """A called function: wire name and arguments, an object or its JSON text."""

    model_config = ConfigDict(extra="forbid")
    name: str
    arguments: dict[str, Any]

    @model_validator(mode="before")
    @classmethod
    def _read_arguments(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("arguments"), str):
            return value | {"arguments": json.loads(value["arguments"])}
        return value


class Call(BaseModel):
    """One entry of `tool_calls`."""

    model_config = ConfigDict(extra="ignore")
    type: Literal["function"] = "function"
    function: Function


class Message(BaseModel):
    """One turn: text, or tool calls of the assistant."""

    model_config = ConfigDict(extra="ignore")
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    tool_calls: list[Call] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "Message":
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only the assistant calls tools")
        if not self.tool_calls and not (self.content or "").strip():
            raise ValueError(f"the {self.role} message is empty")
        return self


class Row(BaseModel):
    """One conversation to learn from; its last message is the assistant's."""

    model_config = ConfigDict(extra="ignore")
    messages: list[Message]
    tools: list[str] = []
    source: str = ""
    text: str | None = None
    """Learned as it is, without a conversation around it."""
    style: str | None = None
    document: str | None = None
    """The book or file it is a part of; all parts of one are on the same side of a split."""

    @model_validator(mode="after")
    def _ends_with_an_answer(self) -> "Row":
        if self.text and not self.messages:
            return self
        if not self.messages or self.messages[-1].role != "assistant":
            raise ValueError("the last message must be the assistant's")
        return self

    @property
    def called(self) -> list[str]:
        """Dotted names of the tools this row calls."""
        return [dotted_name(c.function.name) for m in self.messages for c in m.tool_calls or []]

    def chat(self) -> list[dict[str, Any]]:
        """The messages as a chat template takes them."""
        return [message.model_dump(exclude_none=True) for message in self.messages]


def read_rows(path: Path, catalogue: Catalogue | None) -> Iterator[Row]:
    """Rows of a file in any format, one at a time.

    Raises:
        BadData: naming file, line and column, or the key and value that are wrong.
    """
    from tuneline.stages.prepare.formats.reader import read_file

    for found in read_file(path, Toolbox(catalogue)):
        if isinstance(found, Problem):
            raise BadData(str(found))
        yield found.row


def row_of(request: Request, system: str, source: str) -> Row:
    """A request and its call as a row; the tools it shows are chosen later."""
    head = [{"role": "system", "content": system}] if system else []
    call = ToolCall(request.tool, request.arguments).openai()
    messages = [*head, {"role": "user", "content": request.text}, {"role": "assistant", "tool_calls": [call]}]
    return Row.model_validate({"messages": messages, "source": source})


def show_tools(row: Row, catalogue: Catalogue, distractors: tuple[int, int], whole: float, rng: random.Random) -> Row:
    """The row with the tools it calls among some others in random order, or, for a share `whole`, all in order."""
    right = list(dict.fromkeys(row.called))
    if rng.random() < whole:
        return row.model_copy(update={"tools": list(catalogue.names)})
    others = [name for name in catalogue.names if name not in right]
    count = min(len(others), rng.randint(*distractors))
    shown = right + rng.sample(others, count)
    rng.shuffle(shown)
    return row.model_copy(update={"tools": shown})
