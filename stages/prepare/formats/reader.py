"""Reads sources as rows: detects the format of every file below a path, and checks each record as it is read."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

from pydantic import ValidationError

from tuneline.configs.catalogue import wire_name
from tuneline.configs.data import Source
from tuneline.core.paths import resolve
from tuneline.stages.prepare.checks.language import detect_language
from tuneline.stages.prepare.checks.notes import Notes
from tuneline.stages.prepare.checks.problems import KINDS, Problem, RowError
from tuneline.stages.prepare.checks.row_checks import check_choice, check_turns, extract_text, normalize_calls
from tuneline.stages.prepare.checks.text_checks import check_text, check_tools
from tuneline.stages.prepare.checks.toolbox import RowTools, Toolbox
from tuneline.stages.prepare.checks.turn_order import arrange_turns
from tuneline.stages.prepare.formats.books import Passage, split_passages, to_instruction
from tuneline.stages.prepare.formats.call_text import may_hold_calls, read_calls, uses_tools
from tuneline.stages.prepare.formats.containers import detect_layout, read_records, uncompressed_suffix
from tuneline.stages.prepare.formats.conversations import (
    Conversation,
    detect_format,
    rename_columns,
    require_format,
    to_conversation,
    with_known_keys,
)
from tuneline.stages.prepare.formats.json_files import describe_characters
from tuneline.stages.prepare.formats.reading import Reading
from tuneline.stages.prepare.formats.records import JSON_LINES, PARQUET, TEXT, Record
from tuneline.stages.prepare.formats.source_files import TEST, VALIDATION, list_source_files
from tuneline.stages.prepare.formats.verse import is_verse
from tuneline.stages.prepare.rows import Chat, Row

FormatCallback = Callable[[Path, str], None]
"""Called once a file with the format it is in."""
TextRepair = Callable[[str], str]
"""Applied to every text of a record before it is checked."""


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A row without errors, and the file and line it comes from."""

    row: Row
    file: str
    line: int
    text: str
    """The text of all its messages."""
    validates: bool = False
    """Whether its file is, by its name, of the split that validates."""


class ReadingSettings(TypedDict, total=False):
    """How sources are read, whichever they are."""

    keep_thinking: bool
    on_format: FormatCallback
    repair: TextRepair | None
    control_tokens: Collection[str]
    """Texts that the base's tokenizer makes control tokens of, besides `<|…|>`."""


def read_source(source: Source, toolbox: Toolbox, **settings: Unpack[ReadingSettings]) -> Iterator[SourceRow | Problem]:
    """Yield the rows and problems of a source's file, or of all files below its folder, in the order of their names.

    Files that are a test split by their names are not read: see `list_test_files`.
    """
    assert source.path
    root = resolve(source.path)
    found = list_source_files(root)
    for file, reason in found.skipped:
        yield Problem("skipped_file", str(file), 0, reason)
    for source_file in found.files:
        if source_file.split == TEST:
            yield Problem(
                "split_file", str(source_file.path), 0, "a test split, judging by its name: held out, not trained on"
            )
            continue
        if source_file.split == VALIDATION:
            yield Problem(
                "split_file", str(source_file.path), 0, "a validation split, judging by its name: used for validation"
            )
        reader = _FileReader(source_file.path, toolbox, source, root, settings)
        reader.validates = source_file.split == VALIDATION
        yield from reader.read()


def list_test_files(source: Source) -> list[Path]:
    """Return the files of a source that are a test split by their names."""
    assert source.path
    return [file.path for file in list_source_files(resolve(source.path)).files if file.split == TEST]


def read_file(
    file: Path, toolbox: Toolbox, source: Source | None = None, **settings: Unpack[ReadingSettings]
) -> Iterator[SourceRow | Problem]:
    """Yield the rows and problems of one file."""
    yield from _FileReader(file, toolbox, source or Source(path=file), file, settings).read()


class _FileReader:
    """Reads the rows of one file of a source, whose path is `root`. All its records have the format of the first."""

    def __init__(self, file: Path, toolbox: Toolbox, source: Source, root: Path, settings: ReadingSettings) -> None:
        self._file, self._toolbox, self._source, self._root = file, toolbox, source, root
        self._repair, self._control_tokens = settings.get("repair"), settings.get("control_tokens", ())
        self._on_format: FormatCallback = settings.get("on_format", lambda file, form: None)
        self._notes = Notes(file)
        self._reading = Reading(self._notes, settings.get("keep_thinking", False), source.learn)
        self._form: str | None = source.format
        self.validates = False

    def read(self) -> Iterator[SourceRow | Problem]:
        """Yield the rows and problems, then what was done to the rows of the file."""
        yield from self._read_records()
        yield from self._notes.problems()

    def _read_records(self) -> Iterator[SourceRow | Problem]:
        layout = detect_layout(self._file)
        for record in read_records(self._file, layout):
            if isinstance(record, Problem):
                yield record
                continue
            if self._repair:
                record = Record(record.file, record.line, _repair(record.value, self._repair))
            if layout.kind == TEXT:
                self._on_format(self._file, "text")
                yield from self._read_passages(record)
                continue
            self._notes.line = record.line
            try:
                if layout.kind not in (JSON_LINES, PARQUET) and (problem := describe_characters(record.value)):
                    raise RowError(*problem)
                value = with_known_keys(rename_columns(record.value, self._source.columns))
                if self._form is None:
                    self._form = detect_format(value)
                    self._on_format(self._file, f"{self._form} ({layout})")
                yield from self._read_row(value, self._form, record)
            except RowError as error:
                yield error.at(self._file, record.line)

    def _read_row(self, value: Any, form: str, record: Record) -> Iterator[SourceRow | Problem]:
        """Yield all problems of a record, then its row if none of them is an error."""
        require_format(value, form)
        conversation = to_conversation(value, form, self._reading)
        chat, tools, errors = self._check(conversation)
        if chat:
            text = extract_text(chat)
        elif form == "text":
            text = value["text"]
            if not isinstance(text, str):
                raise RowError("not_a_row", f"text: expected text, not {type(text).__name__}")
            errors += [] if text.strip() else [RowError("no_answer", "the text is empty")]
        else:
            text, errors = "", [*errors, RowError("no_answer", "row: the last message must be the assistant's")]
        errors += [*check_text(text, self._control_tokens), *check_tools(tools or (), self._control_tokens)]
        yield from (error.at(record.file, record.line) for error in errors)
        if _has_error(errors):
            return
        yield SourceRow(
            self._to_row(value, form, chat, tools, text, record), str(record.file), record.line, text, self.validates
        )

    def _check(self, conversation: Conversation) -> tuple[Any, list[Any] | None, list[RowError]]:
        """Return (turns, tools, problems) of a conversation; the tools are None if it brings none of its own."""
        own = conversation.tools is not None
        row_tools = self._toolbox.read_tools(conversation.tools, self._notes) if own else {}
        entries = [self._toolbox.entry(tool) for tool in row_tools.values()] if own else None
        if not conversation.chat:
            return [], entries, []
        calls_tools = uses_tools(conversation.chat)
        chat = self._read_calls(conversation.chat, row_tools) if calls_tools else conversation.chat
        chat, changes = arrange_turns(chat)
        errors = [*changes, *check_turns(chat)]
        if calls_tools:
            errors += normalize_calls(chat, self._toolbox, row_tools, self._notes)
        if conversation.has_choice and not _has_error(errors):
            errors += check_choice(chat, conversation.tool_choice, conversation.parallel)
        return chat, entries, errors

    def _read_calls(self, chat: Chat, row_tools: RowTools) -> Chat:
        """Return the chat with the calls that it has as text, and note those of tools that the row does not have."""
        names = {name for tool in row_tools.values() for name in (tool.written, wire_name(tool.name))}
        chat = read_calls(chat, names or self._toolbox.names)
        if any(turn["role"] == "assistant" and may_hold_calls(turn.get("content") or "") for turn in chat):
            self._notes.add("calls_as_text", "an answer looks like a tool call, but the row has no tool of that name")
        return chat

    def _to_row(self, value: Any, form: str, chat: Any, tools: list[Any] | None, text: str, record: Record) -> Row:
        style = value.get("style") or _style(self._source, record.file, None)
        if form == "text" and not chat and style and self._source.learn == "instruction":
            chat = to_instruction(Passage(record.line, text), str(style), detect_language(text) or "en")
        fields = {"messages": chat, "source": str(value.get("source") or record.file.name)}
        if tools is not None:
            fields["tools"] = tools
        if style:
            fields["style"] = str(style)
        if value.get("document"):
            fields["document"] = str(value["document"])
        if not chat:
            fields["text"] = text
        return _validate(fields)

    def _read_passages(self, record: Record) -> Iterator[SourceRow | Problem]:
        """Yield a text file's passages as rows."""
        source, root = self._source, self._root
        style = _style(source, record.file, root)
        document = str(record.file.relative_to(root)) if record.file != root else record.file.name
        markdown = uncompressed_suffix(record.file) == ".md"
        verse = not markdown and is_verse(record.value)
        if verse:
            self._notes.add("verse", "read as verse: line breaks are kept, as in .md files")
        empty = True
        for passage in split_passages(record.value, words=source.passage_words, markdown=markdown, verse=verse):
            empty = False
            errors = list(check_text(passage.text, self._control_tokens))
            yield from (error.at(record.file, passage.line) for error in errors)
            if _has_error(errors):
                continue
            fields: dict[str, Any] = {"messages": [], "source": record.file.name, "document": document}
            if style and source.learn == "instruction":
                fields["messages"] = to_instruction(passage, style, detect_language(passage.text) or "en")
            else:
                fields["text"] = passage.text
            fields |= {"style": style} if style else {}
            row = Row.model_validate(fields)
            yield SourceRow(row, str(record.file), passage.line, passage.text, self.validates)
        if empty:
            yield Problem("empty_message", str(record.file), 1, "the text is empty after cleaning")


def _repair(value: Any, repair: TextRepair) -> Any:
    if isinstance(value, str):
        return repair(value)
    if isinstance(value, dict):
        return {key: _repair(item, repair) for key, item in value.items()}
    return [_repair(item, repair) for item in value] if isinstance(value, list) else value


def _has_error(errors: list[RowError]) -> bool:
    return any(KINDS[error.kind].severity == "error" for error in errors)


def _validate(fields: dict[str, Any]) -> Row:
    try:
        return Row.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "row"
        raise RowError("not_a_row", f"{key}: {first['msg'].removeprefix('Value error, ')}") from None


def _style(source: Source, file: Path, root: Path | None) -> str | None:
    """Return the style of a source's rows: given by the recipe, or the name of the file's folder, or of the file."""
    if source.style == "folder":
        return file.parent.name
    if source.style == "file":
        return file.stem.split(".")[0]
    return source.style
