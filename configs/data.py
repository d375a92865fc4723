"""`data` in a recipe: the sources of rows, how rows are written for the model, and requirements on them."""

import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tuneline.configs.section import ProviderName, Section
from tuneline.configs.user_paths import UserPath

BOUND = re.compile(r"(<=|>=|<|>|=)\s*(\d+(?:\.\d+)?)")
"""A bound in `data.require`, as in `<4096`."""
COLUMN_TARGETS = (
    *("messages", "conversations", "instruction", "input", "output", "context", "response", "prompt", "completion"),
    *("query", "answers", "chosen", "rejected", "label", "history", "system", "text", "style", "tools", "document"),
)
"""What a column of a source can be mapped to."""
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
    """A model that writes the examples, instead of the built-in grammars."""

    provider: ProviderName
    """`groq`, `together`, `openai`, `local`, …, or the URL of any server that speaks OpenAI's API."""
    model: str
    budget_usd: float = Field(gt=0)
    """A request that could cost more than what is left of this is not sent."""
    usd_per_million_input: float = Field(ge=0)
    usd_per_million_output: float = Field(ge=0)
    """The provider's prices, from which the spending is counted."""


class Source(Section):
    """A source of rows: a path with rows or text, a grammar that generates them, or the catalogue (`per_tool`)."""

    path: UserPath | None = None
    """A file or a folder: JSONL, JSON, CSV, Parquet or text, also as gz or zst. docs/data.md lists the formats."""
    format: (
        Literal["messages", "sharegpt", "alpaca", "dolly", "xlam", "glaive", "bfcl"]
        | Literal["prompt-completion", "preference", "text"]
        | None
    ) = None
    """The format of its records; if not given, it is detected by their keys, and reported."""
    columns: dict[str, str] = {}
    """The format's names, each with the column that holds it: `{prompt: Question, completion: Answer}`."""
    style: str | None = None
    """The style label of its text; `folder` or `file` takes the name of each file's folder or of the file."""
    learn: Literal["instruction", "continuation", "chosen"] = "instruction"
    """instruction: text with a style answers a request for that style. continuation: the text itself is learned.
    chosen: of pairs for preference training, the chosen answers are."""
    passage_words: int = Field(180, gt=10)
    """Approximate words of a text file per row; paragraphs are not split."""
    weight: float = Field(1.0, gt=0)
    """How often each of its training rows is seen per epoch: 2 is twice, 0.5 takes half of them."""
    grammar: UserPath | None = None
    """A YAML file of phrasings, expanded into requests and their tool calls."""
    rows: int | None = Field(None, gt=0)
    """Rows to generate from the grammar."""
    per_tool: int | None = Field(None, gt=0)
    """Examples to generate for each tool of the catalogue."""
    languages: tuple[Literal["en", "it", "id"], ...] = ("en", "it", "id")
    """Languages of the examples generated from the catalogue."""
    synthesize: Synthesis | None = None
    """The model that writes the examples of `per_tool`."""

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if sum(origin is not None for origin in (self.path, self.grammar, self.per_tool)) != 1:
            raise ValueError("give either path or grammar, or per_tool")
        if (self.grammar is None) != (self.rows is None):
            raise ValueError("rows and grammar must be given together")
        if self.path is None and (self.format or self.columns or self.style):
            raise ValueError("format, columns and style require path")
        if self.synthesize and not self.per_tool:
            raise ValueError("synthesize requires per_tool")
        return self

    @field_validator("columns")
    @classmethod
    def _check_columns(cls, columns: dict[str, str]) -> dict[str, str]:
        if unknown := [target for target in columns if target not in COLUMN_TARGETS]:
            raise ValueError(f"{unknown[0]!r} is not a field of a format; known are {', '.join(COLUMN_TARGETS)}")
        return columns


class Data(Section):
    """The training data."""

    sources: tuple[Source, ...] = Field(min_length=1)
    """Sources of training rows, merged in this order, then shuffled."""
    validation: Source | None = None
    """Rows that the validation loss is measured on: a file, or a source with a path. If given, no training row is taken
    for it, and a training row that repeats one of them is left out."""
    tools: UserPath | None = None
    """The catalogue of tools, a YAML file."""
    catalogue: Literal["shown", "learned"] = "shown"
    """shown: each prompt lists tools. learned: prompts list none, since the model has memorized the catalogue; prompts
    are shorter, but a new tool requires new training."""
    show: Literal["schemas", "signatures", "nearest", "auto"] = "schemas"
    """How tools are listed: full schemas, a line each, or only the `nearest` ones to the request. auto: the first of
    these that leaves half of max_tokens free."""
    nearest: int = Field(16, gt=0)
    """Tools that the preselector, by character n-grams, keeps of the catalogue."""
    system: str = ""
    """System message for rows that have none."""
    distractors: tuple[int, int] = (3, 7)
    """Minimum and maximum of other tools shown with the right ones in a training row."""
    whole_catalogue: float = Field(0.2, ge=0, le=1)
    """Share of training rows that list every tool."""
    max_tokens: int = Field(2048, gt=0)
    """Longest row, in tokens; longer ones are counted and left out, never cut."""
    validation_share: float = Field(0.1, gt=0, lt=1)
    """Share of rows in the validation split, if `validation` is not given."""
    validation_rows: int = Field(500, gt=0)
    """Maximum number of rows in the validation split."""
    keep_thinking: bool = False
    """Whether the thinking in older transcripts (`[THINK] …`) is kept, as text before the answer."""
    languages: tuple[str, ...] = ()
    """ISO 639-1 codes of the expected languages; rows in others cause a warning. Empty: any."""
    personal: Literal["regex", "presidio"] = "regex"
    """How personal data is detected: by our own patterns, or also by Presidio (an extra), for people's names."""
    duplicates: Literal["keep", "drop"] = "keep"
    """Exact and near-duplicates of earlier rows; they are counted, and never on both sides of a split."""
    held_out: tuple[UserPath, ...] = ()
    """Files of test rows; no exact or near-duplicate of them may be in the training data."""
    require: dict[Measure, int | float | str] = {}
    """Requirements by measure, reported in validation.json: a number, or one after <, <=, >, >= or =."""
    seed: int = 0

    @field_validator("validation", mode="before", json_schema_input_type=Source | str | None)
    @classmethod
    def _read_file_name(cls, validation: Any) -> Any:
        return {"path": validation} if isinstance(validation, str | Path) else validation

    @field_validator("validation")
    @classmethod
    def _check_validation(cls, validation: Source | None) -> Source | None:
        if validation and not validation.path:
            raise ValueError("give the path of a file or folder of rows")
        return validation

    @property
    def numbered_sources(self) -> list[tuple[int, Source]]:
        """The sources in the order they are read, with their numbers: that of validation rows first, numbered last."""
        validation = [(len(self.sources), self.validation)] if self.validation else []
        return [*validation, *enumerate(self.sources)]

    @field_validator("require")
    @classmethod
    def _check_bounds(cls, require: dict[Measure, int | float | str]) -> dict[Measure, int | float | str]:
        for name, bound in require.items():
            if isinstance(bound, str) and not BOUND.fullmatch(bound):
                raise ValueError(
                    f"{name}: {bound!r}: expected a number, optionally after <, <=, >, >= or =, as in '<4096'"
                )
        return require
