"""Download of a hub repository: several files at a time, resumed in the middle of a file, hashed while they arrive."""

import hashlib
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from tuneline.core.errors import StageFailed
from tuneline.core.events import Events
from tuneline.stages.fetch.disk_space import bytes_in, explained_disk_full, refuse_if_full
from tuneline.stages.fetch.hub_files import HubFiles
from tuneline.stages.fetch.hub_requests import (
    MAX_ATTEMPTS,
    endpoint,
    explained_refusals,
    is_transient,
    summarize_error,
    token,
    wait_before_retry,
)

PARTIAL_FILES = ".cache"
"""Subfolder of the model's folder that holds incomplete files."""
PROGRESS_S = 2.0
PARALLEL_FILES = 8


def download(files: HubFiles, folder: Path, events: Events) -> dict[str, str]:
    """Download the files into `folder`, verify them, and return the SHA-256 of those stored in LFS or Xet.

    Several files are downloaded at a time, over HTTP, which can resume in the middle of a file: after a broken
    connection, and in the next call after this one was killed. A file gets its name only once its hash is the hub's.

    Raises:
        StageFailed: the disk is full, or a file arrived three times with another hash than the hub's.
    """
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    logging.getLogger("huggingface_hub.file_download").setLevel(logging.ERROR)  # retries are reported as events
    (folder / PARTIAL_FILES).mkdir(exist_ok=True)
    total_bytes, stop = sum(files.sizes.values()), threading.Event()
    refuse_if_full(folder, total_bytes - bytes_in(folder))
    with (
        explained_refusals(files.source),
        explained_disk_full(folder),
        _reported_progress(folder, total_bytes, events),
    ):
        hashes = _download_all(files, folder, events, stop)
    return {name: digest for name, digest in hashes.items() if name in files.sha256}


def _download_all(files: HubFiles, folder: Path, events: Events, stop: threading.Event) -> dict[str, str]:
    """Download all files, largest first, and return their hashes; the first failure ends the others."""
    largest_first = sorted(files.sizes, key=lambda name: -files.sizes[name])
    with ThreadPoolExecutor(PARALLEL_FILES) as pool:
        jobs = {pool.submit(_download_file, name, files, folder, events, stop): name for name in largest_first}
        try:
            return {jobs[job]: job.result() for job in as_completed(jobs)}
        except BaseException:
            stop.set()  # the others end at their next chunk, which is kept
            pool.shutdown(wait=True, cancel_futures=True)
            raise


class _Stopped(Exception):
    """Another file failed."""


class HashingFile:
    """A partial file that hashes what is written to it: reading it again would take as long as the download."""

    def __init__(self, file: BinaryIO, empty_digest: Any, stop: threading.Event) -> None:
        self.file, self.empty_digest, self.digest, self.stop = file, empty_digest, empty_digest.copy(), stop

    def write(self, chunk: bytes) -> int:
        if self.stop.is_set():
            raise _Stopped
        self.digest.update(chunk)
        return self.file.write(chunk)

    def truncate(self) -> None:  # the hub did not resume in the middle: it sends the whole file again
        self.file.truncate()
        self.digest = self.empty_digest.copy()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def _download_file(name: str, files: HubFiles, folder: Path, events: Events, stop: threading.Event) -> str:
    """Download one file, verify it, give it its name, and return its hash."""
    target, part = folder / name, folder / PARTIAL_FILES / f"{name}.part"
    expected = files.sha256.get(name) or files.git_sha1.get(name)
    if target.exists() and _hash_file(target, files) == expected:
        return str(expected)
    for is_last_attempt in (False, False, True):
        digest = _download_part(name, files, part, events, stop)
        if digest == expected:
            part.replace(target)
            return digest
        part.unlink()
        if not is_last_attempt:
            events.emit("warning", text=f"{name}: its hash differs from the hub's; fetching it again")
    raise StageFailed(
        f"{target}: its hash is {digest}, but {files.source.repo} records {expected}, three times; removed.\n"
        "Something between this machine and the hub changes files: use another network and run the same command again"
    )


def _download_part(name: str, files: HubFiles, part: Path, events: Events, stop: threading.Event) -> str:
    """Download into `part`, resuming what it holds, until it has its full size; returns its hash."""
    failures = 0
    while True:
        start = _resume_offset(part, files.sizes[name])
        try:
            return _request_rest(name, files, part, start, stop)
        except Exception as error:
            if _size(part) > start:
                failures = 0
            if stop.is_set() or not is_transient(error) or failures == MAX_ATTEMPTS - 1:
                raise
            wait_before_retry(failures, stop)
            failures += 1
            text = f"{name}: {summarize_error(error)}; resuming at {_size(part):,} bytes"
            events.emit("warning", text=text)


def _resume_offset(part: Path, size: int) -> int:
    """Return how many bytes of a file are there; a part larger than the file is removed."""
    start = _size(part)
    if start > size:
        part.unlink()
        return 0
    return start


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _request_rest(name: str, files: HubFiles, part: Path, start: int, stop: threading.Event) -> str:
    """Append the bytes from `start` on to `part` in one request, and return the hash of the whole file."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    source, size = files.source, files.sizes[name]
    url = hf_hub_url(source.repo, name, revision=source.revision, endpoint=endpoint())
    with part.open("ab") as file:
        hashing_file = HashingFile(file, _new_digest(name, files), stop)
        if start:
            _update(hashing_file.digest, part)
        headers = build_hf_headers(token=token())
        http_get(url, cast(Any, hashing_file), resume_size=start, headers=headers, expected_size=size, _nb_retries=0)
        return str(hashing_file.digest.hexdigest())


def _hash_file(path: Path, files: HubFiles) -> str:
    digest = _new_digest(path.name, files)
    _update(digest, path)
    return str(digest.hexdigest())


def _new_digest(name: str, files: HubFiles) -> Any:
    """Return SHA-256 for files that the hub records it for; for others git's SHA-1, which begins with the size."""
    if name in files.sha256:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % files.sizes[name], usedforsecurity=False)


def _update(digest: Any, path: Path) -> None:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)


@contextmanager
def _reported_progress(folder: Path, total_bytes: int, events: Events) -> Iterator[None]:
    """Report progress as bytes on disk, with the speed of this call and the time that remains."""
    stop, bytes_before, started = threading.Event(), bytes_in(folder), time.monotonic()

    def report() -> None:
        while not stop.wait(PROGRESS_S):
            on_disk = min(bytes_in(folder), total_bytes)
            speed = max(0, on_disk - bytes_before) / (time.monotonic() - started)
            remaining = f", {_format_duration((total_bytes - on_disk) / speed)} left" if speed else ""
            events.progress(on_disk, total_bytes, "bytes", f"downloading, {speed / 1e6:.1f} MB/s{remaining}")

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    speed = max(0, total_bytes - bytes_before) / max(time.monotonic() - started, 1e-3)
    events.progress(total_bytes, total_bytes, "bytes", f"downloaded and verified, {speed / 1e6:.1f} MB/s")


def _format_duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )
