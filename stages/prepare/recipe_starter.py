"""`tuneline init PATH`: surveys the data at a path and writes a recipe that runs."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from tuneline.configs.catalogue import load_catalogue
from tuneline.configs.data import Data, Source
from tuneline.configs.recipe_file import load_recipe
from tuneline.core.errors import BadData, BadRequest, NotFound
from tuneline.core.files import write_atomic
from tuneline.core.paths import ROOT
from tuneline.stages.prepare.checks.problems import Problem, RowError
from tuneline.stages.prepare.checks.toolbox import Toolbox
from tuneline.stages.prepare.formats.containers import (
    SUFFIXES,
    TEXT,
    Record,
    detect_container,
    list_files,
    read_records,
)
from tuneline.stages.prepare.formats.conversations import detect_format
from tuneline.stages.prepare.formats.reader import SourceRow, read_file

RECORDS_SAMPLED = 200
"""Records of a file that are read to find its format and the length of its rows."""
CHARACTERS_A_TOKEN = 3.0
"""Low for Llama on purpose, so that the token limit that follows leaves out no row."""
BYTES_A_TOKEN_TINY = 1.5
TINY_CONTEXT = 2048
"""The context of the tiny base, in tokens."""
MAX_TOOLS_SHOWN = 1 + Data.model_fields["distractors"].default[1]
"""Most tools of a row that calls one, unless it shows the whole catalogue."""
DEFAULT_CATALOGUE = ROOT / "configs/tools/business.yaml"
"""The catalogue that is tried if rows call tools that nothing describes."""
QUESTION_COLUMNS = ("question", "prompt", "query", "user", "instruction", "input", "domanda", "pertanyaan")
ANSWER_COLUMNS = ("answer", "response", "completion", "assistant", "output", "reply", "risposta", "jawaban")
"""Names of columns that are taken for question and answer in a file of no known format."""
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


def write_starter_recipe(path: Path, recipe_file: Path, base: str = "tiny", revision: str | None = None) -> str:
    """Write a recipe for the data at `path`; return what was found, and the next commands, as text.

    Raises:
        NotFound: The path does not exist.
        BadRequest: The recipe file exists already.
        BadData: Nothing at the path can be trained on.
    """
    if not path.exists():
        raise NotFound(f"{path}: no such file or folder")
    if recipe_file.exists():
        raise BadRequest(f"{recipe_file}: is there already; give another name with --to")
    survey = survey_data(path)
    catalogue_settings = _survey_catalogue(survey)
    recipe = _compose_recipe(survey, base, revision)
    recipe["data"] |= catalogue_settings
    header = "".join(f"# {' '.join(note.split())}\n" for note in survey.notes)  # a file's name may have a line break
    recipe_file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(recipe_file, header + yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
    load_recipe(recipe_file)
    next_commands = f"next: tuneline validate {recipe_file}; tuneline run {recipe_file}"
    return "\n".join([*survey.notes, f"written: {recipe_file}", next_commands])


def survey_data(path: Path) -> DataSurvey:
    """Return what can be trained on at a path.

    Raises:
        BadData: There is nothing.
    """
    survey = DataSurvey()
    known, unknown = list_files(path)
    catalogues = [file for file in [*known, *unknown] if file.suffix in (".yaml", ".yml") and _is_catalogue(file)]
    if catalogues:
        survey.tools = catalogues[0].absolute()
        count = len(load_catalogue(catalogues[0]).names)
        survey.notes.append(f"{catalogues[0]}: a catalogue of {count} tools")
    texts = [file for file in known if detect_container(file) == TEXT]
    for file in known:
        if file not in texts:
            _survey_rows(file, survey)
    if texts:
        _survey_texts(path, texts, survey)
    ignored = Counter(file.suffix or "no suffix" for file in unknown if file not in catalogues)
    survey.notes += [f"left out: {count} × {suffix}" for suffix, count in ignored.items()]
    if survey.tools and not survey.sources:
        survey.sources.append({"per_tool": 50})
        survey.notes.append("no rows: 50 examples a tool are made from the catalogue")
    if not survey.sources:
        raise BadData(f"{path}: nothing to learn from; known are {', '.join(SUFFIXES)}, also with .gz or .zst")
    return survey


def _survey_rows(file: Path, survey: DataSurvey) -> None:
    """Add a file of rows as a source, or a note on why it is left out."""
    records = list(islice(read_records(file), RECORDS_SAMPLED))
    values = [record.value for record in records if isinstance(record, Record)]
    if not values:
        problem = next((str(record) for record in records if isinstance(record, Problem)), f"{file}: empty")
        survey.notes.append(f"left out: {problem}")
        return
    columns: dict[str, str] = {}
    try:
        form = _first_format(values)
        if form is None:
            columns, form = _guess_columns(values), "prompt-completion"
    except RowError as error:
        survey.notes.append(f"left out: {file}: {error.text}")
        return
    rows, missing = _sample_rows(Source(path=file, columns=columns), survey)
    survey.longest = max([survey.longest, *rows])
    mapped = f", columns {', '.join(f'{k}: {v}' for k, v in columns.items())}" if columns else ""
    survey.notes.append(f"{file}: {form} ({detect_container(file)}){mapped}")
    if missing:
        survey.notes.append(
            f"{missing[0]}: {len(missing)} times in {len(values)} rows; configs/tools/handlers.yaml shows one"
        )
    survey.sources.append({"path": str(file.absolute())} | ({"columns": columns} if columns else {}))


def _sample_rows(source: Source, survey: DataSurvey) -> tuple[list[int], list[str]]:
    """Return (characters of each sampled row, where an unknown tool is called).

    If there is no catalogue, and the default one has all tools that are called, the survey takes it.
    """
    toolbox, results = _read_sample(source, survey.tools)
    missing = _unknown_tools(results)
    if missing and not survey.tools:
        default_toolbox, default_results = _read_sample(source, DEFAULT_CATALOGUE)
        if not _unknown_tools(default_results):
            toolbox, results, missing, survey.tools = default_toolbox, default_results, [], DEFAULT_CATALOGUE
            survey.notes.append(f"{DEFAULT_CATALOGUE}: has the tools that {source.path} calls")
    rows = [result for result in results if isinstance(result, SourceRow)]
    return [len(row.text) + _schema_characters(row, toolbox) for row in rows], missing


def _read_sample(source: Source, tools: Path | None) -> tuple[Toolbox, list[SourceRow | Problem]]:
    """Return (the tools that are known after the sample, the sampled rows and problems)."""
    assert source.path
    toolbox = Toolbox(load_catalogue(tools) if tools else None)
    return toolbox, list(islice(read_file(source.path, toolbox, source), RECORDS_SAMPLED))


def _unknown_tools(results: Sequence[SourceRow | Problem]) -> list[str]:
    """Return the places where an unknown tool is called."""
    problems = [result for result in results if isinstance(result, Problem)]
    return [str(problem).partition(";")[0] for problem in problems if problem.kind == "unknown_tool"]


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
    keys = [key for value in values[:1] if isinstance(value, dict) for key in value]
    question = next((key for name in QUESTION_COLUMNS for key in keys if key.lower() == name), None)
    answer = next((key for name in ANSWER_COLUMNS for key in keys if key.lower() == name), None)
    if question is None or answer is None:
        example = f", as in `columns: {{prompt: {keys[0]}, completion: {keys[1]}}}`" if len(keys) > 1 else ""
        raise RowError("not_a_row", f"no format is known for {', '.join(keys) or 'its rows'}; map its columns{example}")
    return {"prompt": question, "completion": answer}


def _schema_characters(row: SourceRow, toolbox: Toolbox) -> int:
    return sum(len(toolbox.tools[name].model_dump_json()) for name in row.row.tools)


def _survey_texts(path: Path, texts: list[Path], survey: DataSurvey) -> None:
    """Add text files as sources. If they are in several folders, each folder is a style."""
    folders = sorted({file.parent for file in texts})
    mixed = len(texts) < len(list_files(path)[0])
    if mixed:
        for folder in folders:
            if any(detect_container(file) != TEXT for file in list_files(folder)[0]):
                survey.notes.append(f"left out: text beside rows in {folder}; put it in a folder of its own")
                return
    for folder in folders:
        count = sum(file.parent == folder for file in texts)
        survey.notes.append(f"{folder}: {count} texts" + (f", style {folder.name!r}" if len(folders) > 1 else ""))
    if path.is_dir() and mixed:
        survey.sources += [
            {"path": str(folder.absolute())} | ({"style": folder.name} if len(folders) > 1 else {})
            for folder in folders
        ]
    else:
        survey.sources.append({"path": str(path.absolute())} | ({"style": "folder"} if len(folders) > 1 else {}))
    survey.longest = max(survey.longest, PASSAGE_CHARACTERS)


def _survey_catalogue(survey: DataSurvey) -> dict[str, Any]:
    """Add the tools a row shows to the longest row; return data settings for a catalogue too large to show whole."""
    if not survey.tools:
        return {}
    catalogue = load_catalogue(survey.tools)
    survey.longest += sum(sorted(len(json.dumps(tool)) for tool in catalogue.openai())[-MAX_TOOLS_SHOWN:])
    if len(catalogue.names) <= MAX_TOOLS_SHOWN:
        return {}
    survey.notes.append(
        f"a row shows the tools it calls and 3 to {MAX_TOOLS_SHOWN - 1} others, never all; see data.show"
    )
    return {"whole_catalogue": 0}


def _is_catalogue(file: Path) -> bool:
    try:
        load_catalogue(file)
    except BadData:
        return False
    return True


def _compose_recipe(survey: DataSurvey, base: str, revision: str | None) -> dict[str, Any]:
    characters_a_token = BYTES_A_TOKEN_TINY if base == "tiny" else CHARACTERS_A_TOKEN
    tokens = max(512, int(survey.longest / characters_a_token * 1.5))
    limit = min(TINY_CONTEXT, tokens) if base == "tiny" else tokens
    max_tokens = next(power for power in (1 << n for n in range(9, 24)) if power >= limit)
    data: dict[str, Any] = {"sources": survey.sources, "max_tokens": max_tokens}
    if survey.tools:
        data = {"tools": str(survey.tools)} | data
    recipe: dict[str, Any] = {"base": base} | ({"revision": revision} if revision else {}) | {"data": data}
    if base == "tiny":
        recipe["compute"] = {stage: {"gpu": None, "cores": 4, "memory_gib": 8} for stage in ("train", "evaluate")}
    return recipe
