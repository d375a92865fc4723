"""Artifacts: what a stage produces. A directory is complete if it has a `manifest.json`, which is written last.

A stage calls `make`. Finished work with the same fingerprint is returned at once, and unfinished work is continued in
the same directory. Work made from other settings is refused with an error that names the settings that differ.
`draft.json` marks unfinished work. A finished artifact has regular files of its own only: no links, and no names that
lead out of it.
"""

import contextlib
import platform
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Set
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

from tuneline.core.attention_kernels import read_kernel_commits
from tuneline.core.environment import read_variable
from tuneline.core.errors import NotFound, StageFailed, StaleArtifact
from tuneline.core.files import remove_temporaries, sha256, write_atomic
from tuneline.core.hash_cache import cached_sha256
from tuneline.core.machine import describe_machine
from tuneline.core.manifest import (
    Artifact,
    Draft,
    File,
    MadeFrom,
    Manifest,
    format_manifest,
    parse_draft,
    parse_manifest,
)
from tuneline.core.paths import RECIPE
from tuneline.core.spending import read_usd_per_hour

MANIFEST, DRAFT = "manifest.json", "draft.json"
RECORDED_VERSIONS = ("torch", "transformers", "peft", "trl", "bitsandbytes", "flash-attn", "llama-cpp-python")
COMMIT_VARIABLE = "TUNELINE_COMMIT"
"""Environment variable that a container gets: its files come without their history."""
SCRATCH = "scratch"
"""A folder of this name inside an artifact is work in progress: not recorded, removed when the artifact is finished."""


def make(
    path: Path,
    *,
    stage_version: int,
    settings: Mapping[str, Any],
    needs: Mapping[str, Artifact],
    build: Callable[[Path], Mapping[str, Any]],
    stage: str | None = None,
    hashed: Mapping[str, str] | None = None,
) -> Artifact:
    """Return the artifact at `path`; call `build(path) -> metrics` to make it unless it is finished already.

    `build` may find what an earlier, interrupted call left in the directory and continue from it. `hashed` holds the
    SHA-256 of files that it hashed while it wrote them, by their path in the artifact.

    Raises:
        StaleArtifact: the directory holds work made from other settings or other needed artifacts.
    """
    stage = stage or path.name
    made_from = MadeFrom(
        stage_version=stage_version,
        settings=flatten(settings),
        needs={name: artifact.manifest.fingerprint for name, artifact in needs.items()},
        needs_content={name: artifact.manifest.digest for name, artifact in needs.items()},
    )
    if (path / MANIFEST).exists():
        artifact = open_artifact(path)
        _refuse_if_stale(artifact.manifest.made_from, made_from, path, finished=True)
        return artifact
    draft = _begin(path, made_from)
    clock = time.monotonic()
    try:
        metrics = dict(build(path))
    finally:
        seconds = draft.seconds + time.monotonic() - clock
        if path.exists():
            write_atomic(path / DRAFT, draft.model_copy(update={"seconds": seconds}).model_dump_json())
    return _seal(path, stage, draft.model_copy(update={"seconds": seconds}), metrics, hashed or {})


def open_artifact(path: Path) -> Artifact:
    """Return the finished artifact at `path`, after checking that its files are its own and have the recorded sizes.

    Raises:
        NotFound: there is no finished artifact. StageFailed: it is damaged.
    """
    artifact = read_artifact(path)
    for name, file in artifact.manifest.files.items():
        _refuse_unless_own_file(path, name)
        size = (path / name).stat().st_size if (path / name).exists() else None
        if size != file.bytes:
            state = "missing" if size is None else f"{size} bytes"
            raise StageFailed(f"{path / name}: {state}, but {file.bytes} were recorded; remove {path} and run again")
    return artifact


def _command_for(path: Path) -> str:
    """Return the command that makes a stage of a run: with the recipe that is kept in the run, if there is one."""
    recipe = path.parent / RECIPE
    rest = [str(recipe), "--run", path.parent.name] if recipe.exists() else ["RECIPE"]
    return shlex.join(["tuneline", path.name, *rest])


def read_artifact(path: Path) -> Artifact:
    """Return the finished artifact at `path` without a look at its files.

    Raises:
        NotFound: there is no finished artifact. StageFailed: its manifest is damaged.
    """
    try:
        return Artifact(path, parse_manifest((path / MANIFEST).read_bytes()))
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"{path}: no finished {path.name}; run `{_command_for(path)}` first") from None
    except ValueError as error:
        raise StageFailed(
            f"{path / MANIFEST}: incomplete or damaged manifest: {error}; remove {path} and run again"
        ) from None


def read_draft(path: Path) -> Draft | None:
    """Return the record of unfinished work in `path`, or None if there is none.

    Raises:
        StageFailed: it is damaged.
    """
    try:
        return parse_draft((path / DRAFT).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StageFailed(
            f"{path / DRAFT}: incomplete or damaged draft: {error}; remove {path} and run again"
        ) from None


def verify_files(artifact: Artifact, below: str = "") -> dict[str, str]:
    """Return path → SHA-256 of the artifact's files, or of those at or below a path in it, after reading them.

    A large file is read once, and again when it was written to (`cached_sha256`).

    Raises:
        NotFound: the artifact has no such file, or it was removed to free space.
        StageFailed: a file's content is not what was recorded.
    """
    if below:
        refuse_removed(artifact, below)
    names = artifact.manifest.files_below(below)
    if below and not names:
        raise NotFound(f"{artifact.path / below}: no file of this artifact; {artifact.path / MANIFEST} lists them")
    for name in names:
        _refuse_unless_own_file(artifact.path, name)
        if cached_sha256(artifact.path / name) != artifact.manifest.files[name].sha256:
            raise StageFailed(
                f"{artifact.path / name}: its content has changed since it was made; remove {artifact.path} and "
                "run again"
            )
    return {name: artifact.manifest.files[name].sha256 for name in names}


def refuse_removed(artifact: Artifact, below: str) -> None:
    """Check that nothing at or below a path of the artifact was removed to free space.

    Raises:
        NotFound: something was; the message says how to make it again.
    """
    if removed := artifact.manifest.removed_below(below):
        run, stage = artifact.path.parent, artifact.path.name
        raise NotFound(
            f"{artifact.path / removed[0]}: was removed to free space; "
            f"`tuneline runs resume {run.name} --until {stage}` makes it again"
        )


def record_removal(path: Path, names: Collection[str]) -> None:
    """Record in the finished artifact at `path` that its files `names` are removed; call it before they are.

    Raises:
        NotFound: there is no finished artifact. StageFailed: its manifest is damaged.
    """
    manifest = read_artifact(path).manifest
    kept = {name: file for name, file in manifest.files.items() if name not in names}
    removed = manifest.removed | {name: file for name, file in manifest.files.items() if name in names}
    write_atomic(path / MANIFEST, format_manifest(manifest.model_copy(update={"files": kept, "removed": removed})))


def reopen(path: Path) -> None:
    """Turn the finished artifact at `path` into unfinished work of the same settings, so that it is made again.

    Raises:
        NotFound: there is no finished artifact. StageFailed: its manifest is damaged.
    """
    made_from = read_artifact(path).manifest.made_from
    draft = Draft(made_from=made_from, started=datetime.now(UTC), seconds=0.0)
    write_atomic(path / DRAFT, draft.model_dump_json())
    (path / MANIFEST).unlink()


def refuse_if_from_others(artifact: Artifact, needed: Mapping[str, Artifact], remedy: str) -> None:
    """Check that an artifact was made from the `needed` artifacts as they are now.

    Raises:
        StaleArtifact: it was made from others; `remedy` ends the message.
    """
    made_from = artifact.manifest.made_from
    for name, other in needed.items():
        recorded = (made_from.needs.get(name), made_from.needs_content.get(name, other.manifest.digest))
        if recorded != (other.manifest.fingerprint, other.manifest.digest):
            what = "another" if recorded[0] != other.manifest.fingerprint else "other files of"
            raise StaleArtifact(f"{artifact.path} was made from {what} {name} than is in {other.path} now; {remedy}")


def is_finished(path: Path) -> bool:
    """Return whether there is a finished artifact at `path`."""
    return (path / MANIFEST).exists()


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one level with dotted keys, so that a difference has a name."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        nested = isinstance(value, Mapping) and value
        flat |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def _begin(path: Path, made_from: MadeFrom) -> Draft:
    path.mkdir(parents=True, exist_ok=True)
    draft = read_draft(path) or Draft(made_from=made_from, started=datetime.now(UTC), seconds=0.0)
    _refuse_if_stale(draft.made_from, made_from, path, finished=False)
    machines = dict.fromkeys([*draft.machines, describe_machine()])
    draft = draft.model_copy(update={"made_from": made_from, "machines": tuple(machines)})
    write_atomic(path / DRAFT, draft.model_dump_json())
    return draft


def _refuse_if_stale(old: MadeFrom, new: MadeFrom, path: Path, *, finished: bool) -> None:
    compared = old.needs_content.keys() & new.needs_content.keys()
    if old.fingerprint == new.fingerprint and all(old.needs_content[n] == new.needs_content[n] for n in compared):
        return
    before, after = _flat_record(old, compared), _flat_record(new, compared)
    changed = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
    lines = [f"  {key}: {before.get(key)!r} there, {after.get(key)!r} now" for key in changed[:8]]
    more = [f"  … and {len(changed) - 8} more"] if len(changed) > 8 else []
    state = "was made" if finished else "was begun"
    remedy = f"keep it and use another run (--run NEW), or remove {path} and run again"
    raise StaleArtifact("\n".join([f"{path} {state} from other settings:", *lines, *more, remedy]))


def _flat_record(made_from: MadeFrom, compared: Set[str]) -> dict[str, Any]:
    """Return what determines the content, on one level; of the needed bytes those in `compared`."""
    needs = {f"needs.{name}": fingerprint for name, fingerprint in made_from.needs.items()}
    content = {f"content of {name}": made_from.needs_content[name] for name in compared}
    return {"stage_version": made_from.stage_version, **made_from.settings, **needs, **content}


def _refuse_unless_own_file(path: Path, name: str) -> None:
    """Raise StageFailed if a file's name leads out of the artifact at `path`, or a part of it is a link."""
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts:
        raise StageFailed(f"{path / MANIFEST}: {name!r} is outside {path}; remove {path} and run again")
    for depth in range(1, len(parts) + 1):
        if (part := path.joinpath(*parts[:depth])).is_symlink():
            raise StageFailed(f"{part}: is a link, which is not followed; remove {path} and run again")


def _seal(path: Path, stage: str, draft: Draft, metrics: Mapping[str, Any], hashed: Mapping[str, str]) -> Artifact:
    shutil.rmtree(path / SCRATCH, ignore_errors=True)
    remove_temporaries(path)
    payload = _list_payload(path)
    manifest = Manifest(
        stage=stage,
        fingerprint=draft.made_from.fingerprint,
        made_from=draft.made_from,
        metrics=dict(metrics),
        files={
            (name := str(f.relative_to(path))): File(bytes=f.stat().st_size, sha256=hashed.get(name) or sha256(f))
            for f in payload
        },
        versions=read_versions(),
        started=draft.started,
        ended=datetime.now(UTC),
        seconds=round(draft.seconds, 3),
        cost_usd=None if (price := read_usd_per_hour()) is None else round(price * draft.seconds / 3600, 4),
        machines=draft.machines,
    )
    write_atomic(path / MANIFEST, format_manifest(manifest))
    (path / DRAFT).unlink(missing_ok=True)
    return Artifact(path, manifest)


def _list_payload(path: Path) -> list[Path]:
    """Return the files to be recorded, sorted. Raises StageFailed for a link."""
    paths = sorted(path.rglob("*"))
    if links := [entry for entry in paths if entry.is_symlink()]:
        raise StageFailed(f"{links[0]}: is a link; an artifact may only contain regular files")
    return [entry for entry in paths if entry.is_file() and entry.name not in (MANIFEST, DRAFT)]


@cache
def read_versions() -> dict[str, str]:
    """Return the versions of what influences a result, by package; packages that are not installed are left out."""
    by_package = {"python": platform.python_version(), "tuneline": read_commit()} | read_kernel_commits()
    for package in RECORDED_VERSIONS:
        with contextlib.suppress(PackageNotFoundError):
            by_package[package] = version(package)
    return by_package


def read_commit() -> str:
    """Return the commit of this code: what `COMMIT_VARIABLE` says, else git; `unknown` where neither knows."""
    if commit := read_variable(COMMIT_VARIABLE):
        return commit
    command = ["git", "describe", "--always", "--dirty"]
    with contextlib.suppress(FileNotFoundError):  # a container has no git
        described = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
        return described.stdout.strip() or "unknown"
    return "unknown"
