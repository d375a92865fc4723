"""The bases on this machine: which, how large, last used when, whole or not, and taken away."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tuneline.configs.models import registry, shape_of
from tuneline.core import artifacts, paths
from tuneline.core.errors import BadRequest, NotFound, TunelineError
from tuneline.core.pins import pin_of
from tuneline.stages.fetch.downloads import bytes_in


@dataclass(frozen=True)
class Here:
    """One fetched base."""

    slug: str
    """`owner--name@commit` or `name@hash`: its folder under the models."""
    known_as: str | None
    """Its name in models.yaml."""
    bytes: int
    used: datetime
    """When it was fetched, or a stage last began on it."""
    runs: tuple[str, ...]
    """That were made from it."""
    pinned: bool
    """Whether a recipe that names it without a commit means this one."""

    @property
    def path(self) -> Path:
        return paths.models() / self.slug


def bases_here() -> list[Here]:
    """All that are whole, by name; a half download is none."""
    runs = _runs()
    found = []
    for folder in sorted(paths.models().glob("*@*")):
        if not artifacts.finished(folder):
            continue
        manifest = artifacts.Manifest.model_validate_json((folder / artifacts.MANIFEST).read_text())
        repo, revision = folder.name.partition("@")[0].replace("--", "/", 1), manifest.made_from.settings["revision"]
        mine = [(run, when) for run, fingerprint, when in runs if fingerprint == manifest.fingerprint]
        found.append(
            Here(
                slug=folder.name,
                known_as=registry().find(repo),
                bytes=sum(file.bytes for file in manifest.files.values()),
                used=max([manifest.ended, *(when for _, when in mine)]),
                runs=tuple(sorted({run for run, _ in mine})),
                pinned=pin_of(repo) == revision,
            )
        )
    return found


def half_here() -> list[tuple[str, int]]:
    """(folder, bytes so far) of those that were begun and are not whole: no command takes them for a model."""
    begun = [folder for folder in sorted(paths.models().glob("*@*")) if folder.is_dir()]
    return [(folder.name, bytes_in(folder)) for folder in begun if not artifacts.finished(folder)]


def found_here(name: str) -> list[Here]:
    """The whole bases that `name` means: a name of models.yaml, a hub id, or the folder's own name or its beginning.

    Raises:
        NotFound: none is here.
    """
    key, slug = registry().find(name), name.replace("/", "--", 1)
    found = [b for b in bases_here() if b.slug == slug or b.slug.startswith(slug + "@") or (key and b.known_as == key)]
    if not found:
        raise NotFound(f"model {name!r}: not in {paths.models()}; `tuneline models ls` shows what is")
    return found


def faults(base: Here) -> list[str]:
    """What is wrong with its files, by their recorded hashes, and with what models.yaml says; empty if nothing."""
    try:
        files = artifacts.open_artifact(base.path).manifest.files
    except TunelineError as error:
        return [str(error)]
    wrong = [
        f"{base.path / name}: its SHA-256 is another; `tuneline models remove {base.slug}`, then fetch it again"
        for name, file in files.items()
        if artifacts.sha256(base.path / name) != file.sha256
    ]
    return wrong + list(_other_facts(base.known_as, base.path))


def _other_facts(key: str | None, folder: Path) -> Iterator[str]:
    read = shape_of(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    if key and read and read.text != (told := registry().shape(key).text):
        yield (
            f"{folder / 'config.json'}: says {read.text:,} parameters, configs/models.yaml {told:,} for {key}: "
            "correct the table, its plans are wrong"
        )


def remove(base: Here, force: int, names_by_run: Mapping[str, Sequence[str]]) -> None:
    """Delete a base; `names_by_run` are the names that each promoted run serves or served.

    Raises:
        BadRequest: runs need it and `force` is 0; or one of them is promoted and it is below 2.
    """
    promoted = sorted({name for run in base.runs for name in names_by_run.get(run, ())})
    if promoted and force < 2:
        raise BadRequest(
            f"{base.slug}: {', '.join(promoted)} is served by a run made from it; "
            "`--force --force` removes it all the same: what is served needs it to start again"
        )
    if base.runs and force < 1:
        raise BadRequest(f"{base.slug}: {', '.join(base.runs)} was made from it; `--force` removes it all the same")
    shutil.rmtree(base.path)


def _runs() -> list[tuple[str, str, datetime]]:
    """(run, fingerprint of its base, when) of every stage of every run here."""
    found = []
    for file in paths.runs().glob("*/*/" + artifacts.MANIFEST):
        try:
            manifest = json.loads(file.read_text())
            found.append(
                (file.parts[-3], manifest["made_from"]["needs"]["fetch"], datetime.fromisoformat(manifest["ended"]))
            )
        except (ValueError, KeyError):
            continue  # a stage that needs no base, or no manifest of ours
    return found
