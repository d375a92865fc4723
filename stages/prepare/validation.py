"""`tuneline validate`: reports every problem of a dataset before training, and writes a cleaned copy on request."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneline.configs.catalogue import Catalogue, load_catalogue
from tuneline.configs.data import Data, Source
from tuneline.configs.recipe import Recipe
from tuneline.configs.recipe_file import load_recipe
from tuneline.core.errors import BadRequest, NotFound
from tuneline.core.files import write_atomic
from tuneline.core.paths import ROOT, resolve
from tuneline.stages.prepare.checks.presidio import Presidio
from tuneline.stages.prepare.checks.problems import KINDS
from tuneline.stages.prepare.checks.text_checks import repair_text
from tuneline.stages.prepare.dataset_page import write_dataset_page
from tuneline.stages.prepare.examination import Examination
from tuneline.stages.prepare.formats.containers import SUFFIXES, uncompressed_suffix
from tuneline.stages.prepare.requirements import compute_verdict
from tuneline.stages.prepare.rows import Row
from tuneline.stages.prepare.synthesis.synthetic_rows import make_synthesizer

REPORT, VERDICT, CLEANED = "validation.html", "validation.json", "cleaned"
EXAMPLES_PRINTED = 5
"""Examples of each kind of problem in the printed summary; the report page shows more."""


@dataclass(frozen=True)
class Validation:
    """The result of a validation: a summary to print, and the content of `validation.json`."""

    summary: str
    verdict: dict[str, Any]

    @property
    def passed(self) -> bool:
        return bool(self.verdict["passed"])


def validate(paths: Sequence[Path], recipe_file: Path | None, to: Path, *, fix: bool = False) -> Validation:
    """Check the sources of a recipe, or files and folders, as `prepare` does; write verdict and report page to `to`.

    With `recipe_file` its settings apply to the given files: tools, tokens, languages, requirements. `fix` writes a
    cleaned copy of each source to `to/cleaned`; the originals are not changed.

    Raises:
        NotFound, BadRequest: A path does not exist or has no known format. Problems of the data raise nothing.
    """
    recipe, data = resolve_settings(paths, recipe_file)
    catalogue = load_catalogue(resolve(data.tools)) if data.tools else None
    examination, notes = _examine(recipe, data, catalogue)
    verdict = compute_verdict(examination)
    to.mkdir(parents=True, exist_ok=True)
    write_atomic(to / VERDICT, json.dumps(verdict, ensure_ascii=False, indent=1))
    write_dataset_page(to / REPORT, examination, verdict)
    lines = [*_summary_lines(verdict), *notes, f"written: {to / VERDICT}, {to / REPORT}"]
    if fix:
        lines += _write_cleaned(data, catalogue, to / CLEANED)
    return Validation("\n".join(lines), verdict)


def resolve_settings(paths: Sequence[Path], recipe_file: Path | None) -> tuple[Recipe | None, Data]:
    """Return the recipe, if one is given, and the data settings to examine, from the command's arguments."""
    recipes = [path for path in paths if path.suffix in (".yaml", ".yml")]
    if recipes and (len(paths) > 1 or recipe_file):
        raise BadRequest(f"{recipes[0]}: give one recipe, or files and folders (with --recipe for its settings)")
    if recipes:
        recipe = load_recipe(recipes[0])
        return recipe, recipe.data
    if missing := [path for path in paths if not path.exists()]:
        raise NotFound(f"{missing[0]}: no such file or folder")
    if unknown := [path for path in paths if path.is_file() and uncompressed_suffix(path) not in SUFFIXES]:
        raise BadRequest(f"{unknown[0]}: known are {', '.join(SUFFIXES)}, also with .gz or .zst")
    sources = tuple(Source(path=path) for path in paths)
    base = load_recipe(recipe_file) if recipe_file else None
    return base, base.data.model_copy(update={"sources": sources}) if base else Data(sources=sources)


def _examine(recipe: Recipe | None, data: Data, catalogue: Catalogue | None) -> tuple[Examination, list[str]]:
    """Return the finished examination, and notes on what it did not measure."""
    renderer, preselector = None, None
    note = "tokens are not counted: `--recipe RECIPE` says by which tokenizer and template"
    if recipe:
        from tuneline.stages.fetch.bases import open_base
        from tuneline.stages.prepare.rendering.renderer import Renderer
        from tuneline.stages.prepare.rendering.tool_preselector import Preselector, choose_tool_display

        try:
            local = ROOT / "data" / "tiny" if recipe.base == "tiny" else resolve(Path(recipe.base))
            renderer = Renderer(local if local.is_dir() else open_base(recipe).path, catalogue)  # nothing to fetch
            if choose_tool_display(data, catalogue, renderer) == "nearest" and catalogue:
                preselector = Preselector.from_catalogue(catalogue)
        except NotFound as error:
            note = f"tokens are not counted: {error}"
    synthesize = make_synthesizer(data, catalogue)
    examination = Examination(data, catalogue, renderer, synthesize=synthesize, preselector=preselector)
    for _ in examination.rows():
        pass
    examination.finish()
    return examination, [] if renderer else [note]


def _write_cleaned(data: Data, catalogue: Catalogue | None, to: Path) -> list[str]:
    """Read the sources again, repair each text, and write the rows that have no errors and are no duplicates."""
    to.mkdir(parents=True, exist_ok=True)
    sources = tuple(source for source in data.sources if source.path)
    presidio = Presidio() if data.personal == "presidio" else None
    examination = Examination(
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
        repair=(lambda text: presidio.mask(repair_text(text))) if presidio else repair_text,
    )
    files = [to / f"{number}-{_stem(source)}.jsonl" for number, source in enumerate(sources, 1)]
    drafts = [file.with_suffix(".part") for file in files]
    outputs = [draft.open("w", encoding="utf-8") for draft in drafts]
    try:
        for examined in examination.rows():
            outputs[examined.source].write(f"{examined.file_row}\t{_to_json(examined.row, examination)}\n")
    finally:
        for output in outputs:
            output.close()
    examination.finish()
    duplicates = examination.duplicates.duplicate_of.keys()
    counts = [_copy_without(duplicates, draft, file) for draft, file in zip(drafts, files, strict=True)]
    return [f"cleaned: {file} ({count} rows)" for file, count in zip(files, counts, strict=True)]


def _copy_without(duplicates: Collection[int], draft: Path, file: Path) -> int:
    """Write the rows of a draft that are no duplicates, delete the draft, and return the number of rows written."""
    count = 0
    with draft.open(encoding="utf-8") as lines, file.open("w", encoding="utf-8") as out:
        for line in lines:
            number, _, row = line.partition("\t")
            if int(number) not in duplicates:
                out.write(row)
                count += 1
    draft.unlink()
    return count


def _to_json(row: Row, examination: Examination) -> str:
    """Return the row as JSON that is complete by itself: tools that came with rows keep their schemas."""
    dumped = row.model_dump(exclude_none=True)
    from_rows = examination.toolbox.from_rows
    catalogue = examination.toolbox.catalogue
    dumped["tools"] = [catalogue.openai([n])[0] if catalogue and n in from_rows else n for n in row.tools]
    return json.dumps(dumped, ensure_ascii=False)


def _stem(source: Source) -> str:
    assert source.path
    return source.path.name.split(".")[0] or "data"


def _summary_lines(verdict: dict[str, Any]) -> list[str]:
    lines = []
    for source in verdict["sources"]:
        lines.append(
            f"{source['source']}: {source['rows']} rows ({source['share_of_rows']:.1%}), "
            f"{source['tokens']} tokens ({source['share_of_tokens']:.1%})"
        )
        lines += [f"  {file}: {form}" for file, form in source["files"].items()]
    for kind, problems in verdict["problems"].items():
        severity, count, examples = problems["severity"], problems["count"], problems["first"]
        lines.append(f"{severity}: {kind.replace('_', ' ')}: {count}; {KINDS[kind].remedy}")
        lines += [f"  {_location(example)}{example['text']}" for example in examples[:EXAMPLES_PRINTED]]
        if count > EXAMPLES_PRINTED:
            lines.append(f"  … and {count - EXAMPLES_PRINTED} more")
    if not verdict["measures"]["rows"]:
        lines.append("nothing is left to learn from: `prepare` would stop")
    for requirement in verdict["required"]:
        status = "met" if requirement["met"] else "NOT MET"
        lines.append(f"{status}: {requirement['measure']} {requirement['wanted']}: {requirement['found']:g}")
    return lines


def _location(example: dict[str, Any]) -> str:
    file, line = example["file"], example["line"]
    return f"{file}:{line}: " if line else f"{file}: " if file else ""
