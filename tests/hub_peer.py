"""A hub on this machine: an HTTP server with the part of its API that the real client calls."""

import hashlib
import json
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tuneline.core.paths import ROOT
from tuneline.stages.checkpoints.expected_weights import expected_weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SIZES = {"vocab_size": 4096, "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 1}
CONFIG = {"model_type": "llama", "num_hidden_layers": 1, "tie_word_embeddings": True, **SIZES}


def weights(filler: bytes) -> bytes:
    """Return a safetensors file with the weights of such a model, all of the same bytes."""
    header: dict[str, Any] = {}
    size = 0
    for name, shape in expected_weights(CONFIG).items():
        count = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [size, size + count]}
        size += count
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + filler * (size // len(filler))


FILES = {
    "config.json": json.dumps(CONFIG).encode(),
    "tokenizer.json": (ROOT / "data/tiny/tokenizer.json").read_bytes(),
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors": weights(bytes(range(256))),
}


class Hub:
    """Speaks the part of the hub's API that the client calls: model info, tree, HEAD and GET of files with ranges."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, str]] = []  # repository, file, range
        self.drop_once, self.stall_once = {"acme/dropped"}, {"acme/slow"}
        self.keys: set[str | None] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def log_message(self, *_: Any) -> None:
                pass

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.httpd.server_port}"
        threading.Thread(target=self.httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def files(self, repository: str) -> dict[str, bytes]:
        files = dict(FILES)
        if repository == "acme/pickles":
            files["pytorch_model.bin"] = files.pop("model.safetensors")
        if repository in ("acme/dropped", "acme/slow"):
            files["model.safetensors"] *= 24  # the client keeps what came in whole pieces of 10 MB
        if repository == "acme/gpt":
            files["config.json"] = b'{"model_type": "gpt2"}'
        if repository in ("acme/clutter", "acme/nested"):
            files |= {
                "original/weights.safetensors": b"other",
                "params.json": b"{}",  # of the maker's own layout
                "pytorch_model.bin.index.json": b"{}",
                "tokenizer.pkl": b"pickle",
                "tokenizer_x.py": b"import os",
            }
        if repository == "acme/nested":
            del files["model.safetensors"]
        return files | {"modeling.py": b"import os", "README.md": b"x"}

    def answer(self, http: BaseHTTPRequestHandler, *, body: bool) -> None:
        self.keys.add(http.headers["Authorization"])
        path = http.path.partition("?")[0].strip("/").split("/")
        if path[0] == "api":
            return self.describe(http, "/".join(path[2:4]), path[4])
        repository, name = "/".join(path[:2]), "/".join(path[4:])
        content = self.files(repository)[name]
        if repository == "acme/wrong" and name == "model.safetensors":
            content = content[:-1] + b"!"
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(self.files(repository)[name]).hexdigest()}"'}
        start = int((http.headers["Range"] or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        headers["Content-Length"] = str(len(content) - start)
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.head(http, 206 if start else 200, headers)
        if body:
            self.sent.append((repository, name, http.headers["Range"] or ""))
            self.write(http, repository, name, content[start:])

    def write(self, http: BaseHTTPRequestHandler, repository: str, name: str, content: bytes) -> None:
        if name == "model.safetensors" and repository in self.drop_once:
            self.drop_once.remove(repository)
            http.wfile.write(content[: len(content) // 2])
            http.close_connection = True
            http.connection.shutdown(2)
            return
        if name == "model.safetensors" and repository in self.stall_once:
            self.stall_once.remove(repository)
            http.wfile.write(content[: len(content) // 2])
            time.sleep(60)
        http.wfile.write(content)

    def describe(self, http: BaseHTTPRequestHandler, repository: str, what: str) -> None:
        refusals = {
            "acme/gone": (404, "RepoNotFound", ""),
            "acme/private": (401, "RepoNotFound", ""),
            "acme/badtoken": (401, "", "Invalid credentials in Authorization header"),
            "acme/gated": (403, "GatedRepo", ""),
            "acme/norevision": (404, "RevisionNotFound", ""),
            "acme/down": (500, "", ""),
        }
        if repository in refusals:
            status, code, message = refusals[repository]
            self.head(http, status, {"X-Error-Code": code, "X-Error-Message": message, "Content-Length": "0"})
            return
        listed: list[dict[str, Any]] = []
        for name, content in self.files(repository).items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            sha = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            lfs = {"lfs": {**sha, "oid": sha["sha256"]}} if name.endswith((".safetensors", ".bin")) else {}
            shared = {"size": len(content), **lfs}
            info, tree = {"rfilename": name, "blobId": blob}, {"type": "file", "path": name, "oid": blob}
            listed.append({**shared, **(info if what == "revision" else tree)})
        answer = {"id": repository, "sha": COMMIT, "siblings": listed} if what == "revision" else listed
        text = json.dumps(answer).encode()
        self.head(http, 200, {"Content-Length": str(len(text)), "Content-Type": "application/json"})
        http.wfile.write(text)

    def head(self, http: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
        http.send_response(status)
        for name, value in headers.items():
            if value:
                http.send_header(name, value)
        http.end_headers()
