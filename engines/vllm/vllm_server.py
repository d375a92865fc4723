"""vLLM, started for one base and its adapters, or for one merged model.

It may be installed in a Python environment of its own (docs/vllm.md): only its executable is called.
"""

import contextlib
import json
import os
import re
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from tuneline.core.child_processes import python_path
from tuneline.core.environment import read_variable
from tuneline.core.errors import NotFound, StageFailed
from tuneline.engines.server import Server, free_port, start_process, stop, wait_until_ready
from tuneline.engines.vllm.compilation import WITHOUT_NVCC, choose_attention_arguments
from tuneline.engines.vllm.lora_ranks import MAX_LORA_RANK
from tuneline.engines.vllm.tool_parsers import LLAMA_3, LLAMA_4, LLAMA_4_PLUGIN

START_TIMEOUT_S = 1200
STOP_GRACE_S = 20
ADAPTER_TIMEOUT_S = 120
MAX_LORAS = 2
"""Adapters that answer at the same time, each with its memory; with vLLM's one, requests to two names wait in turn."""
GPU_SHARE = "TUNELINE_GPU_SHARE"
"""Environment variable with the share of a GPU's memory for each vLLM, where several are on one; vLLM's own is 0.9."""
EXECUTABLE = "TUNELINE_VLLM"
"""Environment variable with the path of vLLM's executable."""
HOST = "127.0.0.1"
CAUSES_SHOWN = 4
_CAUSE = re.compile(r"\b[A-Z]\w*(?:Error|Exception): .*|\berror: .*")
_POINTER_TO_CAUSE = "See root cause above"


def find_vllm() -> Path | None:
    """Return vLLM's executable: the one `TUNELINE_VLLM` names, else this Python's, else PATH's; None if there is none.

    Raises:
        NotFound: `TUNELINE_VLLM` names no file.
    """
    if configured := read_variable(EXECUTABLE):
        if not Path(configured).is_file():
            raise NotFound(
                f"{EXECUTABLE}={configured}: no such file; docs/vllm.md says how to make an environment with vLLM"
            )
        return Path(configured)
    beside_python, on_path = Path(sys.executable).with_name("vllm"), shutil.which("vllm")
    return beside_python if beside_python.is_file() else Path(on_path) if on_path else None


def vllm_version() -> str:
    """Return the version of the vLLM that `find_vllm` finds, from its environment's metadata; `unknown` without any."""
    vllm = find_vllm()
    found = sorted(vllm.resolve().parents[1].glob("lib/python3*/site-packages/vllm-*.dist-info")) if vllm else []
    return found[0].name.removeprefix("vllm-").removesuffix(".dist-info") if found else "unknown"


@contextlib.contextmanager
def start_vllm(
    model: Path,
    *,
    alias: str,
    log: Path,
    context: int,
    parser: str | None = LLAMA_3,
    adapters: Mapping[str, Path] | None = None,
    rank: int = MAX_LORA_RANK,
    gpus: int = 1,
    fast_boot: bool = True,
) -> Iterator[Server]:
    """Run a vLLM for `model` until the block ends. A request may bring a `chat_template` of its own.

    Args:
        alias: the model's name in requests.
        log: the file that receives what the server prints.
        context: tokens that a request and its answer may take.
        parser: vLLM's tool parser; None leaves tool calls in the text.
        adapters: folders of LoRA adapters, by the name that requests use.
        rank: the highest rank an adapter may have.
        gpus: GPUs for tensor parallelism.
        fast_boot: whether to leave CUDA graphs out: half the start-up time, for some of the speed.

    Raises:
        NotFound: no such model, or vLLM is not installed.
        StageFailed: the server did not start.
    """
    if not model.exists():
        raise NotFound(f"{model}: no such model; run `tuneline convert RECIPE` first")
    vllm = find_vllm()
    if vllm is None:
        raise NotFound(f"vLLM was not found: it is not on PATH, and {EXECUTABLE} is not set; see docs/vllm.md")
    port = free_port(HOST)
    arguments = serve_arguments(model, alias, port, context, parser, adapters or {}, rank, gpus, fast_boot)
    arguments += [*_choose_memory_arguments(), *choose_attention_arguments()]
    process = start_process([str(vllm), *arguments], log, _environment(), own_session=True)
    try:
        try:
            wait_until_ready(process, f"http://{HOST}:{port}", log, START_TIMEOUT_S)
        except StageFailed as error:
            raise StageFailed(_append_causes(str(error), log)) from None
        yield Server(f"http://{HOST}:{port}/v1", process)
    finally:
        stop(process, STOP_GRACE_S, kill_group=True)  # its workers would keep the GPU


def load_adapter(server: Server, name: str, adapter: Path) -> None:
    """Load one more adapter into a running vLLM (docs.vllm.ai, "LoRA Adapters").

    Raises:
        StageFailed: vLLM refused it, or did not answer.
    """
    _post(server, "load_lora_adapter", {"lora_name": name, "lora_path": str(adapter)})


def unload_adapter(server: Server, name: str) -> None:
    """Unload an adapter; errors are ignored, since the server may be gone."""
    with contextlib.suppress(StageFailed):
        _post(server, "unload_lora_adapter", {"lora_name": name})


def _post(server: Server, path: str, body: dict[str, str]) -> None:
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"{server.base_url}/{path}", data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=ADAPTER_TIMEOUT_S):
            return
    except urllib.error.HTTPError as error:
        raise StageFailed(f"vLLM: {path} {body['lora_name']}: {error.code}: {error.read().decode()[:300]}") from None
    except (urllib.error.URLError, TimeoutError) as error:
        raise StageFailed(f"vLLM: {path} {body['lora_name']}: {error}") from None


def serve_arguments(
    model: Path,
    alias: str,
    port: int,
    context: int,
    parser: str | None,
    adapters: Mapping[str, Path],
    rank: int,
    gpus: int,
    fast_boot: bool,
) -> list[str]:
    """Return the arguments of the `vllm` executable (docs.vllm.ai, `vllm serve`, 0.32)."""
    arguments = ["serve", str(model), "--served-model-name", alias, "--host", HOST, "--port", str(port)]
    arguments += ["--max-model-len", str(context), "--tensor-parallel-size", str(gpus), "--enable-prefix-caching"]
    if parser:  # as llama-server does: once a call has begun, a grammar of the offered tools decides
        arguments += ["--enable-auto-tool-choice", "--tool-call-parser", parser, "--tool-strict-level", "parameter"]
    if parser == LLAMA_4:
        arguments += ["--tool-parser-plugin", str(LLAMA_4_PLUGIN)]
    arguments += ["--trust-request-chat-template"]  # requests come from our gateway, which takes none from a client
    if fast_boot:
        arguments += ["--enforce-eager"]
    if adapters:
        arguments += ["--enable-lora", "--max-lora-rank", str(rank), "--max-loras", str(MAX_LORAS)]
        arguments += ["--lora-modules", *(f"{name}={path}" for name, path in adapters.items())]
    return arguments


def _choose_memory_arguments() -> list[str]:
    """Return the option that leaves room for other servers on the GPU, if there are to be others."""
    share = read_variable(GPU_SHARE)
    return ["--gpu-memory-utilization", share] if share else []


def _environment() -> dict[str, str]:
    """Return vLLM's environment.

    On a CPU vLLM's KV cache would take nearly all memory by default, and vLLM would not start where others use some.
    """
    defaults = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_DO_NOT_TRACK": "1", **WITHOUT_NVCC}
    plugin = {"PYTHONPATH": python_path()}  # our tool parser, loaded as a plugin, imports `tuneline`
    return defaults | os.environ | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"} | plugin


def _append_causes(message: str, log: Path) -> str:
    """Add the errors in the log to `message`: the log ends with the process that waited, the cause is further up."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if " WARNING " not in line]
    causes = dict.fromkeys(match[0] for match in map(_CAUSE.search, lines) if match)
    unseen = [cause for cause in causes if _POINTER_TO_CAUSE not in cause and cause not in message]
    return "\n".join([message, *(f"cause: {cause[:500]}" for cause in unseen[-CAUSES_SHOWN:])])
