"""Uploads to hosts of our own: how near they come to a cap of 200 MB/s, what memory they take, what a break repeats.

The host is a process of its own that reads at most 200 MB/s over all connections. Three ways: `s3` (s3fs, parts of
16 MiB with SHA-256), `stream` (one request, as Ollama and Fireworks take it) and `hub` (huggingface_hub, 16 MiB too).
Speed: seconds of hashing the file and uploading it, in a new process; the best of the rounds, and the median, and the
processor's seconds for 10^9 bytes, which depend less on what else the machine does. Memory: by how much the peak grows
from a file of a quarter of the size. Breaks: every connection is closed at a random place; the same call again sends
the rest, and what was received more than once is counted in parts.

    python benchmarks/publish.py [--megabytes 800] [--rounds 3] [--breaks 10]
"""

import argparse
import hashlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

sys.path[0] = str(Path(__file__).parents[1])
from benchmarks.common.rounds import print_result

CAP, PIECE, PART = 200e6, 1 << 20, 16 << 20
WAYS = ("s3", "stream", "hub")
TARGETS = {"of_the_cap": 0.9, "memory_growth_mb": 32, "parts_repeated": 1}
KEY = "key-of-the-benchmark"


class Pace:
    """Lets through so many bytes a second."""

    def __init__(self, bytes_per_second: float) -> None:
        self._seconds_per_byte, self._free_at, self._lock = 1 / bytes_per_second, 0.0, threading.Lock()

    def wait(self, amount: int) -> None:
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic() - 0.05) + amount * self._seconds_per_byte
            delay = self._free_at - time.monotonic()
        if delay > 0:
            time.sleep(delay)


class Host:
    """S3's uploads in parts, the hub's LFS, and a path that takes a stream; contents are counted and thrown away."""

    def __init__(self) -> None:
        self.pace, self.received, self.breaks_at = Pace(CAP), 0, None  # type: ignore[var-annotated]
        self.parts: dict[str, dict[int, str]] = {}
        self.metadata: dict[str, dict[str, str]] = {}
        host = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version, wbufsize = "HTTP/1.1", 1 << 16

            def log_message(self, *_: Any) -> None:
                pass

            def _serve(self) -> None:
                if self.headers.get("Expect"):
                    self.send_response_only(100)
                    self.end_headers()
                    self.wfile.flush()
                body = self._read()
                if body is None:
                    self.close_connection = True
                    return self.connection.close()
                status, content, headers = host.answer(self.command, self.path, dict(self.headers), body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content if self.command != "HEAD" else b"")

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

            def _read(self) -> bytes | None:
                remaining, kept = int(self.headers.get("Content-Length") or 0), []
                digest = hashlib.md5(usedforsecurity=False) if "partNumber" in self.path else None
                is_small = remaining < PIECE
                while remaining:
                    piece = self.rfile.read(min(PIECE, remaining))
                    if not piece:
                        return None
                    host.pace.wait(len(piece))
                    host.received += len(piece)
                    remaining -= len(piece)
                    if digest:
                        digest.update(piece)
                    if is_small:
                        kept.append(piece)
                    is_upload = self.path != "/control"
                    if is_upload and host.breaks_at is not None and host.received > host.breaks_at:
                        return None
                self.digest = digest.hexdigest() if digest else ""
                return b"".join(kept) if is_small else self.digest.encode()

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes, dict[str, str]]:
        parts = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        if parts.path == "/control":
            state = json.loads(body)
            self.breaks_at = state["breaks_at"]
            before, self.received = self.received, 0
            return 200, json.dumps(before).encode(), {}
        if parts.path.startswith("/bucket"):
            return self._answer_s3(method, parts.path, query, headers, body)
        if parts.path.endswith("/objects/batch"):
            return 200, json.dumps({"transfer": "multipart", "objects": self._actions(json.loads(body))}).encode(), {}
        if "/preupload/" in parts.path:
            files = [
                {"path": file["path"], "uploadMode": "lfs", "shouldIgnore": False, "oid": None}
                for file in json.loads(body)["files"]
            ]
            return 200, json.dumps({"files": files}).encode(), {}
        return 404 if method == "HEAD" else 200, b"{}", {"ETag": '"part"'}

    def _actions(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        actions = []
        for entry in batch["objects"]:
            numbers = range(1, -(-entry["size"] // PART) + 1)
            header = {str(n): f"{self.url}/part/{entry['oid']}/{n}" for n in numbers} | {"chunk_size": str(PART)}
            actions.append(entry | {"actions": {"upload": {"href": f"{self.url}/complete", "header": header}}})
        return actions

    def _answer_s3(
        self, method: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        """https://docs.aws.amazon.com/AmazonS3/latest/API: the five calls of an upload in parts."""
        xml = {"Content-Type": "application/xml"}
        upload = query.get("uploadId", "")
        if method == "HEAD":
            return (200, b"", self.metadata[path]) if path in self.metadata else (404, b"", {})
        if method == "POST" and "uploads" in query:
            upload = f"u{len(self.parts)}"
            self.parts[upload] = {}
            digest = {name: value for name, value in headers.items() if name.lower().startswith("x-amz-meta-")}
            self.metadata[upload] = digest
            answer = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            return 200, answer.encode(), xml
        if method == "PUT" and "partNumber" in query:
            self.parts[upload][int(query["partNumber"])] = body.decode()
            return 200, b"", {"ETag": f'"{body.decode()}"'}
        if method == "GET":
            entries = "".join(
                f"<Part><PartNumber>{number}</PartNumber><ETag>&quot;{tag}&quot;</ETag><Size>1</Size></Part>"
                for number, tag in self.parts[upload].items()
            )
            answer = f"<ListPartsResult><IsTruncated>false</IsTruncated>{entries}</ListPartsResult>"
            return 200, answer.encode(), xml
        if method == "POST":
            self.metadata[path] = self.metadata[upload]
            return 200, b"<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>", xml
        return 200, b"", {}


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--megabytes", type=int, default=800)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--breaks", type=int, default=10)
    arguments.add_argument("--role", default="")
    arguments.add_argument("words", nargs="*")
    chosen = arguments.parse_args()
    if chosen.role == "host":
        host = Host()
        print(host.url, flush=True)
        return host.server.serve_forever()
    if chosen.role == "upload":
        return upload(*chosen.words)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TUNELINE_SCRATCH")) as folder:
        command = [sys.executable, __file__, "--role", "host"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            url = process.stdout.readline().strip()
            try:
                measure(Path(folder), url, chosen)
            finally:
                process.kill()


def measure(folder: Path, url: str, chosen: argparse.Namespace) -> None:
    whole, quarter = make_file(folder, chosen.megabytes), make_file(folder, chosen.megabytes // 4)
    result: dict[str, Any] = {"megabytes": chosen.megabytes, "cap_mb_per_s": CAP / 1e6, "ways": {}}
    for way in WAYS:
        small = run_upload(way, url, quarter, folder)
        large = [run_upload(way, url, whole, folder) for _ in range(chosen.rounds)]
        shares = sorted(whole.stat().st_size / row["seconds"] / CAP for row in large)
        result["ways"][way] = {
            "of_the_cap": round(shares[-1], 3),
            "median": round(statistics.median(shares), 3),
            "cpu_s_per_gb": round(min(row["cpu_s"] for row in large) / whole.stat().st_size * 1e9, 2),
            "hashing_s": round(min(row["hashing_s"] for row in large), 2),
            "peak_mb": round(max(row["peak_mb"] for row in large)),
            "memory_growth_mb": round(max(row["peak_mb"] for row in large) - small["peak_mb"]),
        }
        print(way, result["ways"][way], flush=True)
    repeats = [break_upload("s3", url, quarter, folder, seed) for seed in range(chosen.breaks)]
    figures = {
        "of_the_cap": min(way["of_the_cap"] for way in result["ways"].values()),
        "memory_growth_mb": max(way["memory_growth_mb"] for way in result["ways"].values()),
        "parts_repeated": round(max(repeats), 2),
    }
    met = figures["of_the_cap"] >= TARGETS["of_the_cap"] and all(
        figures[name] <= TARGETS[name] for name in ("memory_growth_mb", "parts_repeated")
    )
    more = {name: value for name, value in figures.items() if name != "of_the_cap"}
    print_result(
        "publish", figures["of_the_cap"], TARGETS["of_the_cap"], met=met, breaks=len(repeats), **more, **result
    )


def make_file(folder: Path, megabytes: int) -> Path:
    """A file whose pieces differ from one another."""
    file, block = folder / f"{megabytes}.gguf", os.urandom(1_000_000)
    with file.open("wb") as sink:
        for number in range(megabytes):
            sink.write(number.to_bytes(8, "little") + block[8:])
    return file


def run_upload(way: str, url: str, file: Path, folder: Path, *, may_fail: bool = False) -> dict[str, float]:
    """Upload in a new process, which has hashed nothing yet; return its seconds and its peak of memory."""
    command = [sys.executable, __file__, "--role", "upload", "--", way, url, str(file), str(folder)]
    environment = os.environ | {
        "TUNELINE_CACHE": tempfile.mkdtemp(dir=folder),
        "AWS_ENDPOINT_URL_S3": url,
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "HF_TOKEN": KEY,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode and not may_fail:
        raise SystemExit(done.stderr[-3000:])
    return dict(json.loads(done.stdout.splitlines()[-1])) if not done.returncode else {}


def break_upload(way: str, url: str, file: Path, folder: Path, seed: int) -> float:
    """Return how many parts were received more than once after a break at a random place."""
    rename = file.with_name(f"break-{seed}.gguf")
    rename.hardlink_to(file)
    size = file.stat().st_size
    set_break(url, int(random.Random(seed).uniform(0.1, 0.9) * size))
    run_upload(way, url, rename, folder, may_fail=True)
    before = set_break(url, None)
    run_upload(way, url, rename, folder)
    after = set_break(url, None)
    return (before + after - size) / PART


def set_break(url: str, place: int | None) -> int:
    """Set after how many bytes connections break; return how many were received since the last call."""
    import urllib.request

    body = json.dumps({"breaks_at": place}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{url}/control", body)) as answer:
        return int(json.loads(answer.read()))


def upload(way: str, url: str, name: str, folder: str) -> None:
    """Hash the file and upload it, as publishing does; print seconds and memory."""
    from tuneline.configs.hosts import Host as Described
    from tuneline.core.hash_cache import cached_sha256
    from tuneline.publish import hub, storage
    from tuneline.publish.http_api import HttpApi
    from tuneline.publish.run_files import RunFile

    path = Path(name)
    prepare(way)
    started, cpu_started = time.monotonic(), time.process_time()
    file = RunFile(path.name, path, cached_sha256(path), path.stat().st_size)
    hashed = time.monotonic()
    if way == "s3":
        storage.upload_file(
            file, f"s3://bucket/{os.getpid() if 'break' not in name else 'b'}/{path.name}", Path(folder)
        )
    elif way == "stream":
        HttpApi(Described(title="host", api=url), needs_key=False).upload("POST", "/blob", path)
    else:
        from huggingface_hub import HfApi

        HfApi(endpoint=url, token=KEY).preupload_lfs_files("you/demo", [hub.to_addition(file)])
    seconds, cpu_s = time.monotonic() - started, time.process_time() - cpu_started
    peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text("utf-8"))[1])  # type: ignore[index]
    print(json.dumps({"seconds": seconds, "cpu_s": cpu_s, "hashing_s": hashed - started, "peak_mb": peak / 1e3}))


def prepare(way: str) -> None:
    """Import what a way needs; a publication has it already."""
    if way == "s3":
        from tuneline.publish import storage

        storage.remove_file("s3://bucket/nothing")  # makes the client, which takes as long as some megabytes
    else:
        import httpx2  # noqa: F401
        import huggingface_hub.lfs  # noqa: F401


if __name__ == "__main__":
    main()
