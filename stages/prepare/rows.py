"""The dataset row, the format in which `prepare` writes training and validation data.

A row is one JSON line: `messages` in OpenAI's chat format, `tools` (what its prompt shows) and `source`. A tool is the
dotted name of one in the run's catalogue, or an entry of OpenAI's `tools` where the row has its own of that name. Tool
calls carry wire names (`whatsapp__send`) and their arguments as an object. A row of plain `text` has no messages; the
loss covers all of it.
"""

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tuneline.configs.catalogue import dotted_name

Chat = list[dict[str, Any]]
"""Messages as dicts, before they are validated as a row's."""


class Function(BaseModel):
    """The function of a tool call: its wire name and its arguments, given as an object or as JSON text."""

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
    """One turn of a conversation: text, tool calls of the assistant, or both."""

    model_config = ConfigDict(extra="ignore")
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    reasoning_content: str | None = None
    """The assistant's thinking before `content`, which some chat templates write."""
    tool_calls: list[Call] | None = None
    weight: Literal[0, 1] | None = None
    """0 keeps the assistant's turn out of the loss, as in OpenAI's format; it is context for later turns."""

    @model_validator(mode="after")
    def _says_something(self) -> "Message":
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only the assistant calls tools")
        if self.role == "tool" and self.content is not None:
            return self  # a tool may answer with nothing
        if not self.tool_calls and not (self.content or "").strip():
            raise ValueError(f"the {self.role} message is empty")
        return self


class Row(BaseModel):
    """One conversation or text to train on. The last message of a conversation is the assistant's."""

    model_config = ConfigDict(extra="ignore")
    messages: list[Message]
    tools: list[str | dict[str, Any]] = Field(default_factory=list)
    """The tools that its prompt shows: names in the run's catalogue, or entries of OpenAI's `tools`."""
    source: str = ""
    text: str | None = None
    """Plain text to train on, without a conversation around it."""
    style: str | None = None
    document: str | None = None
    """The book or file the row comes from. All rows of a document are on the same side of the validation split."""

    @model_validator(mode="after")
    def _ends_with_an_answer(self) -> "Row":
        if self.text and not self.messages:
            return self
        if not self.messages or self.messages[-1].role != "assistant":
            raise ValueError("the last message must be the assistant's")
        return self

    @property
    def called(self) -> list[str]:
        """Dotted names of the tools this row calls, in order, with repetitions."""
        return [dotted_name(call.function.name) for message in self.messages for call in message.tool_calls or []]

    def chat(self) -> list[dict[str, Any]]:
        """Return the messages as dicts, in the form a chat template takes."""
        return number_calls([message.model_dump(exclude_none=True) for message in self.messages])


def number_calls(messages: Chat) -> Chat:
    """Give each call an id, and each result the id of its call, in place; return the messages.

    Rows have no ids, but chat templates may write them, and some of Mistral's take only ids of nine characters.
    """
    number, waiting = 0, list[str]()
    for message in messages:
        if message["role"] == "tool":
            if waiting:
                message["tool_call_id"] = waiting.pop(0)
        elif calls := message.get("tool_calls"):
            waiting = [f"call{number + i:05}" for i in range(1, len(calls) + 1)]
            number += len(calls)
            for call, identity in zip(calls, waiting, strict=True):
                call["id"] = identity
    return messages
