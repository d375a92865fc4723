"""The dataset row, the format in which `prepare` writes training and validation data.

A row is one JSON line: `messages` in OpenAI's chat format, `tools` (dotted names of the tools it may call) and
`source`. Tool calls carry wire names (`whatsapp__send`) and their arguments as an object. A row of plain `text` has no
messages; the loss covers all of it.
"""

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

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
    """One turn of a conversation: text, or tool calls of the assistant."""

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
    """One conversation or text to train on. The last message of a conversation is the assistant's."""

    model_config = ConfigDict(extra="ignore")
    messages: list[Message]
    tools: list[str] = []
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
        return [message.model_dump(exclude_none=True) for message in self.messages]
