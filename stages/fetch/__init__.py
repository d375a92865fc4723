"""Fetch: the base model as a plain Hugging Face folder in the folder of models, shared by all runs.

A base is `tiny` (shipped in data/tiny), a local folder, or a hub id with the commit it is pinned to. Only weights in
safetensors, JSON and Jinja are taken: no pickle, no code. Artifacts are called `tiny@<hash>`, `owner--name@<commit>`.
"""

import difflib
import fcntl
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tuneline.configs.models import registry, shape_of
from tuneline.configs.recipe import Recipe
from tuneline.core import artifacts, paths
from tuneline.core.artifacts import Artifact
from tuneline.core.errors import BadRecipe, NotFound, StageFailed
from tuneline.core.events import Events
from tuneline.core.paths import ROOT, find
from tuneline.core.pins import pin, pin_of
from tuneline.stages.fetch.downloads import WORKINGS, download, refuse_if_full, room
from tuneline.stages.fetch.hub_repository import COMMIT, HUB_ID, Hub, HubFiles, commit_of, pinned, refuse_family

STAGE_VERSION = 1
TINY = ROOT / "data" / "tiny"
TAKEN = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model")
LEFT = ("*/*", "consolidated*", "manifest.json", "draft.json")
"""Sub-folders (other formats of the same weights), Meta's own layout, and names an artifact uses itself."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
METAS = "consolidated*.pth"
"""Weights as Meta's own download has them."""
REMEMBERED_BYTES = 64 << 20
"""Hashes of local files this large are remembered by size and time of change: 8B take a minute to hash."""


@dataclass(frozen=True)
class Folder:
    """A folder on this machine, known by its content."""

    name: str
    path: Path

    @property
    def content(self) -> str:
        """SHA-256 over the names and hashes of the files that are taken."""
        lines = [f"{f.name}\0{_remembered_sha256(f)}\n" for f in _taken(self.path)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def settings(self) -> dict[str, str]:
        return {"base": self.name, "revision": self.content}

    @property
    def slug(self) -> str:
        return f"{self.name}@{self.content[:12]}"


def fetch(recipe: Recipe, run: Path) -> Artifact:
    """The recipe's base in the folder of models; an interrupted fetch goes on where it was.

    Raises:
        NotFound: no such base. BadRecipe: not a model Tuneline can train, or not pinned. BadRequest: the hub wants a
        (different) token. StageFailed: the hub cannot be reached, no room, or what came is not what the hub recorded.
    """
    return bring(check(recipe), Events(run, "fetch"))


def bring(source: Hub | Folder, events: Events) -> Artifact:
    """A base in the folder of models, as `fetch` does for a recipe's; a hub's is pinned if it is the first of its name.

    Raises:
        As `fetch`.
    """
    with _alone(paths.models(), source.slug, events) as folder:
        hashed: dict[str, str] = {}
        build = _no_build if artifacts.finished(folder) else _builder(source, events, hashed)
        made = artifacts.make(
            folder,
            stage="fetch",
            stage_version=STAGE_VERSION,
            settings=source.settings,
            needs={},
            build=build,
            hashed=hashed,
        )
    if isinstance(source, Hub):
        pin(source.repo, source.revision)
    return made


def named(name: str, revision: str | None = None) -> Hub | Folder:
    """What `models download` is asked for: a name of models.yaml, `tiny`, a folder, or a hub id.

    Of a hub id the commit that is pinned; before that, or with `revision` (a commit, branch or tag), what the hub says.

    Raises:
        NotFound: no such model. BadRecipe: a folder that cannot be used. Whatever the hub's refusal is turned into.
    """
    key = None if name == "tiny" or find(Path(name)).is_dir() else registry().find(name)
    repo = (registry().models[key].hub or name) if key else name
    if HUB_ID.fullmatch(repo) and (key or revision or not find(Path(repo)).is_dir()):
        if reason := registry().why_not(repo):
            raise NotFound(f"base: {reason}")
        whole = revision if revision and COMMIT.fullmatch(revision) else None
        return Hub(repo, whole or (pin_of(repo) if revision is None else None) or commit_of(repo, revision))
    return _local(repo, revision)


def open_base(recipe: Recipe) -> Artifact:
    """The recipe's base, fetched before; NotFound if it was not."""
    folder = paths.models() / check(recipe).slug
    if not artifacts.finished(folder):
        raise NotFound(f"{folder}: base {recipe.base!r} is not fetched yet; run `tuneline fetch RECIPE` first")
    return artifacts.open_artifact(folder)


def check(recipe: Recipe) -> Hub | Folder:
    """Where the recipe's base is, as far as can be said in a moment: without the network, and nothing is written.

    Raises:
        NotFound: neither `tiny`, nor a folder, nor a hub id. BadRecipe: a folder that cannot be used, or no commit.
    """
    base, revision = recipe.base, recipe.revision
    folder = TINY if base == "tiny" else find(Path(base))
    is_hub_id = base != "tiny" and HUB_ID.fullmatch(base) is not None
    if is_hub_id and (revision is not None or not folder.is_dir()):
        if reason := registry().why_not(base):
            raise NotFound(f"base: {reason}")
        return Hub(base, pinned(base, revision, folder))
    return _local(base, revision)


def _local(base: str, revision: str | None) -> Folder:
    folder = TINY if base == "tiny" else find(Path(base))
    if revision is not None:
        raise BadRecipe(f"revision: {revision!r}: goes with a hub id (owner/name), and base is {base!r}; leave it out")
    if folder.is_file() and any(fnmatch(folder.name, kind) for kind in PICKLES):
        raise BadRecipe(_remedy(str(folder), folder.name))
    if not folder.is_dir():
        raise NotFound(_no_such_base(base))
    refuse_unusable(folder)
    return Folder("tiny" if base == "tiny" else _name(folder), folder)


def check_base(recipe: Recipe) -> None:
    """Refuse a base that cannot be fetched, before anything is written; asks no network."""
    check(recipe)


def refuse_unusable(folder: Path) -> None:
    """Raise BadRecipe unless `folder` holds a whole Llama: config.json, tokenizer.json and safetensors."""
    refuse_missing(str(folder), [f.name for f in folder.iterdir()])
    config = folder / "config.json"
    refuse_family(f"{config}: model_type:", _json(config).get("model_type"))
    index = folder / "model.safetensors.index.json"
    shards = set(_json(index).get("weight_map", {}).values()) if index.exists() else set()
    if missing := sorted(shard for shard in shards if not (folder / shard).exists()):
        raise BadRecipe(f"{index}: names {missing[0]} ({len(missing)} missing in all), which is not there; copy it too")


def refuse_missing(where: str, names: list[str]) -> None:
    """Raise BadRecipe unless the files a model consists of are among `names`."""
    safe = any(fnmatch(name, "*.safetensors") for name in names)
    if not safe and (metas := [name for name in names if fnmatch(name, METAS)]):
        raise BadRecipe(_remedy(where, metas[0]))
    for needed in ("config.json", "tokenizer.json"):
        if needed not in names:
            raise BadRecipe(f"base: {where}: no {needed}; a base is a Hugging Face model folder with a fast tokenizer")
    if safe:
        return
    if pickles := [name for name in names if any(fnmatch(name, kind) for kind in PICKLES)]:
        raise BadRecipe(_remedy(where, pickles[0]))
    raise BadRecipe(f"base: {where}: no weights (*.safetensors)")


def base_config(recipe: Recipe) -> dict[str, Any] | None:
    """The config.json of a base that is on this machine, or None; asks no network."""
    source = check(recipe)
    file = (source.path if isinstance(source, Folder) else paths.models() / source.slug) / "config.json"
    return _json(file) if file.exists() else None


def _remedy(where: str, pickle: str) -> str:
    told = f"base: {where}: weights are only there as a pickle ({pickle}), which can run any code when loaded;\n"
    if fnmatch(pickle, "*.pth"):
        return told + (
            "a .pth is Meta's own format: take the model from the hub (`tuneline models ls` has the ids), or turn\n"
            "it into safetensors with Transformers 4 (5 has no converter any more: convert_llama_weights_to_hf.py)\n"
            "and write `base: NEW_FOLDER`"
        )
    return told + "use a revision that has *.safetensors (https://huggingface.co/spaces/safetensors/convert makes one)"


def _no_such_base(base: str) -> str:
    if base == "tiny":
        return f"base: 'tiny': {TINY} is missing; `git checkout -- data/tiny` brings it back"
    if reason := registry().why_not(base):
        return f"base: {reason}"
    close = difflib.get_close_matches(base.lower(), registry().models, 1)
    hint = f"did you mean {close[0]!r}?" if close else "`tuneline models ls` shows the names that are"
    return f"base: {base!r}: neither a name of configs/models.yaml, nor a folder, nor a hub id (owner/name); {hint}"


def _name(folder: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", folder.resolve().name).lstrip(".-_")[:64] or "folder"


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise BadRecipe(f"{path}: cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise BadRecipe(f"{path}: not a JSON object")
    return value


def _is_taken(name: str) -> bool:
    return any(fnmatch(name, kind) for kind in TAKEN) and not any(fnmatch(name, kind) for kind in LEFT)


def _taken(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_file() and _is_taken(f.name))


def _remembered_sha256(path: Path) -> str:
    status = path.stat()
    if status.st_size < REMEMBERED_BYTES:
        return artifacts.sha256(path)
    key = f"{path.resolve()} {status.st_size} {status.st_mtime_ns} {status.st_ino}"
    note = paths.cache() / "hashes" / hashlib.sha256(key.encode()).hexdigest()
    if note.exists():
        return note.read_text()
    found = artifacts.sha256(path)
    note.parent.mkdir(parents=True, exist_ok=True)
    artifacts.write_atomic(note, found)
    return found


@contextmanager
def _alone(models: Path, slug: str, events: Events) -> Iterator[Path]:
    # Runs share bases, so the lock of a run does not protect them. flock ends with its process, however that ends.
    models.mkdir(parents=True, exist_ok=True)
    with (models / f".{slug}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            events.emit("warning", text=f"another run is fetching {slug}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield models / slug


def _builder(source: Hub | Folder, events: Events, hashed: dict[str, str]) -> Callable[[Path], Mapping[str, Any]]:
    """What fills the artifact's folder; asks the hub first, so that a refusal leaves nothing behind.

    The SHA-256 of what it has hashed on its way goes into `hashed`.
    """
    if isinstance(source, Folder):
        return lambda folder: _copy(source.path, folder, events)
    files = HubFiles.listed(source, _is_taken)
    refuse_missing(source.slug, files.names)
    refuse_family(f"base: {source.repo}: model_type", files.family)
    return lambda folder: _download(files, folder, events, hashed)


def _no_build(folder: Path) -> Mapping[str, Any]:
    raise AssertionError(f"{folder} is finished")


def _download(files: HubFiles, folder: Path, events: Events, hashed: dict[str, str]) -> dict[str, Any]:
    hashed |= download(files, folder, events)
    refuse_unusable(folder)
    shutil.rmtree(folder / WORKINGS, ignore_errors=True)
    _compare(files.source.repo, folder, events)
    return _measured(folder)


def _compare(repo: str, folder: Path, events: Events) -> None:
    """Warns if the table says another size than the model's own config: its plans would be wrong."""
    key, read = registry().find(repo), shape_of(_json(folder / "config.json"))
    if key and read and read.text != (told := registry().shape(key).text):
        text = f"{repo}: its config says {read.text:,} parameters, configs/models.yaml {told:,}; correct the table"
        events.emit("warning", text=text)


def _copy(source: Path, folder: Path, events: Events) -> dict[str, Any]:
    # Copied, not linked: who saves over the source later must not change a base that runs were made from.
    files = _taken(source)
    total, done = sum(f.stat().st_size for f in files), 0
    refuse_if_full(folder, total)
    for file in files:
        target = folder / file.name
        with room(folder):
            shutil.copyfile(file, target)
        done += target.stat().st_size
        events.progress(done, total, "bytes", file.name)
        if artifacts.sha256(target) != _remembered_sha256(file):
            target.unlink()
            raise StageFailed(f"{file}: changed while it was copied; run again")
    return _measured(folder)


def _measured(folder: Path) -> dict[str, Any]:
    files = _taken(folder)
    config = _json(folder / "config.json")
    return {"model_type": config["model_type"], "files": len(files), "bytes": sum(f.stat().st_size for f in files)}
