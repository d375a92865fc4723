"""What differs between two runs: stages, settings, data, packages, losses, scores; what is equal is left out.

Settings are those that the artifacts were made from, in which a file is the hash of its content: the same data under
another name is no difference. A section compares the stages that both runs have.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tuneline.configs.recipe import recipe_of
from tuneline.core import artifacts
from tuneline.core.artifacts import flatten
from tuneline.core.manifest import Manifest
from tuneline.stages.evaluate.verdicts.gate import gate_of_run, name_outcome
from tuneline.stages.line import ORDER

STAGES = ORDER[1:]
Section = Literal["stages", "settings", "data", "versions", "losses", "scores"]
BESIDE_FINGERPRINTS = ("compute", "watch")
"""Sections of a recipe that shape no artifact; they are compared by the recipe itself."""
COUNTS = ("rows_train", "rows_validation", "too_long", "tokens_mean", "learned_tokens_mean", "warnings")
LOSSES = ("train_loss", "validation_loss", "perplexity", "steps", "kept_step", "epochs")
SHARES = {"name": "right tool", "exact": "exact arguments"}


@dataclass(frozen=True)
class Difference:
    """One thing that differs; a side is None where it has none."""

    section: Section
    name: str
    a: Any
    b: Any

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return asdict(self)


def compare_runs(a: Path, b: Path) -> list[Difference]:
    """Return what differs between the runs in the folders `a` and `b`.

    Raises:
        StageFailed: a manifest or draft is damaged. BadRecipe: a recipe is.
    """
    sides = [_describe(run) for run in (a, b)]
    return [
        Difference(section, name, before.get(name), after.get(name))
        for section in ("stages", "settings", "data", "versions", "losses", "scores")
        for before, after in [_shared(section, *sides)]
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    ]


Facts = dict[str, dict[str, dict[str, Any]]]
"""Section → stage → name → value."""


def _shared(section: str, a: Facts, b: Facts) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a section's facts of each run: of the stages that both have."""
    both = [stage for stage in a[section] if stage in b[section]]
    merged = [{name: value for stage in both for name, value in side[section][stage].items()} for side in (a, b)]
    return merged[0], merged[1]


def _describe(run: Path) -> Facts:
    finished = {s: artifacts.read_artifact(run / s).manifest for s in STAGES if artifacts.is_finished(run / s)}
    drafts = {s: draft for s in STAGES if s not in finished and (draft := artifacts.read_draft(run / s))}
    made_from = {stage: manifest.made_from for stage, manifest in finished.items()}
    made_from |= {stage: draft.made_from for stage, draft in drafts.items()}
    states = {s: "finished" if s in finished else "unfinished" if s in drafts else "not begun" for s in STAGES}
    return {
        "stages": {"all": states},
        "settings": {stage: dict(_list_settings(record.settings)) for stage, record in made_from.items()}
        | {"recipe": dict(_list_settings(_read_beside(run)))},
        "data": {stage: dict(_list_data(finished[stage])) for stage in ("prepare",) if stage in finished},
        "versions": {
            stage: {f"{package} ({stage})": version for package, version in manifest.versions.items()}
            for stage, manifest in finished.items()
        },
        "losses": {
            stage: {name: finished[stage].metrics.get(name) for name in LOSSES}
            for stage in ("train",)
            if stage in finished
        },
        "scores": {stage: dict(_list_scores(run, finished[stage])) for stage in ("evaluate",) if stage in finished},
    }


def _list_settings(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield key and value of each setting; an item of a list has a key of its own."""
    for key, value in flatten(settings).items():
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            for number, item in enumerate(value):
                yield from _list_settings({f"{key}[{number}]": item})
        else:
            yield key, value


def _read_beside(run: Path) -> dict[str, Any]:
    recipe = recipe_of(run)
    return {name: getattr(recipe, name).model_dump(mode="json") for name in BESIDE_FINGERPRINTS}


def _list_data(prepared: Manifest) -> Iterator[tuple[str, Any]]:
    yield "base", prepared.made_from.needs_content.get("fetch") or prepared.made_from.needs.get("fetch")
    for name in COUNTS:
        yield name, prepared.metrics.get(name)
    for number, source in enumerate(prepared.metrics.get("sources", ())):
        yield f"sources[{number}] rows", source.get("rows")
        yield f"sources[{number}] tokens", source.get("tokens")
    for name, file in prepared.made.items():
        yield name, f"sha256:{file.sha256[:16]}"


def _list_scores(run: Path, evaluated: Manifest) -> Iterator[tuple[str, Any]]:
    """Yield the gate's outcome, and each share with its interval and number of items."""
    if gate := evaluated.metrics.get("gate"):
        yield "gate", name_outcome(gate_of_run(run, gate))
    for row in evaluated.metrics.get("scoreboard", ()):
        for share, label in SHARES.items():
            if f"{share}_accuracy" in row:
                value = {"share": row[f"{share}_accuracy"], "low": row.get(f"{share}_low")}
                yield (
                    f"{row['suite']}, {row['target']}: {label}",
                    value | {"high": row.get(f"{share}_high"), "n": row["n"]},
                )
