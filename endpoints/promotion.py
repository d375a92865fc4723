"""Promotion: which run serves a name. An explicit, versioned record; nothing ever guesses the latest.

`<policy>/models/NAME.json` holds every version ever promoted; the last one serves. A rollback is one more version, so
the file tells the whole story. It is written whole and atomically: a reader sees the old record or the new one.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from tuneline.configs.recipe import RECIPE, recipe_of
from tuneline.core import artifacts, paths
from tuneline.core.errors import BadRequest, GateFailed, NotFound
from tuneline.core.paths import NAME
from tuneline.stages.evaluate.verdicts.gate import of_run


class Version(BaseModel):
    """What served a name from some time on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    run: str
    form: Literal["gguf", "adapter", "merged"]
    file: str
    """Of the run's folder: the GGUF, the adapter's folder or the merged model's."""
    context: int
    """Tokens a request and its answer may take."""
    convert: str
    """Fingerprint of what is served: a run whose files changed is not served under an old promise."""
    evaluate: str
    """Fingerprint of the evaluation it was promoted on."""
    at: datetime
    restores: int | None = None
    """The version this rollback brought back."""
    by: str = ""
    """Who promoted it, or rolled back to it."""
    gate: str = ""
    """What the gate said of it: pass, fail or insufficient evidence."""
    reasons: tuple[str, ...] = ()
    """The gate's, each in a line."""
    override: str | None = None
    """Why it serves although the gate did not let it pass."""

    @property
    def place(self) -> int:
        """Where it stands in the order in which things served: a restored version at its old place."""
        return self.restores or self.number


class Promoted(BaseModel):
    """All versions of a name, oldest first; the last one serves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    versions: tuple[Version, ...]

    @property
    def current(self) -> Version:
        return self.versions[-1]


def promote(run: str, name: str, override: str = "", by: str = "") -> Version:
    """Let `run` serve `name` from now on; `override` is why, if the gate did not let it pass.

    Raises:
        NotFound: the run is not converted and evaluated. BadRequest: the name could lead elsewhere.
        GateFailed: the gate did not let it pass, or nothing was demanded of it, and there is no `override`.
    """
    folder = paths.run_folder(run)
    if not artifacts.finished(folder / "evaluate"):
        raise NotFound(f"{run}: is not evaluated; `tuneline evaluate {folder / RECIPE} --run {run}` first")
    recipe = recipe_of(folder)
    converted, judged = artifacts.open_artifact(folder / "convert"), artifacts.open_artifact(folder / "evaluate")
    before, gate = _versions(name), of_run(folder, judged.metrics["gate"]) if "gate" in judged.metrics else {}
    if not override:
        _refuse_unless_passed(run, name, gate)
    version = Version(
        number=len(before) + 1,
        run=run,
        form=recipe.serve.form,
        file=f"convert/tuned-{recipe.serve.type}.gguf" if recipe.serve.form == "gguf" else _folder(recipe.serve.form),
        context=recipe.serve.context,
        convert=converted.manifest.fingerprint,
        evaluate=judged.manifest.fingerprint,
        at=datetime.now(UTC),
        by=by,
        gate=gate.get("outcome", "none"),
        reasons=gate.get("reasons", ()),
        override=override or None,
    )
    return _write(name, before, version)


def _refuse_unless_passed(run: str, name: str, gate: Mapping[str, Any]) -> None:
    if gate.get("passed") and gate["demands"]:
        return
    told = gate.get("unmet") or ["nothing was demanded of it: give a suite a floor, or the recipe an evaluate.gate"]
    remedy = (
        f'to let it serve all the same: `tuneline promote {run} --as {name} --override "REASON"`, which is recorded'
    )
    said = gate.get("outcome", "no gate") if told == gate.get("unmet") else "no demand"
    raise GateFailed("\n".join([f"{run}: {said}:", *told, remedy]))


def rollback(name: str, by: str = "") -> Version:
    """Serve what served before the current version.

    Raises:
        NotFound: nothing is promoted under that name, or there is no version before.
    """
    before = promoted(name).versions
    undone = before[-1]
    earlier = [version for version in before if version.number < undone.place]
    if not earlier:
        raise NotFound(f"{name}: version {undone.place} ({undone.run}) is the first; there is nothing to go back to")
    back = {"number": len(before) + 1, "at": datetime.now(UTC), "restores": earlier[-1].place, "by": by}
    version = earlier[-1].model_copy(update=back)
    return _write(name, before, version)


def promoted(name: str) -> Promoted:
    """What serves `name`, and what did.

    Raises:
        NotFound: nothing does.
    """
    file = _file(name)
    if not file.exists():
        raise NotFound(f"{name}: nothing is promoted under that name; `tuneline promote RUN --as {name}`")
    return Promoted.model_validate_json(file.read_text())


def all_promoted() -> dict[str, Promoted]:
    """Everything promoted, by name."""
    return {file.stem: Promoted.model_validate_json(file.read_text()) for file in sorted(_root().glob("*.json"))}


def names_by_run() -> dict[str, list[str]]:
    """The names that each run serves, or could serve again after a rollback."""
    names: dict[str, list[str]] = {}
    for name, record in all_promoted().items():
        for version in record.versions:
            names.setdefault(version.run, []).append(name)
    return names


def _versions(name: str) -> tuple[Version, ...]:
    return promoted(name).versions if _file(name).exists() else ()


def _write(name: str, before: tuple[Version, ...], version: Version) -> Version:
    _root().mkdir(parents=True, exist_ok=True)
    record = Promoted(name=name, versions=(*before, version))
    artifacts.write_atomic(_file(name), record.model_dump_json(indent=1))
    return version


def _file(name: str) -> Path:
    if not NAME.fullmatch(name):
        raise BadRequest(f"--as {name!r}: letters, digits, '.', '_' and '-' only, 64 at most")
    return _root() / f"{name}.json"


def _root() -> Path:
    return paths.policy() / "models"


def _folder(form: str) -> str:
    return "train/adapter" if form == "adapter" else "convert/merged"
