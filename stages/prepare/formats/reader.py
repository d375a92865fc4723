"""Sources as rows: every file below a path, its format found and told, each record checked as it is read."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tuneline.configs.data import Source
from tuneline.core.paths import resolve
from tuneline.stages.prepare.checks.language import language_of
from tuneline.stages.prepare.checks.problems import KINDS, Problem, Wrong
from tuneline.stages.prepare.checks.row_checks import Toolbox, in_text, mend_calls, text_of, turns_in_order
from tuneline.stages.prepare.formats.books import Passage, passages, styled
from tuneline.stages.prepare.formats.containers import Record, container, escaped, files_in, plain_suffix, records
from tuneline.stages.prepare.formats.conversations import conversation, format_of, mapped, refuse_other_format
from tuneline.stages.prepare.rows import Row

Stated = Callable[[Path, str], None]
"""Told once a file: which format it is in."""
Mend = Callable[[str], str]
"""Applied to every text of a record before it is looked at."""


@dataclass(frozen=True, slots=True)
class Read:
    """A row without errors, and where it stands."""

    row: Row
    file: str
    line: int
    text: str
    """All that is said in it."""


def read_source(
    source: Source,
    toolbox: Toolbox,
    *,
    keep_thinking: bool = False,
    stated: Stated = lambda file, form: None,
    mend: Mend | None = None,
) -> Iterator[Read | Problem]:
    """Rows and problems of a source's file, or of all files below its folder, in order of their names."""
    assert source.path
    root = resolve(source.path)
    files, unknown = files_in(root)
    for file in unknown:
        yield Problem("skipped_file", str(file), 0, f"no format is known for {file.suffix or 'a file without suffix'}")
    for file in files:
        yield from read_file(file, toolbox, source, root=root, keep_thinking=keep_thinking, stated=stated, mend=mend)


def read_file(
    file: Path,
    toolbox: Toolbox,
    source: Source | None = None,
    *,
    root: Path | None = None,
    keep_thinking: bool = False,
    stated: Stated = lambda file, form: None,
    mend: Mend | None = None,
) -> Iterator[Read | Problem]:
    """Rows and problems of one file; each problem has its line."""
    source = source or Source(path=file)
    form: str | None = source.format
    surrogates = container(file) in ("csv", "json array")
    for record in records(file):
        if isinstance(record, Problem):
            yield record
            continue
        if mend:
            record = Record(record.file, record.line, _mended(record.value, mend))
        if isinstance(record.value, str) and container(file) == "text":
            stated(file, "text")
            yield from _passages(record, source, root or file)
            continue
        try:
            if surrogates and escaped(record.value):
                raise Wrong("not_utf8", "not UTF-8")
            value = mapped(record.value, source.columns)
            if form is None:
                form = format_of(value)
                stated(file, f"{form} ({container(file)})")
            yield from _row(value, form, record, source, toolbox, keep_thinking)
        except Wrong as wrong:
            yield wrong.at(file, record.line)


def _mended(value: Any, mend: Mend) -> Any:
    if isinstance(value, str):
        return mend(value)
    if isinstance(value, dict):
        return {key: _mended(item, mend) for key, item in value.items()}
    return [_mended(item, mend) for item in value] if isinstance(value, list) else value


def _row(
    value: Any, form: str, record: Record, source: Source, toolbox: Toolbox, keep_thinking: bool
) -> Iterator[Read | Problem]:
    """The row, unless there are errors in it; all its problems either way."""
    refuse_other_format(value, form)
    chat, tools = conversation(value, form, keep_thinking=keep_thinking)
    wrongs: list[Wrong] = []
    names: list[str] = []
    try:
        names = toolbox.names_of(tools)
    except Wrong as wrong:
        wrongs.append(wrong)
    text = str(value["text"]) if form == "text" else ""
    if form == "text":
        wrongs += [] if text.strip() else [Wrong("no_answer", "the text is empty")]
    else:
        wrongs += [*turns_in_order(chat), *mend_calls(chat, toolbox)]
        text = text_of(chat)
    wrongs += in_text(text)
    yield from (wrong.at(record.file, record.line) for wrong in wrongs)
    if any(KINDS[wrong.kind].severity == "error" for wrong in wrongs):
        return
    style = value.get("style") or _style(source, record.file, None)
    if form == "text" and style and source.learn == "instruction":
        chat = styled(Passage(record.line, text), str(style), language_of(text) or "en")
    made = {"messages": chat, "tools": names, "source": value.get("source") or record.file.name}
    if style:
        made["style"] = str(style)
    if value.get("document"):
        made["document"] = str(value["document"])
    if not chat:
        made["text"] = text
    try:
        yield Read(Row.model_validate(made), str(record.file), record.line, text)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "row"
        raise Wrong("not_a_row", f"{key}: {first['msg'].removeprefix('Value error, ')}") from None


def _passages(record: Record, source: Source, root: Path) -> Iterator[Read | Problem]:
    style = _style(source, record.file, root)
    document = str(record.file.relative_to(root)) if record.file != root else record.file.name
    markdown = plain_suffix(record.file) == ".md"
    empty = True
    for passage in passages(record.value, words=source.passage_words, markdown=markdown):
        empty = False
        wrongs = list(in_text(passage.text))
        yield from (wrong.at(record.file, passage.line) for wrong in wrongs)
        if any(KINDS[wrong.kind].severity == "error" for wrong in wrongs):
            continue
        made: dict[str, Any] = {"messages": [], "source": record.file.name, "document": document}
        if style and source.learn == "instruction":
            made["messages"] = styled(passage, style, language_of(passage.text) or "en")
        else:
            made["text"] = passage.text
        made |= {"style": style} if style else {}
        yield Read(Row.model_validate(made), str(record.file), passage.line, passage.text)
    if empty:
        yield Problem("empty_message", str(record.file), 1, "nothing is left of this text once it is cleaned")


def _style(source: Source, file: Path, root: Path | None) -> str | None:
    """A label given for the whole source, or the name of the file's folder or of the file."""
    if source.style == "folder":
        return file.parent.name
    if source.style == "file":
        return file.stem.split(".")[0]
    return source.style
