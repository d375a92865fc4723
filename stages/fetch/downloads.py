"""The files of a repository brought here: several at a time, gone on with where they broke off, hashed on their way."""

import errno
import hashlib
import logging
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from tuneline.core.errors import StageFailed
from tuneline.core.events import Events
from tuneline.stages.fetch.hub_repository import HubFiles
from tuneline.stages.fetch.hub_requests import TRIES, endpoint, explained, in_short, passes, token, wait

WORKINGS = ".cache"
"""Inside the folder: what is not whole yet."""
PROGRESS_S = 2.0
PARALLEL = 8
"""Files at a time."""


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
    with explained(files.source), room(folder), _followed(folder, total, events), ThreadPoolExecutor(PARALLEL) as pool:
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
    url = hf_hub_url(source.repo, name, revision=source.revision, endpoint=endpoint())
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
                headers = build_hf_headers(token=token())
                http_get(url, cast(Any, writing), resume_size=begun, headers=headers, expected_size=size, _nb_retries=0)
                return str(writing.digest.hexdigest())
            except Exception as error:
                file.flush()
                if part.stat().st_size > begun:
                    failures = 0
                if stop.is_set() or not passes(error) or failures == TRIES - 1:
                    raise
                wait(failures, stop)
                failures += 1
                events.emit("warning", text=f"{name}: {in_short(error)}; goes on from {part.stat().st_size:,} bytes")


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


def refuse_if_full(folder: Path, needed: int) -> None:
    """Raise StageFailed if the disk has no room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StageFailed(
            f"{folder}: needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; make room, or set TUNELINE_MODELS"
        )


@contextmanager
def room(folder: Path) -> Iterator[None]:
    """Turns a disk that is full into what to do about it."""
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
