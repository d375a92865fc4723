"""Fetch: the base model as a plain Hugging Face folder in the folder of models, shared by all runs.

A base is `tiny` (shipped in data/tiny), a local folder, or a hub id with the commit it is pinned to. Only weights in
safetensors, JSON and Jinja are taken: no pickle, no code. The artifact is called after the content: `tiny@<hash>`,
`owner--name@<commit>`.
"""

import difflib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from configs.recipe import ROOT, Recipe, find
from stages import artifact, paths
from stages.artifact import Artifact
from stages.errors import BadRecipe, BadRequest, NotFound, StageFailed, TunelineError
from stages.events import Events

STAGE_VERSION = 1
TINY = ROOT / "data" / "tiny"
FAMILIES = ("llama", "llama4", "llama4_text", "mistral")
"""`model_type` in config.json of the models Tuneline trains."""
TAKEN = ("*.safetensors", "*.json", "*.jinja")
LEFT = ("*/*", "consolidated*", "manifest.json", "draft.json")
"""Sub-folders (other formats of the same weights), Meta's own layout, and names an artifact uses itself."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")
TOKEN_VARIABLE = "HF_TOKEN"
REMEMBERED_BYTES = 64 << 20
"""Hashes of local files this large are remembered by size and time of change: 8B take a minute to hash."""
PROGRESS_S = 2.0


@dataclass(frozen=True)
class Hub:
    """A repository of a Hugging Face hub at one commit."""

    repo: str
    revision: str

    @property
    def settings(self) -> dict[str, str]:
        return {"base": self.repo.replace("/", "--"), "revision": self.revision}

    @property
    def slug(self) -> str:
        return f"{self.repo.replace('/', '--')}@{self.revision[:12]}"


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
    source = check(recipe)
    events = Events(run, "fetch")
    with _alone(paths.models(), source.slug, events) as folder:
        build = _no_build if artifact.finished(folder) else _builder(source, events)
        return artifact.make(
            folder, stage="fetch", stage_version=STAGE_VERSION, settings=source.settings, needs={}, build=build
        )


def open_base(recipe: Recipe) -> Artifact:
    """The recipe's base, fetched before.

    Raises:
        NotFound: it has not been fetched.
    """
    folder = paths.models() / check(recipe).slug
    if not artifact.finished(folder):
        raise NotFound(f"{folder}: base {recipe.base!r} is not fetched yet; run `tuneline fetch RECIPE` first")
    return artifact.open_artifact(folder)


def check(recipe: Recipe) -> Hub | Folder:
    """Where the recipe's base is, as far as can be said in a moment: without the network, and nothing is written.

    Raises:
        NotFound: neither `tiny`, nor a folder, nor a hub id. BadRecipe: a folder that cannot be used, or no commit.
    """
    base, revision = recipe.base, recipe.revision
    folder = TINY if base == "tiny" else find(Path(base))
    is_hub_id = base != "tiny" and HUB_ID.fullmatch(base) is not None
    if is_hub_id and (revision is not None or not folder.is_dir()):
        return Hub(base, _commit(base, revision, folder))
    if revision is not None:
        raise BadRecipe(f"revision: {revision!r}: goes with a hub id (owner/name), and base is {base!r}; leave it out")
    if not folder.is_dir():
        raise NotFound(_no_such_base(base))
    refuse_unusable(folder)
    return Folder("tiny" if base == "tiny" else _name(folder), folder)


def check_base(recipe: Recipe) -> None:
    """Refuse a base that cannot be fetched, before anything is written; asks no network."""
    check(recipe)


def refuse_unusable(folder: Path) -> None:
    """Raise unless `folder` holds a whole Llama: config.json, tokenizer.json and safetensors.

    Raises:
        BadRecipe: something is missing or of another family; says what, and what to do.
    """
    refuse_missing(str(folder), [f.name for f in folder.iterdir()])
    config = _json(folder / "config.json")
    if (family := config.get("model_type")) not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise BadRecipe(f"{folder / 'config.json'}: model_type: {family!r}: Tuneline trains Llamas only ({known})")
    index = folder / "model.safetensors.index.json"
    shards = set(_json(index).get("weight_map", {}).values()) if index.exists() else set()
    if missing := sorted(shard for shard in shards if not (folder / shard).exists()):
        raise BadRecipe(f"{index}: names {missing[0]} ({len(missing)} missing in all), which is not there; copy it too")


def refuse_missing(where: str, names: list[str]) -> None:
    """Raise unless the files a model consists of are among `names`.

    Raises:
        BadRecipe: what is missing.
    """
    for needed in ("config.json", "tokenizer.json"):
        if needed not in names:
            raise BadRecipe(f"base: {where}: no {needed}; a base is a Hugging Face model folder with a fast tokenizer")
    if any(fnmatch(name, "*.safetensors") for name in names):
        return
    if pickles := [name for name in names if any(fnmatch(name, kind) for kind in PICKLES)]:
        raise BadRecipe(
            f"base: {where}: weights are only there as a pickle ({pickles[0]}), which can run any code when loaded;\n"
            "use a revision that has *.safetensors (https://huggingface.co/spaces/safetensors/convert makes one)"
        )
    raise BadRecipe(f"base: {where}: no weights (*.safetensors)")


def _commit(repo: str, revision: str | None, folder: Path) -> str:
    how = f"`git ls-remote https://huggingface.co/{repo} main` prints the latest"
    if revision is None:
        raise BadRecipe(
            f"base: {repo!r}: there is no folder {folder}, so this is a hub id, and a hub id needs its commit, "
            f"or the result could change from day to day;\n{how}; write it as `revision: <40 hex digits>`"
        )
    if not COMMIT.fullmatch(revision):
        raise BadRecipe(
            f"revision: {revision!r}: a whole commit (40 hex digits), not a branch, tag or short hash;\n{how}"
        )
    return revision


def _no_such_base(base: str) -> str:
    if base == "tiny":
        return f"base: 'tiny': {TINY} is missing; `git checkout -- data/tiny` brings it back"
    hint = "did you mean 'tiny'?" if difflib.get_close_matches(base, ["tiny"]) else "see `base` in docs/recipes.md"
    return f"base: {base!r}: neither 'tiny', nor a folder, nor a hub id (owner/name); {hint}"


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
        return artifact.sha256(path)
    key = f"{path.resolve()} {status.st_size} {status.st_mtime_ns} {status.st_ino}"
    note = paths.cache() / "hashes" / hashlib.sha256(key.encode()).hexdigest()
    if note.exists():
        return note.read_text()
    found = artifact.sha256(path)
    note.parent.mkdir(parents=True, exist_ok=True)
    artifact.write_atomic(note, found)
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


def _builder(source: Hub | Folder, events: Events) -> Callable[[Path], Mapping[str, Any]]:
    """What fills the artifact's folder; asks the hub first, so that a refusal leaves nothing behind."""
    if isinstance(source, Folder):
        return lambda folder: _copy(source.path, folder, events)
    files = _HubFiles.listed(source)
    return lambda folder: _download(files, folder, events)


def _no_build(folder: Path) -> Mapping[str, Any]:
    raise AssertionError(f"{folder} is finished")


def _copy(source: Path, folder: Path, events: Events) -> dict[str, Any]:
    # Copied, not linked: who saves over the source later must not change a base that runs were made from.
    files = _taken(source)
    total, done = sum(f.stat().st_size for f in files), 0
    _refuse_if_full(folder, total)
    for file in files:
        target = folder / file.name
        with _room(folder):
            shutil.copyfile(file, target)
        done += target.stat().st_size
        events.progress(done, total, "bytes", file.name)
        if artifact.sha256(target) != _remembered_sha256(file):
            target.unlink()
            raise StageFailed(f"{file}: changed while it was copied; run again")
    return _measured(folder)


def _measured(folder: Path) -> dict[str, Any]:
    files = _taken(folder)
    config = _json(folder / "config.json")
    return {"model_type": config["model_type"], "files": len(files), "bytes": sum(f.stat().st_size for f in files)}


@dataclass(frozen=True)
class _HubFiles:
    """What the hub says it holds at a commit: file names with sizes and hashes, for those we take."""

    source: Hub
    sizes: dict[str, int]
    sha256: dict[str, str]
    """Of files kept in LFS or Xet."""
    git: dict[str, str]
    """Of the others: SHA-1 of git's blob."""

    @classmethod
    def listed(cls, source: Hub) -> "_HubFiles":
        from huggingface_hub import HfApi

        with _explained(source):
            info = HfApi(endpoint=_endpoint(), token=_token()).model_info(
                source.repo, revision=source.revision, files_metadata=True
            )
        siblings = info.siblings or []
        refuse_missing(source.slug, [s.rfilename for s in siblings])
        family = (info.config or {}).get("model_type", FAMILIES[0])
        if family not in FAMILIES:
            raise BadRecipe(
                f"base: {source.repo}: model_type {family!r}: Tuneline trains Llamas only ({', '.join(FAMILIES)})"
            )
        taken = [s for s in siblings if _is_taken(s.rfilename)]
        return cls(
            source,
            sizes={s.rfilename: s.size or 0 for s in taken},
            sha256={s.rfilename: s.lfs.sha256 for s in taken if s.lfs},
            git={s.rfilename: s.blob_id for s in taken if s.blob_id and not s.lfs},
        )


def _download(files: _HubFiles, folder: Path, events: Events) -> dict[str, Any]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    workings = folder / ".cache"
    for orphan in workings.rglob("*.incomplete"):
        orphan.unlink()  # of a killed process; the library starts that file anew, finished files stay
    total = sum(files.sizes.values())
    _refuse_if_full(folder, total - _bytes_in(folder))
    with _explained(files.source), _room(folder), _followed(folder, total, events):
        snapshot_download(
            files.source.repo,
            revision=files.source.revision,
            local_dir=folder,
            allow_patterns=list(files.sizes),
            endpoint=_endpoint(),
            token=_token(),
        )
    for number, name in enumerate(files.sizes, 1):
        _verify(folder / name, files)
        events.progress(number, len(files.sizes), "files", f"{name} verified")
    refuse_unusable(folder)
    shutil.rmtree(workings, ignore_errors=True)
    return _measured(folder)


def _verify(path: Path, files: _HubFiles) -> None:
    name, found, wanted = path.name, "missing", files.sha256.get(path.name) or files.git.get(path.name)
    if path.exists():
        found = artifact.sha256(path) if name in files.sha256 else _git_sha1(path) if name in files.git else "unknown"
    if found != wanted:
        path.unlink(missing_ok=True)
        raise StageFailed(
            f"{path}: its hash is {found}, but {files.source.repo} records {wanted}; removed; run it again.\n"
            "If it happens again, something between here and the hub changes files"
        )


def _git_sha1(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _token() -> str | bool:
    # False, not None: None would also look for a token saved in the home folder.
    return os.environ.get(TOKEN_VARIABLE) or False


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


@contextmanager
def _explained(source: Hub) -> Iterator[None]:
    """Turns what the hub's client raises into what a user can do about it."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise _unreachable(source, error) from None
    except HfHubHTTPError as error:
        raise _refused(source, error) from None
    except Exception as error:
        # httpx2 in this version of the client, requests or httpx in others; all name their module.
        if type(error).__module__.partition(".")[0] in ("httpx2", "httpx", "httpcore", "requests"):
            raise _unreachable(source, error) from None
        raise


def _unreachable(source: Hub, error: Exception) -> TunelineError:
    where = _endpoint() or "https://huggingface.co"
    offline = "HF_HUB_OFFLINE is set; unset it, or " if os.environ.get("HF_HUB_OFFLINE") else ""
    return StageFailed(
        f"base: {source.repo}: cannot reach {where} ({type(error).__name__}); {offline}run the same command again "
        "once online: what is complete is kept.\nWithout network: copy the model's folder here and write `base: FOLDER`"
    )


def _refused(source: Hub, error: Any) -> TunelineError:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    status, page = error.response.status_code, f"https://huggingface.co/{source.repo}"
    set_token = f"`export {TOKEN_VARIABLE}=…` (make one at https://huggingface.co/settings/tokens)"
    if isinstance(error, RevisionNotFoundError):
        return NotFound(f"revision: {source.revision}: {source.repo} has no such commit; see {page}/commits/main")
    if isinstance(error, GatedRepoError):
        return BadRequest(f"base: {source.repo}: accept its licence at {page}, then {set_token} and run again")
    if status == 403:
        return BadRequest(
            f"base: {source.repo}: the token in {TOKEN_VARIABLE} may not read it (403); {set_token} that may"
        )
    if isinstance(error, RepositoryNotFoundError):  # the hub says 401 for what is private and for what is not there
        return NotFound(
            f"base: {source.repo}: no such model on the hub, or a private one; if it is private, {set_token}"
        )
    if status == 401:
        return BadRequest(f"base: {source.repo}: the token in {TOKEN_VARIABLE} is not valid (401); {set_token}")
    if status == 404:
        return NotFound(
            f"base: {source.repo}: no such model on the hub (404); look for it at https://huggingface.co/models"
        )
    return StageFailed(f"base: {source.repo}: the hub answered {status}; run the same command again later")


def _refuse_if_full(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StageFailed(
            f"{folder}: needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; make room, or set TUNELINE_MODELS"
        )


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StageFailed(f"{folder}: the disk is full; make room, or set TUNELINE_MODELS, and run again") from None


def _bytes_in(folder: Path) -> int:
    sizes = []
    for file in folder.rglob("*"):
        try:
            sizes.append(file.stat().st_size if file.is_file() else 0)
        except FileNotFoundError:
            continue  # renamed while we looked
    return sum(sizes)


@contextmanager
def _followed(folder: Path, total: int, events: Events) -> Iterator[None]:
    # The library's own progress bars count differently over HTTP and over Xet; bytes on disk are the same for both.
    stop = threading.Event()

    def follow() -> None:
        while not stop.wait(PROGRESS_S):
            events.progress(min(_bytes_in(folder), total), total, "bytes", "downloading")

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    events.progress(total, total, "bytes", "downloaded")
