"""Reads sources as rows: detects the format of every file below a path, and checks each record as it is read."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tuneline.configs.data import Source
from tuneline.core.paths import resolve
from tuneline.stages.prepare.checks.language import detect_language
from tuneline.stages.prepare.checks.problems import KINDS, Problem, RowError
from tuneline.stages.prepare.checks.row_checks import check_turns, extract_text, normalize_calls
from tuneline.stages.prepare.checks.text_checks import check_text
from tuneline.stages.prepare.checks.toolbox import Toolbox
from tuneline.stages.prepare.formats.books import Passage, split_passages, to_instruction
from tuneline.stages.prepare.formats.containers import (
    Record,
    detect_container,
    has_invalid_utf8,
    list_files,
    read_records,
    uncompressed_suffix,
)
from tuneline.stages.prepare.formats.conversations import detect_format, rename_columns, require_format, to_conversation
from tuneline.stages.prepare.rows import Row

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


def read_source(
    source: Source,
    toolbox: Toolbox,
    *,
    keep_thinking: bool = False,
    on_format: FormatCallback = lambda file, form: None,
    repair: TextRepair | None = None,
) -> Iterator[SourceRow | Problem]:
    """Yield the rows and problems of a source's file, or of all files below its folder, in the order of their names."""
    assert source.path
    root = resolve(source.path)
    files, unknown = list_files(root)
    for file in unknown:
        yield Problem("skipped_file", str(file), 0, f"no format is known for {file.suffix or 'a file without suffix'}")
    for file in files:
        yield from read_file(
            file, toolbox, source, root=root, keep_thinking=keep_thinking, on_format=on_format, repair=repair
        )


def read_file(
    file: Path,
    toolbox: Toolbox,
    source: Source | None = None,
    *,
    root: Path | None = None,
    keep_thinking: bool = False,
    on_format: FormatCallback = lambda file, form: None,
    repair: TextRepair | None = None,
) -> Iterator[SourceRow | Problem]:
    """Yield the rows and problems of one file. `root` is the path of its source."""
    source = source or Source(path=file)
    form: str | None = source.format
    may_be_invalid = detect_container(file) in ("csv", "json array")
    for record in read_records(file):
        if isinstance(record, Problem):
            yield record
            continue
        if repair:
            record = Record(record.file, record.line, _repair(record.value, repair))
        if isinstance(record.value, str) and detect_container(file) == "text":
            on_format(file, "text")
            yield from _read_passages(record, source, root or file)
            continue
        try:
            if may_be_invalid and has_invalid_utf8(record.value):
                raise RowError("not_utf8", "not UTF-8")
            value = rename_columns(record.value, source.columns)
            if form is None:
                form = detect_format(value)
                on_format(file, f"{form} ({detect_container(file)})")
            yield from _read_row(value, form, record, source, toolbox, keep_thinking)
        except RowError as error:
            yield error.at(file, record.line)


def _repair(value: Any, repair: TextRepair) -> Any:
    if isinstance(value, str):
        return repair(value)
    if isinstance(value, dict):
        return {key: _repair(item, repair) for key, item in value.items()}
    return [_repair(item, repair) for item in value] if isinstance(value, list) else value


def _read_row(
    value: Any, form: str, record: Record, source: Source, toolbox: Toolbox, keep_thinking: bool
) -> Iterator[SourceRow | Problem]:
    """Yield all problems of a record, then its row if none of them is an error."""
    require_format(value, form)
    chat, tools = to_conversation(value, form, keep_thinking=keep_thinking)
    errors: list[RowError] = []
    names: list[str] = []
    try:
        names = toolbox.resolve_names(tools)
    except RowError as error:
        errors.append(error)
    text = str(value["text"]) if form == "text" else ""
    if form == "text":
        errors += [] if text.strip() else [RowError("no_answer", "the text is empty")]
    else:
        errors += [*check_turns(chat), *normalize_calls(chat, toolbox)]
        text = extract_text(chat)
    errors += check_text(text)
    yield from (error.at(record.file, record.line) for error in errors)
    if _has_error(errors):
        return
    style = value.get("style") or _style(source, record.file, None)
    if form == "text" and style and source.learn == "instruction":
        chat = to_instruction(Passage(record.line, text), str(style), detect_language(text) or "en")
    fields = {"messages": chat, "tools": names, "source": value.get("source") or record.file.name}
    if style:
        fields["style"] = str(style)
    if value.get("document"):
        fields["document"] = str(value["document"])
    if not chat:
        fields["text"] = text
    yield SourceRow(_validate(fields), str(record.file), record.line, text)


def _has_error(errors: list[RowError]) -> bool:
    return any(KINDS[error.kind].severity == "error" for error in errors)


def _validate(fields: dict[str, Any]) -> Row:
    try:
        return Row.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "row"
        raise RowError("not_a_row", f"{key}: {first['msg'].removeprefix('Value error, ')}") from None


def _read_passages(record: Record, source: Source, root: Path) -> Iterator[SourceRow | Problem]:
    """Yield a text file's passages as rows."""
    style = _style(source, record.file, root)
    document = str(record.file.relative_to(root)) if record.file != root else record.file.name
    markdown = uncompressed_suffix(record.file) == ".md"
    empty = True
    for passage in split_passages(record.value, words=source.passage_words, markdown=markdown):
        empty = False
        errors = list(check_text(passage.text))
        yield from (error.at(record.file, passage.line) for error in errors)
        if _has_error(errors):
            continue
        fields: dict[str, Any] = {"messages": [], "source": record.file.name, "document": document}
        if style and source.learn == "instruction":
            fields["messages"] = to_instruction(passage, style, detect_language(passage.text) or "en")
        else:
            fields["text"] = passage.text
        fields |= {"style": style} if style else {}
        yield SourceRow(Row.model_validate(fields), str(record.file), passage.line, passage.text)
    if empty:
        yield Problem("empty_message", str(record.file), 1, "nothing is left of this text once it is cleaned")


def _style(source: Source, file: Path, root: Path | None) -> str | None:
    """Return the style of a source's rows: given by the recipe, or the name of the file's folder, or of the file."""
    if source.style == "folder":
        return file.parent.name
    if source.style == "file":
        return file.stem.split(".")[0]
    return source.style
