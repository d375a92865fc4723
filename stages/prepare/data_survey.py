"""What can be trained on at a path: rows, texts, splits and a catalogue of tools."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tuneline.configs.catalogue import load_catalogue
from tuneline.configs.data import Source
from tuneline.core.errors import BadData, BadRequest
from tuneline.core.paths import ROOT
from tuneline.stages.prepare.checks.problems import Problem, RowError
from tuneline.stages.prepare.checks.toolbox import Toolbox
from tuneline.stages.prepare.formats.containers import SUFFIXES, detect_layout, read_records, uncompressed_suffix
from tuneline.stages.prepare.formats.conversations import detect_format, guess_columns
from tuneline.stages.prepare.formats.reader import SourceRow, read_file
from tuneline.stages.prepare.formats.records import TEXT, Record
from tuneline.stages.prepare.formats.source_files import TEST, TRAIN, SourceFile, list_source_files
from tuneline.stages.prepare.formats.verse import is_verse

RECORDS_SAMPLED = 200
"""Records of a file that are read to find its format and the length of its rows."""
MAX_CATALOGUE_BYTES = 4 << 20
DEFAULT_CATALOGUE = ROOT / "configs/tools/business.yaml"
"""The catalogue that is tried if rows call tools that nothing describes."""
PROBLEMS_NOTED = 3
"""Problems of a file's first rows that are printed and written down."""
BYTES_PER_WORD = 6
PASSAGE_CHARACTERS = 400 * 8
"""Characters assumed for the longest passage of a text."""


@dataclass
class DataSurvey:
    """The data found at a path."""

    sources: list[dict[str, Any]] = field(default_factory=list)
    """Entries for the recipe's `data.sources`."""
    notes: list[str] = field(default_factory=list)
    tools: Path | None = None
    longest: int = 0
    """Characters of the longest row that was sampled."""
    validation: list[Path] = field(default_factory=list)
    test: list[Path] = field(default_factory=list)
    """Files that are not trained on, by their names."""
    splits_are_read: bool = False
    """Whether a source is the folder of these files, which then needs no other mention of them in `data`."""
    styles: dict[str, int] = field(default_factory=dict)
    """Words of each style."""


def survey_data(path: Path) -> DataSurvey:
    """Return what can be trained on at a path.

    Raises:
        BadData: There is nothing; the message says why for each file.
    """
    survey = DataSurvey()
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        load_catalogue(path)  # what is wrong with it says more than that YAML holds no rows
    found = list_source_files(path)
    catalogues = [file for file in [*found.paths, *(file for file, _ in found.skipped)] if _is_catalogue(file)]
    if catalogues:
        survey.tools = catalogues[0].absolute()
        count = len(load_catalogue(catalogues[0]).names)
        survey.notes.append(f"{catalogues[0]}: a catalogue of {count} tools")
    files = [file for file in found.files if file.path not in catalogues]
    texts = [file.path for file in files if detect_layout(file.path).kind == TEXT]
    rows = [file for file in files if file.path not in texts]
    if found.has_splits and rows:
        _survey_splits(path, rows, survey)
    else:
        for file in rows:
            _survey_rows(file.path, survey)
    if texts:
        _survey_texts(path, texts, survey)
    ignored = Counter(file.suffix or "no suffix" for file, _ in found.skipped if file not in catalogues)
    survey.notes += [f"left out: {count} × {suffix}" for suffix, count in ignored.items()]
    if survey.tools and not survey.sources:
        survey.sources.append({"per_tool": 50})
        survey.notes.append("no rows: 50 examples per tool are generated from the catalogue")
    if not survey.sources:
        known = f"supported: {', '.join(SUFFIXES)}, also with .gz or .zst"
        raise BadData("\n".join([f"{path}: nothing to train on; {known}", *survey.notes]))
    return survey


def _survey_splits(root: Path, files: Sequence[SourceFile], survey: DataSurvey) -> None:
    """Add a folder whose files are splits by their names as one source."""
    before = len(survey.sources)
    for file in files:
        if file.split == TRAIN:
            _survey_rows(file.path, survey)
        else:
            is_test = file.split == TEST
            (survey.test if is_test else survey.validation).append(file.path.absolute())
            use = "a suite of the evaluation, and held out" if is_test else "the validation loss is measured on it"
            survey.notes.append(f"{file.path}: a {file.split} file, judging by its name: not trained on; {use}")
    settings = [{key: value for key, value in source.items() if key != "path"} for source in survey.sources[before:]]
    if settings and all(setting == settings[0] for setting in settings):
        survey.sources[before:] = [{"path": str(root.absolute())} | settings[0]]
        survey.splits_are_read = True


def _survey_rows(file: Path, survey: DataSurvey) -> None:
    """Add a file of rows as a source, or a note on why it is left out."""
    layout = detect_layout(file)
    try:
        records = list(islice(read_records(file, layout), RECORDS_SAMPLED))
    except BadRequest as error:  # what reads it is not installed
        survey.notes.append(f"left out: {error}")
        return
    values = [record.value for record in records if isinstance(record, Record)]
    if not values:
        problem = next((str(record) for record in records if isinstance(record, Problem)), f"{file}: empty")
        survey.notes.append(f"left out: {problem}")
        return
    settings: dict[str, Any] = {}
    try:
        form = _first_format(values)
        if form is None:
            settings, form = {"columns": _guess_columns(values)}, "prompt-completion"
    except RowError as error:
        survey.notes.append(f"left out: {file}: {error.text}")
        return
    if form == "preference":
        settings["learn"] = "chosen"
        survey.notes.append(
            f"{file}: pairs for preference training, which is not supported yet: the chosen answers are trained on"
        )
    rows, problems = _sample_rows(Source(path=file, **settings), survey)
    if not rows:
        reason = str(problems[0]) if problems else f"{file}: no row is usable for training"
        survey.notes.append(f"left out: {reason}")
        return
    survey.longest = max([survey.longest, *rows])
    columns = settings.get("columns", {})
    mapped = f", columns {', '.join(f'{k}: {v}' for k, v in columns.items())}" if columns else ""
    survey.notes.append(f"{file}: {form} ({layout}){mapped}")
    survey.notes += [f"{problem}" for problem in problems[:PROBLEMS_NOTED]]
    if len(problems) > PROBLEMS_NOTED:
        survey.notes.append(f"{file}: {len(problems) - PROBLEMS_NOTED} problems more; `tuneline validate` lists them")
    survey.sources.append({"path": str(file.absolute())} | settings)


def _sample_rows(source: Source, survey: DataSurvey) -> tuple[list[int], list[Problem]]:
    """Return (characters of each sampled row, problems of the sample).

    If there is no catalogue, and the default one has all tools that are called, the survey takes it.
    """
    toolbox, results = _read_sample(source, survey.tools)
    if _unknown_tools(results) and not survey.tools:
        default_toolbox, default_results = _read_sample(source, DEFAULT_CATALOGUE)
        if not _unknown_tools(default_results):
            toolbox, results, survey.tools = default_toolbox, default_results, DEFAULT_CATALOGUE
            survey.notes.append(f"{DEFAULT_CATALOGUE}: has the tools that {source.path} calls")
    rows = [result for result in results if isinstance(result, SourceRow)]
    problems = [result for result in results if isinstance(result, Problem)]
    return [len(row.text) + _schema_characters(row, toolbox) for row in rows], problems


def _read_sample(source: Source, tools: Path | None) -> tuple[Toolbox, list[SourceRow | Problem]]:
    """Return (the tools that are known after the sample, the sampled rows and problems)."""
    assert source.path
    toolbox = Toolbox(load_catalogue(tools) if tools else None)
    return toolbox, list(islice(read_file(source.path, toolbox, source), RECORDS_SAMPLED))


def _unknown_tools(results: Sequence[SourceRow | Problem]) -> bool:
    """Return whether an unknown tool is called."""
    return any(isinstance(result, Problem) and result.kind == "unknown_tool" for result in results)


def _first_format(values: list[Any]) -> str | None:
    """Return the format of the first record that has one, or None."""
    for value in values:
        try:
            return detect_format(value)
        except RowError:
            continue
    return None


def _guess_columns(values: list[Any]) -> dict[str, str]:
    """Return the columns of question and answer, chosen by their names."""
    if columns := guess_columns(values[0]):
        return columns
    keys = list(map(str, values[0])) if isinstance(values[0], dict) else []
    example = f", as in `columns: {{prompt: {keys[0]}, completion: {keys[1]}}}`" if len(keys) > 1 else ""
    raise RowError("not_a_row", f"unknown format: {', '.join(keys) or 'its rows'}; map its columns{example}")


def _schema_characters(row: SourceRow, toolbox: Toolbox) -> int:
    return sum(
        len(toolbox.tools[tool].model_dump_json() if isinstance(tool, str) else json.dumps(tool))
        for tool in row.row.tools
    )


def _is_verse_file(file: Path) -> bool:
    if uncompressed_suffix(file) == ".md":
        return False
    records = [record.value for record in read_records(file, detect_layout(file)) if isinstance(record, Record)]
    return any(is_verse(text) for text in records if isinstance(text, str))


def _survey_texts(path: Path, texts: list[Path], survey: DataSurvey) -> None:
    """Add text files as sources. If they are in several folders, each folder is a style."""
    folders = sorted({file.parent for file in texts})
    mixed = len(texts) < len(list_source_files(path).files)
    if mixed:
        for folder in folders:
            if any(detect_layout(file).kind != TEXT for file in list_source_files(folder).paths):
                survey.notes.append(f"left out: text files next to rows in {folder}; move them to a separate folder")
                return
    for folder in folders:
        count = sum(file.parent == folder for file in texts)
        survey.notes.append(f"{folder}: {count} texts" + (f", style {folder.name!r}" if len(folders) > 1 else ""))
        verse = sum(_is_verse_file(file) for file in texts if file.parent == folder)
        if verse:
            survey.notes.append(f"{folder}: {verse} of them read as verse: line breaks are kept")
        size = sum(file.stat().st_size for file in texts if file.parent == folder)
        survey.styles[folder.name] = survey.styles.get(folder.name, 0) + size // BYTES_PER_WORD
    if path.is_dir() and mixed:
        survey.sources += [
            {"path": str(folder.absolute())} | ({"style": folder.name} if len(folders) > 1 else {})
            for folder in folders
        ]
    else:
        survey.sources.append({"path": str(path.absolute())} | ({"style": "folder"} if len(folders) > 1 else {}))
    survey.longest = max(survey.longest, PASSAGE_CHARACTERS)


def _is_catalogue(file: Path) -> bool:
    if file.suffix not in (".yaml", ".yml", ".json") or file.stat().st_size > MAX_CATALOGUE_BYTES:
        return False
    if file.suffix == ".json" and not _has_tools(file):
        return False
    try:
        load_catalogue(file)
    except BadData:
        return False
    return True


def _has_tools(file: Path) -> bool:
    """Return whether a JSON file begins as a catalogue does, and not as rows do."""
    with file.open("rb") as opened:
        head = opened.read(4096)
    described = any(key in head for key in (b'"parameters"', b'"inputSchema"', b'"input_schema"'))
    return described and not any(key in head for key in (b'"messages"', b'"conversations"', b'"query"', b'"chat"'))
