"""Promotion: which run serves a name. An explicit, versioned record; nothing guesses the latest run.

`<policy>/models/NAME.json` holds every version ever promoted; the last one serves. A rollback is one more version, so
the file is the complete history. It is written atomically: a reader sees the old record or the new one. Whoever changes
it holds the policy's lock from reading it to replacing it.
"""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from tuneline.configs.recipe import RECIPE, Recipe, recipe_of
from tuneline.core import artifacts, paths
from tuneline.core.errors import BadRequest, GateFailed, NotFound, StageFailed
from tuneline.core.files import write_atomic
from tuneline.core.locks import change_lock
from tuneline.core.paths import NAME
from tuneline.core.user_files import read_text
from tuneline.endpoints.served_files import check_promoted_files, hash_evaluated_files
from tuneline.stages.evaluate.targets import served_path
from tuneline.stages.evaluate.verdicts.gate import NO_DEMANDS, WHY_NO_DEMANDS, gate_of_run, name_outcome
from tuneline.stages.run_artifacts import open_stage

log = logging.getLogger(__name__)

_RESTORE = "restore it from a backup, or remove it and promote again (earlier versions are lost)"


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
    files: dict[str, str] = {}
    """Path in the run's folder → SHA-256 of all that serving reads; nothing else is served. Empty in older records."""
    base: str = ""
    """`Manifest.digest` of the base that serves with an adapter; "" for other forms, and in older records."""
    convert: str
    """Fingerprint of the conversion."""
    evaluate: str
    """Fingerprint of the evaluation that it was promoted on."""
    at: datetime
    restores: int | None = None
    """Number of the version that this rollback restores; None for a promotion."""
    by: str = ""
    """Who promoted it, or rolled back to it."""
    gate: str = ""
    """The gate's outcome: pass, fail, insufficient evidence, no demands, or none without a gate."""
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
        StaleArtifact: its evaluation is of other files. StageFailed: a file is damaged.
        BadRequest: the name is not a valid file name.
        GateFailed: the gate did not let the run pass, or had no demands, and there is no `override`.
    """
    folder = paths.run_folder(run)
    if not folder.exists():
        raise NotFound(f"run {run!r}: not in {paths.runs()}; `tuneline runs ls` lists the runs")
    if not artifacts.is_finished(folder / "evaluate"):
        raise NotFound(f"{run}: is not evaluated; run `tuneline evaluate {folder / RECIPE} --run {run}` first")
    recipe = recipe_of(folder)
    conversion, evaluation = open_stage(folder, "convert"), open_stage(folder, "evaluate")
    _file(name)  # a bad name is refused before anything is written
    files = hash_evaluated_files(folder, recipe, evaluation)
    gate = gate_of_run(folder, evaluation.metrics["gate"]) if "gate" in evaluation.metrics else {}
    if not override:
        _refuse_unless_passed(run, name, gate)
    version = Version(
        number=0,  # assigned when it is appended
        run=run,
        form=recipe.serve.form,
        file=served_path(recipe.serve),
        files=files,
        base=_read_base_digest(folder) if recipe.serve.form == "adapter" else "",
        context=recipe.serve.context,
        convert=conversion.manifest.fingerprint,
        evaluate=evaluation.manifest.fingerprint,
        at=datetime.now(UTC),
        by=by,
        gate=name_outcome(gate) if "passed" in gate else "none",
        reasons=gate.get("reasons", ()),
        override=override or None,
    )
    with change_lock(paths.policy()):
        return _append(name, _read_versions(name), version)


def _refuse_unless_passed(run: str, name: str, gate: Mapping[str, Any]) -> None:
    if gate.get("passed") and gate["demands"]:
        return
    reasons = gate.get("unmet") or [f"{WHY_NO_DEMANDS}; add one of them, and evaluate again"]
    remedy = f'to promote it anyway: `tuneline promote {run} --as {name} --override "REASON"`, which is recorded'
    outcome = gate.get("outcome", "no gate") if reasons == gate.get("unmet") else NO_DEMANDS
    raise GateFailed("\n".join([f"{run}: {outcome}:", *reasons, remedy]))


def rollback(name: str, by: str = "") -> Version:
    """Let the version that served before the current one serve again, and return the new version.

    Raises:
        NotFound: nothing is promoted under that name, or there is no earlier version.
        StageFailed: its files are not those that were promoted.
    """
    before = _version_before(read_promotion(name))  # a wrong name is refused before anything is written
    check_promoted_files(paths.run_folder(before.run), name, before.file, before.files)
    with change_lock(paths.policy()):
        promotion = read_promotion(name)
        version = _version_before(promotion)
        changes = {"at": datetime.now(UTC), "restores": version.position, "by": by}
        return _append(name, promotion.versions, version.model_copy(update=changes))


def _version_before(promotion: Promotion) -> Version:
    """Return the version that served before the current one. Raises NotFound if that is the first."""
    undone = promotion.current
    earlier = [version for version in promotion.versions if version.number < undone.position]
    if not earlier:
        raise NotFound(
            f"{promotion.name}: version {undone.position} ({undone.run}) is the first version; there is no earlier one"
        )
    return earlier[-1]


def read_promotion(name: str) -> Promotion:
    """Return the history of `name`.

    Raises:
        NotFound: nothing is promoted under that name.
    """
    file = _file(name)
    if not file.exists():
        raise NotFound(f"{name}: nothing is promoted under that name; run `tuneline promote RUN --as {name}`")
    return _read_record(file)


def read_promotions(policy: Path | None = None) -> dict[str, Promotion]:
    """Return name → its history, for every name promoted in a policy folder; default: the one in use."""
    folder = policy / "models" if policy else _folder()
    return {file.stem: _read_record(file) for file in sorted(folder.glob("*.json"))}


class PromotionReader:
    """The histories of all names, read one by one: a damaged one stays as it was when it was last good."""

    def __init__(self) -> None:
        self._last: dict[str, Promotion] = {}

    def read(self) -> dict[str, Promotion]:
        """Return name → its history, of every name whose record is, or was, good."""
        read = {}
        for file in sorted(_folder().glob("*.json")):
            try:
                read[file.stem] = _read_record(file)
            except (StageFailed, OSError) as error:
                log.error("%s is served as before: %s", file.stem, error)
                if file.stem in self._last:
                    read[file.stem] = self._last[file.stem]
        self._last = read
        return read


def engine_name(promotion: Promotion) -> str:
    """Return the current version's model name in its engine: two versions of one name may run at once."""
    return f"{promotion.name}-{promotion.current.number}"


def _read_record(file: Path) -> Promotion:
    """Return the history in a file. Raises StageFailed if it is damaged."""
    text = read_text(file, StageFailed)
    try:
        promotion = Promotion.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"])) or "record"
        raise StageFailed(f"{file}: damaged: {place}: {problem['msg']}; {_RESTORE}") from None
    if not promotion.versions:
        raise StageFailed(f"{file}: damaged: versions: there is none; {_RESTORE}")
    return promotion


def open_promoted_run(promotion: Promotion) -> Path:
    """Return the folder of the run whose model serves now.

    Raises:
        StageFailed: its files are not those that were promoted.
    """
    version = promotion.current
    run = paths.run_folder(version.run)
    if not version.files and artifacts.open_artifact(run / "convert").manifest.fingerprint != version.convert:
        raise StageFailed(f"{version.run} has changed since it was promoted as {promotion.name}; promote it again")
    check_promoted_files(run, promotion.name, version.file, version.files)
    return run


def names_by_run(*other_policies: Path) -> dict[str, list[str]]:
    """Return run → the names that it serves, or could serve again after a rollback; also by other policy folders."""
    names: dict[str, list[str]] = {}
    for policy in dict.fromkeys((paths.policy(), *other_policies)):
        for name, promotion in read_promotions(policy).items():
            for version in promotion.versions:
                names.setdefault(version.run, []).append(name)
    return names


def read_promoted_recipes() -> list[Recipe]:
    """Return the recipes of all runs that serve a name, or could again, and that are here."""
    folders = [paths.run_folder(run) for run in names_by_run()]
    return [recipe_of(folder) for folder in folders if (folder / RECIPE).exists()]


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


def _read_base_digest(run: Path) -> str:
    """Return the `Manifest.digest` of the base that the run's adapter was trained on, or "" if it was not recorded."""
    return open_stage(run, "train").manifest.made_from.needs_content.get("fetch", "")
