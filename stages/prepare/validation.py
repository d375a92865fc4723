"""`tuneline validate`: reports every problem of a dataset before training, and writes a cleaned copy on request."""

import json
from array import array
from collections.abc import Callable, Collection, Iterable, Sequence
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
from tuneline.stages.prepare.checks.problems import KINDS, Problem
from tuneline.stages.prepare.checks.style_passages import asks_for_styles, find_few_passages
from tuneline.stages.prepare.checks.test_questions import TestQuestion
from tuneline.stages.prepare.checks.text_checks import repair_text
from tuneline.stages.prepare.dataset_page import write_dataset_page
from tuneline.stages.prepare.examination import Examination
from tuneline.stages.prepare.formats.containers import SUFFIXES, uncompressed_suffix
from tuneline.stages.prepare.requirements import compute_verdict, describe_loss
from tuneline.stages.prepare.rows import Row
from tuneline.stages.prepare.synthesis.synthetic_rows import make_synthesizer
from tuneline.stages.prepare.validation_split import SplitKeys, choose_validation_rows

VALIDATION_SPLITS = "validation-splits.jsonl"
"""The cleaned rows of files that are a validation split by their names."""
REPORT, VERDICT, CLEANED = "validation.html", "validation.json", "cleaned"
GROUPS_PRINTED = 3
"""Faults of each kind in the printed summary; `validation.json` and the report page have more."""


@dataclass(frozen=True)
class Validation:
    """The result of a validation: a summary to print, and the content of `validation.json`."""

    summary: str
    verdict: dict[str, Any]

    @property
    def passed(self) -> bool:
        return bool(self.verdict["passed"])


def validate(
    paths: Sequence[Path],
    recipe_file: Path | None,
    to: Path,
    *,
    fix: bool = False,
    settings: Sequence[str] = (),
    list_questions: Callable[[Recipe], Iterable[TestQuestion]] = lambda recipe: (),
) -> Validation:
    """Check the sources of a recipe, or files and folders, as `prepare` does; write verdict and report page to `to`.

    With `recipe_file` its settings apply to the given files: tools, tokens, languages, requirements. `fix` writes a
    cleaned copy of each source to `to/cleaned`; the originals are not changed.

    Raises:
        NotFound, BadRequest: A path does not exist or has no known format. Problems of the data raise nothing.
    """
    recipe, data = resolve_settings(paths, recipe_file, settings)
    catalogue = load_catalogue(resolve(data.tools)) if data.tools else None
    examination, notes = _examine(recipe, data, catalogue, list_questions(recipe) if recipe else ())
    verdict = compute_verdict(examination)
    to.mkdir(parents=True, exist_ok=True)
    write_atomic(to / VERDICT, json.dumps(verdict, ensure_ascii=False, indent=1))
    write_dataset_page(to / REPORT, examination, verdict)
    lines = [*_summary_lines(verdict), *notes, f"written: {to / VERDICT}, {to / REPORT}"]
    if fix:
        lines += _write_cleaned(data, catalogue, to / CLEANED)
    return Validation("\n".join(lines), verdict)


def examine_recipe(recipe_file: Path) -> Validation:
    """Return the validation of a recipe's data without writing anything; tokens are counted if the base is here."""
    recipe, data = resolve_settings([recipe_file], None)
    catalogue = load_catalogue(resolve(data.tools)) if data.tools else None
    examination, notes = _examine(recipe, data, catalogue)
    verdict = compute_verdict(examination)
    return Validation("\n".join([*_summary_lines(verdict), *notes]), verdict)


def resolve_settings(
    paths: Sequence[Path], recipe_file: Path | None, settings: Sequence[str] = ()
) -> tuple[Recipe | None, Data]:
    """Return the recipe, if one is given, and the data settings to examine, from the command's arguments."""
    recipes = [path for path in paths if path.suffix in (".yaml", ".yml")]
    if recipes and (len(paths) > 1 or recipe_file):
        raise BadRequest(f"{recipes[0]}: give one recipe, or files and folders (with --recipe for its settings)")
    if recipes:
        recipe = load_recipe(recipes[0], settings)
        return recipe, recipe.data
    if settings and recipe_file is None:
        raise BadRequest("--set changes a recipe: name one, here or with --recipe")
    if missing := [path for path in paths if not path.exists()]:
        raise NotFound(f"{missing[0]}: no such file or folder")
    if unknown := [path for path in paths if path.is_file() and uncompressed_suffix(path) not in SUFFIXES]:
        raise BadRequest(f"{unknown[0]}: supported: {', '.join(SUFFIXES)}, also with .gz or .zst")
    sources = tuple(Source(path=path) for path in paths)
    base = load_recipe(recipe_file, settings) if recipe_file else None
    return base, base.data.model_copy(update={"sources": sources}) if base else Data(sources=sources)


def _examine(
    recipe: Recipe | None, data: Data, catalogue: Catalogue | None, questions: Iterable[TestQuestion] = ()
) -> tuple[Examination, list[str]]:
    """Return the finished examination, and notes on what it did not measure."""
    renderer, preselector = None, None
    note = "tokens are not counted: give a tokenizer and template with `--recipe RECIPE`"
    if recipe:
        from tuneline.stages.fetch.bases import open_base
        from tuneline.stages.prepare.rendering.renderer import Renderer
        from tuneline.stages.prepare.rendering.tool_preselector import Preselector, choose_tool_display

        try:
            local = ROOT / "data" / "tiny" if recipe.base == "tiny" else resolve(Path(recipe.base))
            path = local if local.is_dir() else open_base(recipe).path  # nothing to fetch
            renderer = Renderer(path, catalogue, name=recipe.template)
            if choose_tool_display(data, catalogue, renderer) == "nearest" and catalogue:
                preselector = Preselector.from_catalogue(catalogue)
        except NotFound as error:
            note = f"tokens are not counted: {error}"
    synthesize = make_synthesizer(data, catalogue)
    examination = Examination(
        data, catalogue, renderer, synthesize=synthesize, preselector=preselector, test_questions=questions
    )
    split_keys, sources = SplitKeys(data.seed), array("I")
    for examined in examination.rows():
        split_keys.add(examined.row, examined.label)
        sources.append(examined.source)
    examination.finish()
    examination.check_sides()
    if recipe and asks_for_styles(recipe.evaluate):
        _check_passages(data, examination, split_keys, sources)
    return examination, [] if renderer else [note]


def _check_passages(data: Data, examination: Examination, split_keys: SplitKeys, sources: Sequence[int]) -> None:
    """Add a problem if a suite that asks for styles would find too few validation rows of one."""
    if len(data.sources) in sources:
        validation = [number for number, source in enumerate(sources) if source == len(data.sources)]
    else:
        chosen = choose_validation_rows(split_keys, data.validation_share, data.validation_rows)
        validation = [number for number, is_chosen in enumerate(chosen) if is_chosen]
    if fault := find_few_passages(examination.styles, split_keys.count_labels(validation)):
        examination.findings.add(Problem("few_passages", "", 0, f"evaluate.suites: style: {fault}"))


def _write_cleaned(data: Data, catalogue: Catalogue | None, to: Path) -> list[str]:
    """Read the sources again, repair each text, and write the rows that have no errors and are no duplicates."""
    to.mkdir(parents=True, exist_ok=True)
    sources = tuple(source for _, source in data.numbered_sources if source.path)
    presidio = Presidio() if data.personal == "presidio" else None
    examination = Examination(
        data.model_copy(
            update={
                "sources": sources,
                "validation": None,
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
    files.append(to / VALIDATION_SPLITS)
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
    if not counts[-1]:
        files.pop().unlink()
    return [f"cleaned: {file} ({count} rows)" for file, count in zip(files, counts, strict=False)]


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
    if "tools" not in row.model_fields_set:  # it is shown those of a catalogue; an empty list would mean none
        return json.dumps({key: value for key, value in dumped.items() if key != "tools"}, ensure_ascii=False)
    dumped["tools"] = [
        catalogue.openai([tool])[0] if catalogue and isinstance(tool, str) and tool in from_rows else tool
        for tool in row.tools
    ]
    return json.dumps(dumped, ensure_ascii=False)


def _stem(source: Source) -> str:
    assert source.path
    return source.path.name.split(".")[0] or "data"


def _summary_lines(verdict: dict[str, Any]) -> list[str]:
    loss = describe_loss(verdict)
    lines = [f"WARNING: {loss}"] if loss else []
    lines.append(f"{verdict['rows_kept']} of {verdict['rows_read']} rows kept")
    for source in verdict["sources"]:
        tokens = f", {source['tokens']} tokens ({source['share_of_tokens']:.1%})" if source["tokens"] else ""
        lines.append(f"{source['source']}: {source['rows']} rows ({source['share_of_rows']:.1%}){tokens}")
        lines += [f"  {file}: {form}" for file, form in source["files"].items()]
    for kind, problems in verdict["problems"].items():
        severity, count = problems["severity"], problems["count"]
        lines.append(f"{severity}: {kind.replace('_', ' ')}: {count}; {KINDS[kind].remedy}")
        for group in problems["groups"][:GROUPS_PRINTED]:
            lines += _group_lines(group)
        if more := problems["groups"][GROUPS_PRINTED:]:
            lines.append(f"  … and {len(more)} other faults, {sum(group['count'] for group in more)} times")
    if not verdict["measures"]["rows"]:
        lines.append("no rows are left to train on: `prepare` would fail")
    for requirement in verdict["required"]:
        status = "met" if requirement["met"] else "NOT MET"
        lines.append(f"{status}: {requirement['measure']} {requirement['wanted']}: {requirement['found']:g}")
    return lines


def _group_lines(group: dict[str, Any]) -> list[str]:
    """Return a fault with the places of its first rows; one that occurs once is a single line."""
    examples = [f"{_location(example)}{example['text']}{_quotation(example)}" for example in group["first"]]
    if group["count"] == 1:
        return [f"  {example}" for example in examples]
    heading, more = f"  {group['count']} times: {group['fault']}", group["count"] - len(examples)
    if all(example["text"] == group["fault"] and "quote" not in example for example in group["first"]):
        places = ", ".join(_location(example).removesuffix(": ") for example in group["first"])
        return [heading, f"    {places}{f' and {more} more' if more else ''}"]
    return [heading, *(f"    {example}" for example in examples), *([f"    … and {more} more"] if more else [])]


def _quotation(example: dict[str, Any]) -> str:
    return f" | {example['quote']}" if "quote" in example else ""


def _location(example: dict[str, Any]) -> str:
    file, line = example["file"], example["line"]
    return f"{file}:{line}: " if line else f"{file}: " if file else ""
