"""`tuneline validate`: everything that is wrong with data, told before anybody pays for a GPU; and a cleaned copy."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneline.configs.catalogue import Catalogue, load_catalogue
from tuneline.configs.data import Data, Source
from tuneline.configs.recipe import Recipe
from tuneline.configs.recipe_file import load_recipe
from tuneline.core import artifacts
from tuneline.core.errors import BadRequest, NotFound
from tuneline.core.paths import ROOT, resolve
from tuneline.stages.prepare.checks.presidio import Presidio
from tuneline.stages.prepare.checks.problems import KINDS
from tuneline.stages.prepare.checks.requirements import verdict
from tuneline.stages.prepare.checks.row_checks import mended
from tuneline.stages.prepare.dataset_page import write_page
from tuneline.stages.prepare.examination import Examination
from tuneline.stages.prepare.formats.containers import SUFFIXES, plain_suffix
from tuneline.stages.prepare.rows import Row
from tuneline.stages.prepare.synthesis.synthetic_rows import examples

REPORT, VERDICT, CLEANED = "validation.html", "validation.json", "cleaned"
TOLD = 5
"""Problems of a kind that are told; the report page shows more."""


@dataclass(frozen=True)
class Validation:
    """What was found, as a text for people and as `validation.json` has it."""

    told: str
    verdict: dict[str, Any]

    @property
    def passed(self) -> bool:
        return bool(self.verdict["passed"])


def validate(paths: Sequence[Path], recipe_file: Path | None, to: Path, *, fix: bool = False) -> Validation:
    """Checks a recipe's sources, or files and folders, as `prepare` does; writes verdict and report page into `to`.

    With `recipe_file` its settings count for the given files: tools, tokens, languages, requirements. `fix` writes
    a cleaned copy of each source into `to/cleaned` and touches no original.

    Raises:
        NotFound, BadRequest: a path that is not there or cannot be told. Whatever is wrong with the data is no error.
    """
    recipe, data = settings(paths, recipe_file)
    catalogue = load_catalogue(resolve(data.tools)) if data.tools else None
    examined, not_counted = _examined(recipe, data, catalogue)
    found = verdict(examined)
    to.mkdir(parents=True, exist_ok=True)
    artifacts.write_atomic(to / VERDICT, json.dumps(found, ensure_ascii=False, indent=1))
    write_page(to / REPORT, examined, found)
    lines = [*_lines(found), *not_counted, f"written: {to / VERDICT}, {to / REPORT}"]
    if fix:
        lines += _clean(data, catalogue, to / CLEANED)
    return Validation("\n".join(lines), found)


def settings(paths: Sequence[Path], recipe_file: Path | None) -> tuple[Recipe | None, Data]:
    """(the recipe, if there is one; what is to be examined) for the words of a command."""
    recipes = [path for path in paths if path.suffix in (".yaml", ".yml")]
    if recipes and (len(paths) > 1 or recipe_file):
        raise BadRequest(f"{recipes[0]}: give one recipe, or files and folders (with --recipe for its settings)")
    if recipes:
        recipe = load_recipe(recipes[0])
        return recipe, recipe.data
    if missing := [path for path in paths if not path.exists()]:
        raise NotFound(f"{missing[0]}: no such file or folder")
    if unknown := [path for path in paths if path.is_file() and plain_suffix(path) not in SUFFIXES]:
        raise BadRequest(f"{unknown[0]}: known are {', '.join(SUFFIXES)}, also with .gz or .zst")
    sources = tuple(Source(path=path) for path in paths)
    base = load_recipe(recipe_file) if recipe_file else None
    return base, base.data.model_copy(update={"sources": sources}) if base else Data(sources=sources)


def _examined(recipe: Recipe | None, data: Data, catalogue: Catalogue | None) -> tuple[Examination, list[str]]:
    renderer, selector = None, None
    why = "tokens are not counted: `--recipe RECIPE` says by which tokenizer and template"
    if recipe:
        from tuneline.stages.fetch.bases import open_base
        from tuneline.stages.prepare.rendering.renderer import Renderer
        from tuneline.stages.prepare.rendering.tool_preselector import Preselector, shown_as

        try:
            here = ROOT / "data" / "tiny" if recipe.base == "tiny" else resolve(Path(recipe.base))
            renderer = Renderer(here if here.is_dir() else open_base(recipe).path, catalogue)  # nothing to fetch
            if shown_as(data, catalogue, renderer) == "nearest" and catalogue:
                selector = Preselector.of(catalogue)
        except NotFound as error:
            why = f"tokens are not counted: {error}"
    examined = Examination(data, catalogue, renderer, made=examples(data, catalogue), selector=selector)
    for _ in examined.rows():
        pass
    examined.finish()
    return examined, [] if renderer else [why]


def _clean(data: Data, catalogue: Catalogue | None, to: Path) -> list[str]:
    """Reads again, repairing each text, and writes the rows that are right and no earlier row's double."""
    to.mkdir(parents=True, exist_ok=True)
    sources = tuple(source for source in data.sources if source.path)
    people = Presidio() if data.personal == "presidio" else None
    examined = Examination(
        data.model_copy(
            update={
                "sources": sources,
                "duplicates": "drop",
                "catalogue": "learned",
                "system": "",
                "personal": "regex",
            }
        ),
        catalogue,
        None,
        mend=(lambda text: people.masked(mended(text))) if people else mended,
    )
    files = [to / f"{number}-{_stem(source)}.jsonl" for number, source in enumerate(sources, 1)]
    drafts = [file.with_suffix(".part") for file in files]
    outputs = [draft.open("w", encoding="utf-8") for draft in drafts]
    try:
        for entry in examined.rows():
            outputs[entry.part].write(f"{entry.place}\t{_as_line(entry.row, examined)}\n")
    finally:
        for output in outputs:
            output.close()
    examined.finish()
    counts = [_without_twins(draft, file, examined.twins.keys()) for draft, file in zip(drafts, files, strict=True)]
    return [f"cleaned: {file} ({count} rows)" for file, count in zip(files, counts, strict=True)]


def _without_twins(draft: Path, file: Path, twins: Any) -> int:
    count = 0
    with draft.open(encoding="utf-8") as lines, file.open("w", encoding="utf-8") as out:
        for line in lines:
            place, _, row = line.partition("\t")
            if int(place) not in twins:
                out.write(row)
                count += 1
    draft.unlink()
    return count


def _as_line(row: Row, examined: Examination) -> str:
    """A row that stands for itself: tools it brought keep their schemas."""
    dumped = row.model_dump(exclude_none=True)
    brought = examined.toolbox.brought
    known = examined.toolbox.catalogue
    dumped["tools"] = [known.openai([n])[0] if known and n in brought else n for n in row.tools]
    return json.dumps(dumped, ensure_ascii=False)


def _stem(source: Source) -> str:
    assert source.path
    return source.path.name.split(".")[0] or "data"


def _lines(found: dict[str, Any]) -> list[str]:
    lines = []
    for part in found["sources"]:
        lines.append(
            f"{part['source']}: {part['rows']} rows ({part['share_of_rows']:.1%}), "
            f"{part['tokens']} tokens ({part['share_of_tokens']:.1%})"
        )
        lines += [f"  {file}: {form}" for file, form in part["files"].items()]
    for kind, one in found["problems"].items():
        lines.append(f"{one['severity']}: {kind.replace('_', ' ')}: {one['count']}; {KINDS[kind].remedy}")
        lines += [f"  {_place(first)}{first['text']}" for first in one["first"][:TOLD]]
        if one["count"] > TOLD:
            lines.append(f"  … and {one['count'] - TOLD} more")
    if not found["measures"]["rows"]:
        lines.append("nothing is left to learn from: `prepare` would stop")
    for one in found["required"]:
        lines.append(f"{'met' if one['met'] else 'NOT MET'}: {one['measure']} {one['wanted']}: {one['found']:g}")
    return lines


def _place(first: dict[str, Any]) -> str:
    return f"{first['file']}:{first['line']}: " if first["line"] else f"{first['file']}: " if first["file"] else ""
