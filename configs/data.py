"""`data` in a recipe: where rows come from, how they are shown to the model, and what they must reach."""

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from tuneline.configs.section import Section

BOUND = re.compile(r"(<=|>=|<|>|=)\s*(\d+(?:\.\d+)?)")
"""A measure's bound in `data.require`."""
COLUMN_TARGETS = (
    *("messages", "conversations", "instruction", "input", "output", "prompt", "completion"),
    *("system", "text", "style", "tools"),
)
"""What a column of a source can stand for."""
Measure = Literal[
    "rows",
    "tokens",
    "average_tokens",
    "longest_tokens",
    "format_errors",
    "errors",
    "warnings",
    "handler_coverage",
    "styles",
    "duplicates",
    "near_duplicates",
    "too_long",
]


class Synthesis(Section):
    """A model that writes examples, instead of the built-in grammars."""

    provider: str
    """`groq`, `together`, `openai`, `local`, …, or the URL of any server that speaks OpenAI's API."""
    model: str
    budget_usd: float = Field(gt=0)
    """No request is sent that could cost more than what is left of this."""
    usd_per_million_input: float = Field(ge=0)
    usd_per_million_output: float = Field(ge=0)
    """What the provider charges for a million tokens, so that the budget can be kept."""


class Source(Section):
    """Where rows come from: a path with rows or text, a grammar that makes them, or the catalogue (`per_tool`)."""

    path: Path | None = None
    """A file or a folder: JSONL, JSON, CSV, Parquet or text, also gz or zst. docs/data.md lists the formats."""
    format: Literal["messages", "sharegpt", "alpaca", "prompt-completion", "text"] | None = None
    """How its records are to be read; found by their keys, and told, if not given."""
    columns: dict[str, str] = {}
    """Names a format uses, each with the column that stands for it: `{prompt: Question, completion: Answer}`."""
    style: str | None = None
    """A label for its text; `folder` or `file` takes the name of each file's folder or of the file."""
    learn: Literal["instruction", "continuation"] = "instruction"
    """instruction: text with a style answers a request to write in it. continuation: text is learned as it is."""
    passage_words: int = Field(180, gt=10)
    """About how many words of a text file make a row; paragraphs stay whole."""
    weight: float = Field(1.0, gt=0)
    """How often each of its training rows is seen: 2 is twice an epoch, 0.5 takes half of them."""
    grammar: Path | None = None
    """YAML of phrasings, expanded into requests and their tool calls."""
    rows: int | None = Field(None, gt=0)
    """How many rows to make from a grammar."""
    per_tool: int | None = Field(None, gt=0)
    """How many examples to make for each tool of the catalogue."""
    languages: tuple[Literal["en", "it", "id"], ...] = ("en", "it", "id")
    """Languages of examples made from the catalogue."""
    synthesize: Synthesis | None = None
    """A model that writes the examples of `per_tool`."""

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        if sum(given is not None for given in (self.path, self.grammar, self.per_tool)) != 1:
            raise ValueError("give either path or grammar, or per_tool")
        if (self.grammar is None) != (self.rows is None):
            raise ValueError("rows goes with grammar, and grammar needs it")
        if self.path is None and (self.format or self.columns or self.style):
            raise ValueError("format, columns and style go with path")
        if self.synthesize and not self.per_tool:
            raise ValueError("synthesize goes with per_tool")
        return self

    @field_validator("columns")
    @classmethod
    def _are_known(cls, columns: dict[str, str]) -> dict[str, str]:
        if unknown := [target for target in columns if target not in COLUMN_TARGETS]:
            raise ValueError(f"{unknown[0]!r} is no name of a format; known are {', '.join(COLUMN_TARGETS)}")
        return columns


class Data(Section):
    """What the model learns from."""

    sources: tuple[Source, ...] = Field(min_length=1)
    """Training rows, merged in this order, then shuffled."""
    tools: Path | None = None
    """The catalogue of tools, YAML."""
    catalogue: Literal["shown", "learned"] = "shown"
    """shown: each prompt lists tools. learned: prompts list none, the model knows the catalogue by heart; shorter
    prompts, but a new tool needs a new training."""
    show: Literal["schemas", "signatures", "nearest", "auto"] = "schemas"
    """How tools are written: whole schemas, a line each, or those nearest to the request (`nearest` of them). auto: the
    first of these that leaves half of max_tokens free."""
    nearest: int = Field(16, gt=0)
    """How many tools a preselector by character n-grams leaves of the catalogue."""
    system: str = ""
    """System message put before rows that have none."""
    distractors: tuple[int, int] = (3, 7)
    """Fewest and most other tools shown beside the right ones in a training row."""
    whole_catalogue: float = Field(0.2, ge=0, le=1)
    """Share of training rows that show every tool."""
    max_tokens: int = Field(2048, gt=0)
    """Longest example kept, in tokens; longer ones are counted and left out, never cut."""
    validation_share: float = Field(0.1, gt=0, lt=1)
    """Share of rows kept for validation."""
    validation_rows: int = Field(500, gt=0)
    """At most this many rows are kept for validation."""
    keep_thinking: bool = False
    """Whether the thinking of older transcripts (`[THINK] …`) is learned, as text before the answer."""
    languages: tuple[str, ...] = ()
    """ISO 639-1 codes its text may be in; rows in another are warned of. Empty: any."""
    personal: Literal["regex", "presidio"] = "regex"
    """How personal data is looked for: by our own patterns, or by Presidio (an extra) too, for people's names."""
    duplicates: Literal["keep", "drop"] = "keep"
    """Rows of files that are equal, or nearly, to an earlier one: counted, and never on both sides of a split."""
    held_out: tuple[Path, ...] = ()
    """Files of test rows that must not stand in training, exactly or nearly."""
    require: dict[Measure, int | float | str] = {}
    """What the data must reach, written to validation.json: a number, or one behind <, <=, >, >= or =."""
    seed: int = 0

    @field_validator("require")
    @classmethod
    def _can_be_compared(cls, require: dict[Measure, int | float | str]) -> dict[Measure, int | float | str]:
        for name, wanted in require.items():
            if isinstance(wanted, str) and not BOUND.fullmatch(wanted):
                raise ValueError(f"{name}: {wanted!r}: a number, or one behind <, <=, >, >= or =, as in '<4096'")
        return require
