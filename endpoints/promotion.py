"""Promotion: which run serves a name. An explicit, versioned record; nothing guesses the latest run.

`<policy>/models/NAME.json` holds every version ever promoted; the last one serves. A rollback is one more version, so
the file is the complete history. It is written atomically: a reader sees the old record or the new one. Whoever changes
it holds the policy's lock from reading it to replacing it.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from tuneline.configs.recipe import RECIPE, Serve, recipe_of
from tuneline.core import artifacts, paths
from tuneline.core.errors import BadRequest, GateFailed, NotFound, StageFailed
from tuneline.core.files import write_atomic
from tuneline.core.locks import change_lock
from tuneline.core.paths import NAME
from tuneline.stages.evaluate.verdicts.gate import gate_of_run


class Version(BaseModel):
    """A run's model that serves, or served, a name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    run: str
    form: Literal["gguf", "adapter", "merged"]
    file: str
    """Path in the run's folder: the GGUF, the adapter's folder or the merged model's folder."""
    context: int
    """Context length in tokens, prompt and completion together."""
    convert: str
    """Fingerprint of the conversion; a run whose files have changed since is not served."""
    evaluate: str
    """Fingerprint of the evaluation that it was promoted on."""
    at: datetime
    restores: int | None = None
    """Number of the version that this rollback restores; None for a promotion."""
    by: str = ""
    """Who promoted it, or rolled back to it."""
    gate: str = ""
    """The gate's outcome: pass, fail, insufficient evidence, or none without a gate."""
    reasons: tuple[str, ...] = ()
    """The gate's reasons, one line each."""
    override: str | None = None
    """The reason given for promoting it although the gate did not let it pass."""

    @property
    def position(self) -> int:
        """Position in the history of what served: a restored version has its original number."""
        return self.restores or self.number


class Promotion(BaseModel):
    """The history of a name: all versions, oldest first; the last one serves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    versions: tuple[Version, ...]

    @property
    def current(self) -> Version:
        return self.versions[-1]


def promote(run: str, name: str, override: str = "", by: str = "") -> Version:
    """Let `run` serve `name` from now on, and return the new version.

    `override` is the reason for promoting a run that the gate did not let pass; `by` is who promotes.

    Raises:
        NotFound: the run is not converted and evaluated.
        BadRequest: the name is not a valid file name.
        GateFailed: the gate did not let the run pass, or had no demands, and there is no `override`.
    """
    folder = paths.run_folder(run)
    if not artifacts.is_finished(folder / "evaluate"):
        raise NotFound(f"{run}: is not evaluated; `tuneline evaluate {folder / RECIPE} --run {run}` first")
    recipe = recipe_of(folder)
    conversion, evaluation = artifacts.open_artifact(folder / "convert"), artifacts.open_artifact(folder / "evaluate")
    _file(name)  # a bad name is refused before anything is written
    gate = gate_of_run(folder, evaluation.metrics["gate"]) if "gate" in evaluation.metrics else {}
    if not override:
        _refuse_unless_passed(run, name, gate)
    version = Version(
        number=0,  # assigned when it is appended
        run=run,
        form=recipe.serve.form,
        file=_served_file(recipe.serve),
        context=recipe.serve.context,
        convert=conversion.manifest.fingerprint,
        evaluate=evaluation.manifest.fingerprint,
        at=datetime.now(UTC),
        by=by,
        gate=gate.get("outcome", "none"),
        reasons=gate.get("reasons", ()),
        override=override or None,
    )
    with change_lock(paths.policy()):
        return _append(name, _read_versions(name), version)


def _refuse_unless_passed(run: str, name: str, gate: Mapping[str, Any]) -> None:
    if gate.get("passed") and gate["demands"]:
        return
    reasons = gate.get("unmet") or ["nothing was demanded of it: give a suite a floor, or the recipe an evaluate.gate"]
    remedy = (
        f'to let it serve all the same: `tuneline promote {run} --as {name} --override "REASON"`, which is recorded'
    )
    outcome = gate.get("outcome", "no gate") if reasons == gate.get("unmet") else "no demand"
    raise GateFailed("\n".join([f"{run}: {outcome}:", *reasons, remedy]))


def rollback(name: str, by: str = "") -> Version:
    """Let the version that served before the current one serve again, and return the new version.

    Raises:
        NotFound: nothing is promoted under that name, or there is no earlier version.
    """
    read_promotion(name)  # a wrong name is refused before anything is written
    with change_lock(paths.policy()):
        versions = read_promotion(name).versions
        undone = versions[-1]
        earlier = [version for version in versions if version.number < undone.position]
        if not earlier:
            raise NotFound(
                f"{name}: version {undone.position} ({undone.run}) is the first; there is nothing to go back to"
            )
        changes = {"at": datetime.now(UTC), "restores": earlier[-1].position, "by": by}
        return _append(name, versions, earlier[-1].model_copy(update=changes))


def read_promotion(name: str) -> Promotion:
    """Return the history of `name`.

    Raises:
        NotFound: nothing is promoted under that name.
    """
    file = _file(name)
    if not file.exists():
        raise NotFound(f"{name}: nothing is promoted under that name; `tuneline promote RUN --as {name}`")
    return Promotion.model_validate_json(file.read_text())


def read_promotions() -> dict[str, Promotion]:
    """Return name → its history, for every promoted name."""
    return {file.stem: Promotion.model_validate_json(file.read_text()) for file in sorted(_folder().glob("*.json"))}


def open_promoted_run(promotion: Promotion) -> Path:
    """Return the folder of the run whose model serves now.

    Raises:
        StageFailed: its files are not those that were promoted.
    """
    version = promotion.current
    run = paths.run_folder(version.run)
    if artifacts.open_artifact(run / "convert").manifest.fingerprint != version.convert:
        raise StageFailed(f"{version.run} is not what was promoted as {promotion.name}; promote it again")
    return run


def names_by_run() -> dict[str, list[str]]:
    """Return run → the names that it serves, or could serve again after a rollback."""
    names: dict[str, list[str]] = {}
    for name, promotion in read_promotions().items():
        for version in promotion.versions:
            names.setdefault(version.run, []).append(name)
    return names


def _read_versions(name: str) -> tuple[Version, ...]:
    return read_promotion(name).versions if _file(name).exists() else ()


def _append(name: str, versions: tuple[Version, ...], version: Version) -> Version:
    """Write and return `version` with the next number; the caller holds the policy's lock."""
    _folder().mkdir(parents=True, exist_ok=True)
    version = version.model_copy(update={"number": len(versions) + 1})
    promotion = Promotion(name=name, versions=(*versions, version))
    write_atomic(_file(name), promotion.model_dump_json(indent=1))
    return version


def _file(name: str) -> Path:
    if not NAME.fullmatch(name):
        raise BadRequest(f"--as {name!r}: letters, digits, '.', '_' and '-' only, 64 at most")
    return _folder() / f"{name}.json"


def _folder() -> Path:
    return paths.policy() / "models"


def _served_file(serve: Serve) -> str:
    """Return the path in the run's folder of what its engine loads."""
    if serve.form == "gguf":
        return f"convert/tuned-{serve.type}.gguf"
    return "train/adapter" if serve.form == "adapter" else "convert/merged"
