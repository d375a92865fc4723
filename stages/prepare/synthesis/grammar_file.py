"""The YAML file of a grammar: its keys and what it inherits."""

from pathlib import Path

from pydantic import ConfigDict, Field, ValidationError

from tuneline.configs.section import StrictModel, explain_first, join_key, shorten
from tuneline.configs.yaml_loader import read_yaml
from tuneline.core.errors import BadData
from tuneline.core.placeholders import fill


class HandlerFile(StrictModel):
    """The patterns of one tool, and the kind of value of each argument."""

    slots: dict[str, str]
    say: tuple[str, ...] = Field(min_length=1)


class GrammarFile(StrictModel):
    """The keys of a grammar. Those of sentence templates, which it may inherit from a language, are ignored."""

    model_config = ConfigDict(extra="ignore")

    openers: tuple[str, ...] = Field(min_length=1)
    closers: tuple[str, ...] = Field(min_length=1)
    values: dict[str, str]
    handlers: dict[str, HandlerFile] = {}
    catalogue: str | None = None
    """The file of a catalogue, whose tools are the handlers."""
    kinds: dict[str, str] = {}
    fillers: tuple[str, ...] = ()
    noise: float = Field(0.0, ge=0, le=1)
    language: str = "en"
    both: tuple[str, ...] = ()
    """Texts that join two requests, `{first}` and `{second}`."""


def read_grammar_file(path: Path) -> GrammarFile:
    """Return the content of a grammar's file. `inherit: FILE` takes missing keys from another file in the same folder.

    Raises:
        BadData: it or the other file cannot be read, or a key is wrong.
    """
    content = _read_mapping(path)
    if "inherit" in content:
        content = _read_mapping(path.parent / str(content["inherit"])) | content
    try:
        file = GrammarFile.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "string_type":
            value = shorten(first["input"])
            raise BadData(
                f"{path}: {join_key(first['loc'])}: {value} is not read as text by YAML; put it in quotes"
            ) from None
        raise BadData(f"{path}: {explain_first(error)}") from None
    _check(file, path)
    return file


def _read_mapping(path: Path) -> dict[str, object]:
    content = read_yaml(path, BadData)
    if not isinstance(content, dict):
        raise BadData(f"{path}: a grammar is a mapping of keys; this is {type(content).__name__}")
    return content


def _check(file: GrammarFile, path: Path) -> None:
    if not file.handlers and not file.catalogue:
        raise BadData(f"{path}: handlers: none; list the tools with their phrasings, or name a catalogue")
    if file.noise and not file.fillers:
        raise BadData(f"{path}: noise: {file.noise:g}: needs a list of fillers")
    for text in file.both:
        try:
            fill(text, {"first": "", "second": ""})
        except ValueError as error:
            raise BadData(f"{path}: both: {text[:60]!r}: {error}") from None
