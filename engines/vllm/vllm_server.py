"""vLLM for one base and its promoted adapters, or for one merged model: started, awaited, stopped.

It may live in a Python environment of its own (docs/vllm.md): what is started is its executable.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tuneline.configs.models import registry
from tuneline.core.errors import NotFound, StageFailed
from tuneline.core.paths import IMPORTED_FROM
from tuneline.engines.llama_cpp.llama_server import Server, await_health, dying_with, free_port
from tuneline.engines.tool_calls import MISTRAL, TAG
from tuneline.engines.vllm.lora_ranks import LORA_RANKS, MAX_LORA_RANK

STARTS_WITHIN_S = 1200
STOPS_WITHIN_S = 20
ADAPTER_WITHIN_S = 120
LLAMA_4, PLUGIN = "tuneline_llama4", Path(__file__).with_name("llama4_tool_parser.py")
"""The parser of ours, and the file vLLM has it from."""
MAX_LORAS = 2
"""Adapters that answer at the same time, each with its memory; with vLLM's one, requests to two names wait in turn."""
EXECUTABLE = "TUNELINE_VLLM"
PARSER = "llama3_json"
PARSERS = {TAG: PARSER, MISTRAL: "mistral"}
"""By the tag that a tokenizer has."""
TOLD = 4
_CAUSE = re.compile(r"\b[A-Z]\w*(?:Error|Exception): .*|\berror: .*")
_HIDES_THE_CAUSE = "See root cause above"


def executable() -> Path | None:
    """vLLM's: what `TUNELINE_VLLM` names, else the one of this Python, else the one on PATH; None if there is none.

    Raises:
        NotFound: `TUNELINE_VLLM` names no file.
    """
    if named := os.environ.get(EXECUTABLE):
        if not Path(named).is_file():
            raise NotFound(
                f"{EXECUTABLE}={named}: no such file; docs/vllm.md says how to make an environment with vLLM"
            )
        return Path(named)
    own, found = Path(sys.executable).with_name("vllm"), shutil.which("vllm")
    return own if own.is_file() else Path(found) if found else None


def parser_for(base: str, model: Path) -> str | None:
    """vLLM's tool parser for a base: the one models.yaml names, else its family's, if the tokenizer has its tag."""
    if (found := registry().find(base)) and (named := registry().models[found].tool_parser):
        return named
    config, tokenizer = model / "config.json", model / "tokenizer.json"
    if config.exists() and str(json.loads(config.read_text("utf-8")).get("model_type")).startswith("llama4"):
        return LLAMA_4
    held = tokenizer.read_text("utf-8") if tokenizer.exists() else ""
    return next((parser for tag, parser in PARSERS.items() if tag in held), None)


def rank_of(adapter: Path) -> int:
    """The least `max_lora_rank` that takes an adapter: a higher one makes every token slower."""
    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    return min(allowed for allowed in LORA_RANKS if allowed >= rank)


@contextlib.contextmanager
def serving(
    model: Path,
    *,
    alias: str,
    log: Path,
    context: int,
    parser: str | None = PARSER,
    adapters: Mapping[str, Path] | None = None,
    rank: int = MAX_LORA_RANK,
    gpus: int = 1,
    fast_boot: bool = True,
) -> Iterator[Server]:
    """A vLLM for `model`, and `adapters` by name beside it, until the block ends.

    `context` is in tokens; `rank` is the highest an adapter may have. A request may bring a `chat_template`: adapters
    of one base may have learned with several. `fast_boot` leaves CUDA graphs out: half the start, some of the speed.

    Raises:
        NotFound: no such model, or no vLLM. StageFailed: it did not start.
    """
    if not model.exists():
        raise NotFound(f"{model}: no such model; run `tuneline convert RECIPE` first")
    vllm = executable()
    if vllm is None:
        raise NotFound(f"vLLM is not here: it is not on PATH, and {EXECUTABLE} names none; docs/vllm.md")
    port = free_port("127.0.0.1")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(vllm), *words(model, alias, port, context, parser, adapters or {}, rank, gpus, fast_boot)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(),
            preexec_fn=dying_with(os.getpid()),
            start_new_session=True,
        )
    try:
        try:
            await_health(process, f"http://127.0.0.1:{port}", log, time.monotonic() + STARTS_WITHIN_S)
        except StageFailed as error:
            raise StageFailed(_with_cause(str(error), log)) from None
        yield Server(f"http://127.0.0.1:{port}/v1", process)
    finally:
        _stop(process)


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


def words(
    model: Path,
    alias: str,
    port: int,
    context: int,
    parser: str | None,
    adapters: Mapping[str, Path],
    rank: int,
    gpus: int,
    fast_boot: bool,
) -> Sequence[str]:
    """The words after `vllm` (docs.vllm.ai, `vllm serve`, 0.32)."""
    told = ["serve", str(model), "--served-model-name", alias, "--host", "127.0.0.1", "--port", str(port)]
    told += ["--max-model-len", str(context), "--tensor-parallel-size", str(gpus), "--enable-prefix-caching"]
    if parser:  # as llama-server does: once a call has begun, a grammar of the offered tools decides
        told += ["--enable-auto-tool-choice", "--tool-call-parser", parser, "--tool-strict-level", "parameter"]
    if parser == LLAMA_4:
        told += ["--tool-parser-plugin", str(PLUGIN)]
    told += ["--trust-request-chat-template"]  # of our own front door, which takes none from a client
    if fast_boot:
        told += ["--enforce-eager"]
    if adapters:
        told += ["--enable-lora", "--max-lora-rank", str(rank), "--max-loras", str(MAX_LORAS)]
        told += ["--lora-modules", *(f"{name}={path}" for name, path in adapters.items())]
    return told


def _environment() -> dict[str, str]:
    """On a CPU vLLM would take nearly all memory for its cache, and not start where others use some of it."""
    asked = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_DO_NOT_TRACK": "1"} | os.environ
    ours_too = os.pathsep.join(filter(None, (str(IMPORTED_FROM), os.environ.get("PYTHONPATH"))))  # for the plugin
    return asked | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "PYTHONPATH": ours_too}


def _with_cause(message: str, log: Path) -> str:
    """vLLM's log ends with the failure of the process that waited; why it failed stands far above."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if " WARNING " not in line]
    causes = dict.fromkeys(found[0] for found in map(_CAUSE.search, lines) if found)
    hidden = [cause for cause in causes if _HIDES_THE_CAUSE not in cause and cause not in message]
    return "\n".join([message, *(f"cause: {cause[:500]}" for cause in hidden[-TOLD:])])


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, then end it and the processes it started: of a killed vLLM they would keep the GPU."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOPS_WITHIN_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
