"""The hub's side of fetch: what a repository holds at a commit, downloaded, verified, and its refusals explained."""

import errno
import hashlib
import logging
import os
import random
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from configs.models import FAMILIES
from stages.errors import BadRecipe, BadRequest, NotFound, StageFailed, TunelineError
from stages.events import Events

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")
TOKEN_VARIABLE = "HF_TOKEN"
WORKINGS = ".cache"
"""Inside the folder: what is not whole yet."""
PROGRESS_S = 2.0
PARALLEL = 8
"""Files at a time."""
TRIES, FIRST_WAIT_S = 6, 1.0
"""So many in a row without a new byte, waiting longer each time: half a minute together."""
ANSWER_S = 30.0
"""That the hub may take to say what it has."""


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
            api = HfApi(endpoint=_endpoint(), token=_token())
            info = _asked(
                lambda: api.model_info(source.repo, revision=source.revision, files_metadata=True, timeout=ANSWER_S)
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


def commit_of(repo: str, revision: str | None) -> str:
    """The commit a branch or tag of `repo` is at now; the main branch's, if none is named.

    Raises:
        As `fetch`, for what the hub refuses.
    """
    from huggingface_hub import HfApi

    source, api = Hub(repo, revision or "main"), HfApi(endpoint=_endpoint(), token=_token())
    with _explained(source):
        info = _asked(lambda: api.model_info(repo, revision=source.revision, timeout=ANSWER_S))
    return str(info.sha)


def download(files: HubFiles, folder: Path, events: Events) -> dict[str, str]:
    """The taken files in `folder`, verified, and the SHA-256 of those whose bytes were looked at.

    Several at a time, over HTTP, which can go on in the middle of a file: after a broken connection, and in the next
    call after this one was killed. A file has its name only once its hash is the hub's.
    """
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    logging.getLogger("huggingface_hub.file_download").setLevel(logging.ERROR)  # we tell of retries ourselves
    (folder / WORKINGS).mkdir(exist_ok=True)
    total, stop = sum(files.sizes.values()), threading.Event()
    refuse_if_full(folder, total - bytes_in(folder))
    largest_first = sorted(files.sizes, key=lambda name: -files.sizes[name])
    with _explained(files.source), room(folder), _followed(folder, total, events), ThreadPoolExecutor(PARALLEL) as pool:
        jobs = {pool.submit(_bring, name, files, folder, events, stop): name for name in largest_first}
        try:
            hashed = {jobs[job]: job.result() for job in as_completed(jobs)}
        except BaseException:
            stop.set()  # the others end at their next piece, which stays
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return {name: found for name, found in hashed.items() if name in files.sha256}


class _Stopped(Exception):
    """Another file failed."""


class _Part:
    """A file that is being downloaded: what is written is hashed on its way, as reading it again would take as long."""

    def __init__(self, file: BinaryIO, digest: Any, stop: threading.Event) -> None:
        self.file, self.begun, self.digest, self.stop = file, digest, digest.copy(), stop

    def write(self, piece: bytes) -> int:
        if self.stop.is_set():
            raise _Stopped
        self.digest.update(piece)
        return self.file.write(piece)

    def truncate(self) -> None:  # the hub did not go on in the middle: all comes anew
        self.file.truncate()
        self.digest = self.begun.copy()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def _bring(name: str, files: HubFiles, folder: Path, events: Events, stop: threading.Event) -> str:
    """One file under its name, its hash the hub's; that hash."""
    target, part = folder / name, folder / WORKINGS / f"{name}.part"
    wanted = files.sha256.get(name) or files.git.get(name)
    if target.exists() and _hash_of(target, files) == wanted:
        return str(wanted)
    for last in (False, False, True):
        found = _whole(name, files, part, events, stop)
        if found == wanted:
            part.replace(target)
            return found
        part.unlink()
        if not last:
            events.emit("warning", text=f"{name}: came with another hash than the hub's; fetched again")
    raise StageFailed(
        f"{target}: its hash is {found}, but {files.source.repo} records {wanted}, three times; removed.\n"
        "Something between here and the hub changes files: try another network, and run the same command again"
    )


def _whole(name: str, files: HubFiles, part: Path, events: Events, stop: threading.Event) -> str:
    """Download into `part`, going on from what is there, until it has its size; its hash."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    source, size = files.source, files.sizes[name]
    url = hf_hub_url(source.repo, name, revision=source.revision, endpoint=_endpoint())
    failures = 0
    while True:
        begun = part.stat().st_size if part.exists() else 0
        if begun > size:
            part.unlink()
            begun = 0
        digest = _digest(name, files)
        with part.open("ab") as file:
            writing = _Part(file, digest, stop)
            if begun:
                _update(writing.digest, part)
            try:
                headers = build_hf_headers(token=_token())
                http_get(url, cast(Any, writing), resume_size=begun, headers=headers, expected_size=size, _nb_retries=0)
                return str(writing.digest.hexdigest())
            except Exception as error:
                file.flush()
                if part.stat().st_size > begun:
                    failures = 0
                if stop.is_set() or not _passes(error) or failures == TRIES - 1:
                    raise
                _wait(failures, stop)
                failures += 1
                events.emit("warning", text=f"{name}: {_in_short(error)}; goes on from {part.stat().st_size:,} bytes")


def _asked(call: Callable[[], Any]) -> Any:
    """What the hub answers, asked again where that helps; a network that is not there is said at once."""
    for failures in range(TRIES):
        try:
            return call()
        except Exception as error:
            there = hasattr(error, "response") or type(error).__name__ in ("ReadTimeout", "RemoteProtocolError")
            if failures == TRIES - 1 or not there or not _passes(error):
                raise
        _wait(failures, threading.Event())
    raise AssertionError("unreachable")


def _passes(error: Exception) -> bool:
    """Whether the same request may succeed a moment later."""
    response = getattr(error, "response", None)
    if response is not None:
        return response.status_code in (408, 416, 429, 500, 502, 503, 504)
    return _is_of_the_network(error) or "Consistency check failed" in str(error)


def _wait(failures: int, stop: threading.Event) -> None:
    stop.wait(FIRST_WAIT_S * 2**failures * random.uniform(0.75, 1.25))


def _in_short(error: Exception) -> str:
    response = getattr(error, "response", None)
    return f"the hub answered {response.status_code}" if response is not None else type(error).__name__


def _hash_of(path: Path, files: HubFiles) -> str:
    digest = _digest(path.name, files)
    _update(digest, path)
    return str(digest.hexdigest())


def _digest(name: str, files: HubFiles) -> Any:
    """SHA-256 where the hub has one; of its other files git's, which begins with the size."""
    if name in files.sha256:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % files.sizes[name], usedforsecurity=False)


def _update(digest: Any, path: Path) -> None:
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)


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
        if _is_of_the_network(error):
            raise _unreachable(source, error) from None
        raise


def _is_of_the_network(error: Exception) -> bool:
    # httpx2 in this version of the client, requests or httpx in others; all name their module.
    return type(error).__module__.partition(".")[0] in ("httpx2", "httpx", "httpcore", "requests")


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


def bytes_in(folder: Path) -> int:
    """Of all files under a folder that may be written to at this moment."""
    sizes = []
    for file in folder.rglob("*"):
        try:
            sizes.append(file.stat().st_size if file.is_file() else 0)
        except FileNotFoundError:
            continue  # renamed while we looked
    return sum(sizes)


@contextmanager
def _followed(folder: Path, total: int, events: Events) -> Iterator[None]:
    """Progress as bytes on disk, with the speed of this call and what is left of it."""
    stop, begun, started = threading.Event(), bytes_in(folder), time.monotonic()

    def follow() -> None:
        while not stop.wait(PROGRESS_S):
            done = min(bytes_in(folder), total)
            speed = max(0, done - begun) / (time.monotonic() - started)
            left = f", {_minutes((total - done) / speed)} left" if speed else ""
            events.progress(done, total, "bytes", f"downloading, {speed / 1e6:.1f} MB/s{left}")

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    speed = max(0, total - begun) / max(time.monotonic() - started, 1e-3)
    events.progress(total, total, "bytes", f"downloaded and verified, {speed / 1e6:.1f} MB/s")


def _minutes(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )
