"""`tuneline init PATH`: looks at what is there and writes a recipe that runs."""

import json
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from tuneline.configs.catalogue import load_catalogue
from tuneline.configs.data import Data, Source
from tuneline.configs.recipe_file import load_recipe
from tuneline.core import artifacts
from tuneline.core.errors import BadData, BadRequest, NotFound
from tuneline.core.paths import ROOT
from tuneline.stages.prepare.checks.problems import Problem, Wrong
from tuneline.stages.prepare.checks.row_checks import Toolbox
from tuneline.stages.prepare.formats.containers import SUFFIXES, TEXT, Record, container, files_in, records
from tuneline.stages.prepare.formats.conversations import format_of
from tuneline.stages.prepare.formats.reader import Read, read_file

LOOKED_AT = 200
"""Records of a file that are read to know its format and how long its rows are."""
CHARACTERS_A_TOKEN = 3.0
"""Few for Llama on purpose: the limit that follows is to leave out nothing."""
BYTES_A_TOKEN_TINY = 1.5
"""The tiny base has 2,048 tokens."""
TINY_CONTEXT = 2048
MOST_SHOWN = 1 + Data.model_fields["distractors"].default[1]
"""Tools of a row that calls one, if it is not shown them all."""
OURS = ROOT / "configs/tools/business.yaml"
"""The catalogue that is tried where rows call tools and none describes them."""
ASKED = ("question", "prompt", "query", "user", "instruction", "input", "domanda", "pertanyaan")
ANSWERED = ("answer", "response", "completion", "assistant", "output", "reply", "risposta", "jawaban")
"""Names of columns that are taken for question and answer, where a file has no format's own."""


@dataclass
class Seen:
    """What a path holds."""

    sources: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tools: Path | None = None
    longest: int = 0
    """Characters of the longest row looked at."""


def init(path: Path, recipe_file: Path, base: str = "tiny", revision: str | None = None) -> str:
    """Writes a recipe for the data at `path` to `recipe_file`; what was found, and the next commands, as text.

    Raises:
        NotFound: no such path. BadRequest: the recipe is there already. BadData: nothing there can be learned from.
    """
    if not path.exists():
        raise NotFound(f"{path}: no such file or folder")
    if recipe_file.exists():
        raise BadRequest(f"{recipe_file}: is there already; give another name with --to")
    seen = look(path)
    shown = _count_shown(seen)
    recipe = _recipe(seen, base, revision)
    recipe["data"] |= shown
    header = "".join(f"# {note}\n" for note in seen.notes)
    recipe_file.parent.mkdir(parents=True, exist_ok=True)
    artifacts.write_atomic(recipe_file, header + yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
    load_recipe(recipe_file)
    return "\n".join(
        [*seen.notes, f"written: {recipe_file}", f"next: tuneline validate {recipe_file}; tuneline run {recipe_file}"]
    )


def look(path: Path) -> Seen:
    """What can be learned from at a path.

    Raises:
        BadData: nothing.
    """
    seen = Seen()
    known, unknown = files_in(path)
    catalogues = [file for file in [*known, *unknown] if file.suffix in (".yaml", ".yml") and _is_catalogue(file)]
    if catalogues:
        seen.tools = catalogues[0].absolute()
        count = len(load_catalogue(catalogues[0]).names)
        seen.notes.append(f"{catalogues[0]}: a catalogue of {count} tools")
    texts = [file for file in known if container(file) == TEXT]
    for file in known:
        if file not in texts:
            _look_at_rows(file, seen)
    if texts:
        _look_at_texts(path, texts, seen)
    others = Counter(file.suffix or "no suffix" for file in unknown if file not in catalogues)
    seen.notes += [f"left out: {count} × {suffix}" for suffix, count in others.items()]
    if seen.tools and not seen.sources:
        seen.sources.append({"per_tool": 50})
        seen.notes.append("no rows: 50 examples a tool are made from the catalogue")
    if not seen.sources:
        raise BadData(f"{path}: nothing to learn from; known are {', '.join(SUFFIXES)}, also with .gz or .zst")
    return seen


def _look_at_rows(file: Path, seen: Seen) -> None:
    found = list(islice(records(file), LOOKED_AT))
    values = [one.value for one in found if isinstance(one, Record)]
    if not values:
        seen.notes.append(
            f"left out: {next((str(one) for one in found if isinstance(one, Problem)), f'{file}: empty')}"
        )
        return
    columns: dict[str, str] = {}
    try:
        form = next(iter(_formats(values)), None)
        if form is None:
            columns, form = _guessed(values), "prompt-completion"
    except Wrong as wrong:
        seen.notes.append(f"left out: {file}: {wrong.text}")
        return
    source = Source(path=file, columns=columns)
    toolbox, read = _read(source, seen.tools)
    missing = _unknown_tools(read)
    if missing and not seen.tools:
        of_ours, again = _read(source, OURS)
        if not _unknown_tools(again):
            toolbox, read, missing, seen.tools = of_ours, again, [], OURS
            seen.notes.append(f"{OURS}: has the tools that {file} calls")
    good = [one for one in read if isinstance(one, Read)]
    seen.longest = max([seen.longest, *(len(one.text) + _schemas(one, toolbox) for one in good)])
    mapped = f", columns {', '.join(f'{k}: {v}' for k, v in columns.items())}" if columns else ""
    seen.notes.append(f"{file}: {form} ({container(file)}){mapped}")
    if missing:
        seen.notes.append(
            f"{missing[0]}: {len(missing)} times in {len(values)} rows; configs/tools/handlers.yaml shows one"
        )
    seen.sources.append({"path": str(file.absolute())} | ({"columns": columns} if columns else {}))


def _read(source: Source, tools: Path | None) -> tuple[Toolbox, list[Read | Problem]]:
    """The tools known after some rows of a file, and what these came to."""
    assert source.path
    toolbox = Toolbox(load_catalogue(tools) if tools else None)
    return toolbox, list(islice(read_file(source.path, toolbox, source), LOOKED_AT))


def _unknown_tools(read: list[Read | Problem]) -> list[str]:
    """Where a tool is called that nobody described."""
    return [str(one).partition(";")[0] for one in read if isinstance(one, Problem) and one.kind == "unknown_tool"]


def _formats(values: list[Any]) -> list[str]:
    """Formats of the records that have one; the first decides."""
    found = []
    for value in values:
        try:
            found.append(format_of(value))
        except Wrong:
            continue
    return found


def _guessed(values: list[Any]) -> dict[str, str]:
    """Columns for question and answer, by their names."""
    keys = [key for value in values[:1] if isinstance(value, dict) for key in value]
    asked = next((key for name in ASKED for key in keys if key.lower() == name), None)
    answered = next((key for name in ANSWERED for key in keys if key.lower() == name), None)
    if asked is None or answered is None:
        example = f", as in `columns: {{prompt: {keys[0]}, completion: {keys[1]}}}`" if len(keys) > 1 else ""
        raise Wrong("not_a_row", f"no format is known for {', '.join(keys) or 'its rows'}; map its columns{example}")
    return {"prompt": asked, "completion": answered}


def _schemas(read: Read, toolbox: Toolbox) -> int:
    return sum(len(toolbox.tools[name].model_dump_json()) for name in read.row.tools)


def _look_at_texts(path: Path, texts: list[Path], seen: Seen) -> None:
    """A folder of folders is a style a folder; a folder of books without folders is text to go on with."""
    folders = {file.parent for file in texts}
    source: dict[str, Any] = {"path": str(path.absolute())}
    if len(texts) < len(files_in(path)[0]):
        for folder in sorted(folders):
            rows = [file for file in files_in(folder)[0] if container(file) != TEXT]
            if rows:
                seen.notes.append(f"left out: text beside rows in {folder}; put it in a folder of its own")
                return
    if len(folders) > 1:
        source["style"] = "folder"
    for folder in sorted(folders):
        count = sum(file.parent == folder for file in texts)
        seen.notes.append(f"{folder}: {count} texts" + (f", style {folder.name!r}" if len(folders) > 1 else ""))
    if path.is_dir() and len(texts) < len(files_in(path)[0]):
        seen.sources += [
            {"path": str(folder.absolute())} | ({"style": folder.name} if len(folders) > 1 else {})
            for folder in sorted(folders)
        ]
    else:
        seen.sources.append(source)
    seen.longest = max(seen.longest, 400 * 8)


def _count_shown(seen: Seen) -> dict[str, Any]:
    """Adds the tools a row is shown to the longest; of a catalogue of many, the settings that show no row them all."""
    if not seen.tools:
        return {}
    catalogue = load_catalogue(seen.tools)
    seen.longest += sum(sorted(len(json.dumps(tool)) for tool in catalogue.openai())[-MOST_SHOWN:])
    if len(catalogue.names) <= MOST_SHOWN:
        return {}
    seen.notes.append(f"a row shows the tools it calls and 3 to {MOST_SHOWN - 1} others, never all; see data.show")
    return {"whole_catalogue": 0}


def _is_catalogue(file: Path) -> bool:
    try:
        load_catalogue(file)
    except BadData:
        return False
    return True


def _recipe(seen: Seen, base: str, revision: str | None) -> dict[str, Any]:
    a_token = BYTES_A_TOKEN_TINY if base == "tiny" else CHARACTERS_A_TOKEN
    wanted = max(512, int(seen.longest / a_token * 1.5))
    most = min(TINY_CONTEXT, wanted) if base == "tiny" else wanted
    max_tokens = next(power for power in (1 << n for n in range(9, 24)) if power >= most)
    data: dict[str, Any] = {"sources": seen.sources, "max_tokens": max_tokens}
    if seen.tools:
        data = {"tools": str(seen.tools)} | data
    recipe: dict[str, Any] = {"base": base} | ({"revision": revision} if revision else {}) | {"data": data}
    if base == "tiny":
        recipe["compute"] = {stage: {"gpu": None, "cores": 4, "memory_gib": 8} for stage in ("train", "evaluate")}
    return recipe
