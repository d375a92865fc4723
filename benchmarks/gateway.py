"""What a gateway adds to a request: ours, LiteLLM's proxy and Portkey's, before one upstream on loopback, in turn.

Wall seconds depend on what else runs; a process's CPU seconds hardly do. LiteLLM has an environment of its own, made on
first use (requirements/litellm.txt); Portkey's is measured if PORTKEY names the folder of `npm install
@portkey-ai/gateway`. The upstream answers at once, or, to the model `paced`, a token every 20 ms.
"""

import asyncio
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

sys.path[0] = str(Path(__file__).parents[1])
import aiohttp
import psutil
import yaml

from benchmarks.common.fake_model import TOKENS
from benchmarks.common.rounds import print_result
from benchmarks.common.servers import cpu_of, free_port, gateway_command, serving
from tuneline.core.errors import StageFailed
from tuneline.stages.convert.folders.environments import environment_python

ROUNDS = 4
AT_ONCE = (1, 4, 16, 64)
REQUESTS = 640
PACED = 256
TARGET = 0.25
"""Most CPU a streamed request at 16 at once, of LiteLLM's."""


@dataclass
class Side:
    """A gateway, or the upstream itself."""

    url: str
    process: psutil.Process | None = None
    headers: dict[str, str] = field(default_factory=dict)


def main() -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = free_port()
        stack.enter_context(
            serving([sys.executable, "-m", "benchmarks.common.fake_model", str(port), "m"], folder, port)
        )
        sides = start_sides(stack, folder, f"http://127.0.0.1:{port}/v1")
        cpu = {}
        for streamed in (False, True):
            print(f"\n{'streamed' if streamed else 'whole'} answers of {TOKENS} tokens, {ROUNDS} rounds in turn")
            cpu = compare(leave_out_failing(sides, streamed), streamed)
        paced = compare_paced(leave_out_failing(sides, True))
    ratio = cpu["tuneline"] / cpu["litellm"] if "litellm" in cpu else None
    print_result("gateway", ratio, TARGET, met=ratio is not None and ratio <= TARGET, paced=round(paced, 3))


def start_sides(stack: ExitStack, folder: Path, upstream: str) -> dict[str, Side]:
    """Start every gateway that is there, and return name → side."""
    sides = {"direct": Side(upstream)}
    targets = {name: {"baseline": {"url": upstream, "model": name}} for name in ("m", "paced")}
    (folder / "gateway.yaml").write_text(yaml.safe_dump({"models": targets}))
    port = free_port()
    process = stack.enter_context(serving(gateway_command(folder / "gateway.yaml", port), folder, port))
    sides["tuneline"] = Side(f"http://127.0.0.1:{port}/v1", process)
    try:
        command = environment_python("litellm").with_name("litellm")
    except StageFailed as error:
        print(f"litellm: not measured: {error}")
    else:
        sides["litellm"] = start_litellm(stack, folder, upstream, command)
    if portkey := os.environ.get("PORTKEY"):
        port = free_port()
        script = Path(portkey) / "node_modules/@portkey-ai/gateway/build/start-server.js"
        words = ["node", str(script), f"--port={port}", "--headless"]
        process = stack.enter_context(serving(words, folder, port))
        headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": upstream}
        sides["portkey"] = Side(f"http://127.0.0.1:{port}/v1", process, headers)
    return sides


def start_litellm(stack: ExitStack, folder: Path, upstream: str, command: Path) -> Side:
    models = [
        {"model_name": name, "litellm_params": {"model": f"openai/{name}", "api_base": upstream, "api_key": "none"}}
        for name in ("m", "paced")
    ]
    (folder / "litellm.yaml").write_text(yaml.safe_dump({"model_list": models}))
    port = free_port()
    words = [str(command), "--config", str(folder / "litellm.yaml"), "--host", "127.0.0.1", "--port", str(port)]
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONPATH": "", "LITELLM_LOG": "ERROR"}
    return Side(f"http://127.0.0.1:{port}/v1", stack.enter_context(serving(words, folder, port, environment)))


def leave_out_failing(sides: dict[str, Side], streamed: bool) -> dict[str, Side]:
    """Return the sides that answer one request well; what the others answer is printed."""
    good = {}
    for name, side in sides.items():
        try:
            asyncio.run(load(side, 1, 1, streamed))
        except (AssertionError, aiohttp.ClientError) as error:
            print(f"{name}: not measured: {str(error)[:200]}")
        else:
            good[name] = side
    return good


def compare(sides: dict[str, Side], streamed: bool) -> dict[str, float]:
    """Print latencies, and CPU a request; return name → CPU milliseconds a request at 16 at once."""
    print(f"{'at once':>8} {'':<9} {'p50 ms':>8} {'p99 ms':>8} {'CPU ms a request':>17}")
    of_sixteen = {}
    for at_once in AT_ONCE:
        latencies: dict[str, list[float]] = {name: [] for name in sides}
        cpu = dict.fromkeys(sides, 0.0)
        for _ in range(ROUNDS):
            for name, side in sides.items():
                before = cpu_of(side.process) if side.process else 0.0
                latencies[name] += asyncio.run(load(side, REQUESTS // ROUNDS, at_once, streamed))
                cpu[name] += cpu_of(side.process) - before if side.process else 0.0
        for name, values in latencies.items():
            spent = 1000 * cpu[name] / len(values)
            shown = f"{spent:17.2f}" if sides[name].process else ""
            p99 = quantiles(values, n=100)[98]
            print(f"{at_once:>8} {name:<9} {1000 * median(values):8.2f} {1000 * p99:8.2f} {shown}", flush=True)
            if at_once == 16 and sides[name].process:
                of_sixteen[name] = spent
    return of_sixteen


def compare_paced(sides: dict[str, Side]) -> float:
    """Print the tokens a second of 64 paced streams; return ours as a share of direct."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, side in sides.items():
            started = time.perf_counter()
            asyncio.run(load(side, PACED // ROUNDS, 64, True, "paced"))
            rates[name].append(PACED // ROUNDS * TOKENS / (time.perf_counter() - started))
    print("\n64 streams, a token every 20 ms each: tokens a second")
    for name, values in rates.items():
        print(f"{name:<9} {median(values):8.0f}")
    return median(rates["tuneline"]) / median(rates["direct"])


async def load(side: Side, requests: int, at_once: int, streamed: bool, model: str = "m") -> list[float]:
    """Return the seconds of each request."""
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "stream": streamed}
    seconds: list[float] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=side.headers) as session:

        async def ask() -> None:
            for _ in range(requests // at_once):
                started = time.perf_counter()
                async with session.post(f"{side.url}/chat/completions", json=body) as response:
                    content = await response.read()
                assert response.status == 200 and content.count(b"word ") == TOKENS, content[:300]
                seconds.append(time.perf_counter() - started)

        await asyncio.gather(*(ask() for _ in range(at_once)))
    return seconds


if __name__ == "__main__":
    main()
