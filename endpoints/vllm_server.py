"""vLLM for one base and its promoted adapters, or for one merged model: started, awaited, stopped."""

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from endpoints.llama_server import Server, await_health, free_port, stop
from stages.errors import NotFound, StageFailed

STARTS_WITHIN_S = 1200
ADAPTER_WITHIN_S = 120
LLAMA_4, PLUGIN = "tuneline_llama4", Path(__file__).with_name("llama4_calls.py")
"""The parser of ours, and the file vLLM has it from."""
MAX_LORA_RANK = 128
"""vLLM takes fixed values; a higher rank is refused before training."""


@contextlib.contextmanager
def serving(
    model: Path,
    *,
    alias: str,
    log: Path,
    context: int,
    template: Path | None = None,
    parser: str = "llama3_json",
    adapters: Mapping[str, Path] | None = None,
    gpus: int = 1,
    fast_boot: bool = True,
) -> Iterator[Server]:
    """A vLLM for `model`, and `adapters` by name beside it, until the block ends.

    `context` is in tokens. `fast_boot` leaves CUDA graphs out: half the start, some of the speed.

    Raises:
        NotFound: no such model. StageFailed: it did not start.
    """
    if not model.exists():
        raise NotFound(f"{model}: no such model; run `tuneline convert RECIPE` first")
    port = free_port("127.0.0.1")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(model, alias, port, context, template, parser, adapters or {}, gpus, fast_boot),
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "PYTHONPATH": _ours_too()},
        )
    try:
        await_health(process, f"http://127.0.0.1:{port}", log, time.monotonic() + STARTS_WITHIN_S)
        yield Server(f"http://127.0.0.1:{port}/v1", process)
    finally:
        stop(process)


def load_adapter(server: Server, name: str, adapter: Path) -> None:
    """Put one more adapter into a vLLM that runs (docs.vllm.ai, "LoRA Adapters").

    Raises:
        StageFailed: it did not take it.
    """
    _post(server, "load_lora_adapter", {"lora_name": name, "lora_path": str(adapter)})


def unload_adapter(server: Server, name: str) -> None:
    """Take it out again; of a server that is gone nothing is asked."""
    with contextlib.suppress(StageFailed):
        _post(server, "unload_lora_adapter", {"lora_name": name})


def _post(server: Server, path: str, body: dict[str, str]) -> None:
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"{server.base_url}/{path}", data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=ADAPTER_WITHIN_S):
            return
    except urllib.error.HTTPError as error:
        raise StageFailed(f"vLLM: {path} {body['lora_name']}: {error.code}: {error.read().decode()[:300]}") from None
    except (urllib.error.URLError, TimeoutError) as error:
        raise StageFailed(f"vLLM: {path} {body['lora_name']}: {error}") from None


def _ours_too() -> str:
    """The caller's PYTHONPATH with our own folder, where the plugin finds us."""
    return os.pathsep.join(filter(None, (str(PLUGIN.parents[1]), os.environ.get("PYTHONPATH"))))


def command(
    model: Path,
    alias: str,
    port: int,
    context: int,
    template: Path | None,
    parser: str,
    adapters: Mapping[str, Path],
    gpus: int,
    fast_boot: bool,
) -> list[str]:
    """The words vLLM is started with (docs.vllm.ai, `vllm serve`, 0.32)."""
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    words += ["--served-model-name", alias, "--host", "127.0.0.1", "--port", str(port)]
    words += ["--max-model-len", str(context), "--tensor-parallel-size", str(gpus), "--enable-prefix-caching"]
    words += ["--enable-auto-tool-choice", "--tool-call-parser", parser]
    if parser == LLAMA_4:
        words += ["--tool-parser-plugin", str(PLUGIN)]
    if template:
        words += ["--chat-template", str(template)]
    if fast_boot:
        words += ["--enforce-eager"]
    if adapters:
        words += ["--enable-lora", "--max-lora-rank", str(MAX_LORA_RANK), "--lora-modules"]
        words += [f"{name}={path}" for name, path in adapters.items()]
    return words
