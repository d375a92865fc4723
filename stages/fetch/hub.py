"""The hub's side of fetch: what a repository holds at a commit, downloaded, verified, and its refusals explained."""

import errno
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.models import FAMILIES
from stages import artifact
from stages.errors import BadRecipe, BadRequest, NotFound, StageFailed, TunelineError
from stages.events import Events

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")
TOKEN_VARIABLE = "HF_TOKEN"
WORKINGS = ".cache"
"""Where the hub's client keeps, inside the folder, what it needs to go on after an interruption."""
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


def pinned(repo: str, revision: str | None, folder: Path) -> str:
    """`revision` if it is a whole commit, else BadRecipe; `folder` is where `repo` would be on this machine."""
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


@dataclass(frozen=True)
class HubFiles:
    """What the hub says it holds at a commit: all names, and sizes and hashes of the files taken."""

    source: Hub
    names: list[str]
    family: Any
    """`model_type`, or one of ours where the hub does not say: the downloaded config.json is looked at again."""
    sizes: dict[str, int]
    sha256: dict[str, str]
    """Of files kept in LFS or Xet."""
    git: dict[str, str]
    """Of the others: SHA-1 of git's blob."""

    @classmethod
    def listed(cls, source: Hub, is_taken: Callable[[str], bool]) -> "HubFiles":
        from huggingface_hub import HfApi

        with _explained(source):
            info = HfApi(endpoint=_endpoint(), token=_token()).model_info(
                source.repo, revision=source.revision, files_metadata=True
            )
        siblings = info.siblings or []
        taken = [s for s in siblings if is_taken(s.rfilename)]
        return cls(
            source,
            names=[s.rfilename for s in siblings],
            family=(info.config or {}).get("model_type", FAMILIES[0]),
            sizes={s.rfilename: s.size or 0 for s in taken},
            sha256={s.rfilename: s.lfs.sha256 for s in taken if s.lfs},
            git={s.rfilename: s.blob_id for s in taken if s.blob_id and not s.lfs},
        )


def refuse_family(where: str, family: Any) -> None:
    """Raise BadRecipe unless `family` is one that Tuneline trains."""
    if family not in FAMILIES:
        raise BadRecipe(f"{where} {family!r}: Tuneline trains Llamas only ({', '.join(FAMILIES)})")


def download(files: HubFiles, folder: Path, events: Events) -> None:
    """The taken files in `folder`, verified; what an interrupted call left there is kept."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    for orphan in (folder / WORKINGS).rglob("*.incomplete"):
        orphan.unlink()  # of a killed process; the library starts that file anew, finished files stay
    total = sum(files.sizes.values())
    refuse_if_full(folder, total - _bytes_in(folder))
    with _explained(files.source), room(folder), _followed(folder, total, events):
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


def _verify(path: Path, files: HubFiles) -> None:
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


def refuse_if_full(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StageFailed(
            f"{folder}: needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; make room, or set TUNELINE_MODELS"
        )


@contextmanager
def room(folder: Path) -> Iterator[None]:
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
