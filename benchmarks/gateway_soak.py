"""10,000 streams through the gateway, twice: its memory; what callers get while the baseline is killed over and over.

`--memory MINUTES` does the first part alone, with as many streams as the minutes allow, 100,000 at most.

A lost request is one that ends without a whole answer before its first token, or with an answer that is not its own.
"""

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])
import aiohttp
import psutil
import yaml

from benchmarks.common.fake_model import TOKENS
from benchmarks.common.rounds import ROOT, print_result
from benchmarks.common.servers import free_port, gateway_command, memory_of, serving, wait_until_listening

REQUESTS = 10_000
WARM_UP = 1000
MOST = 100_000
"""Streams of `--memory`; its memory is read after each `EVERY`."""
EVERY = 2000
AT_ONCE = 16
UP_S = 4.0
"""How long the baseline answers before it is killed; its breaker leaves it alone for 2 s and more after that."""
TARGET_MIB = 20.0
"""Most that the gateway's process may grow by."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", type=float, metavar="MINUTES")
    minutes = parser.parse_args().memory
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ports = free_port(), free_port()
        baseline, fallback = ([sys.executable, "-m", "benchmarks.common.fake_model", str(port), name]
                              for port, name in zip(ports, ("baseline", "fallback"), strict=True))  # fmt: skip
        route = {name: {"url": f"http://127.0.0.1:{port}/v1", "model": name}
                 for port, name in zip(ports, ("baseline", "fallback"), strict=True)}  # fmt: skip
        (folder / "gateway.yaml").write_text(yaml.safe_dump({"models": {"m": route}}))
        port = free_port()
        gateway = stack.enter_context(serving(gateway_command(folder / "gateway.yaml", port), folder, port))
        stack.enter_context(serving(fallback, folder, ports[1]))
        url = f"http://127.0.0.1:{port}/v1"
        with serving(baseline, folder, ports[0]):
            if minutes is not None:
                watch_memory_for(url, gateway, minutes * 60)
                return
            grown = watch_memory(url, gateway)
        ends, kills = asyncio.run(kill_over_and_over(url, baseline))
    print(f"memory over {REQUESTS:,} streams: {grown:+.1f} MiB")
    print(f"baseline killed {kills} times in {REQUESTS:,} streams: {dict(ends)}")
    met = grown <= TARGET_MIB and kills > 3 and set(ends) <= {"baseline", "fallback", "interrupted"}
    print_result("gateway_soak", grown, TARGET_MIB, met=met, kills=kills, ends=dict(ends))


def watch_memory(url: str, gateway: psutil.Process) -> float:
    """Return by how many MiB the process grew."""
    asyncio.run(ask_all(url, WARM_UP))
    before = memory_of(gateway)
    ends = asyncio.run(ask_all(url, REQUESTS))
    assert set(ends) == {"baseline"}, ends
    return memory_of(gateway) - before


def watch_memory_for(url: str, gateway: psutil.Process, seconds: float) -> None:
    """Print the process's memory again and again, and by how many MiB it grew in all."""
    deadline = time.monotonic() + seconds
    asyncio.run(ask_all(url, WARM_UP))
    before, asked = memory_of(gateway), 0
    while asked < MOST and time.monotonic() < deadline:
        ends = asyncio.run(ask_all(url, EVERY))
        assert set(ends) == {"baseline"}, ends
        asked += EVERY
        print(f"{asked:,} streams: {memory_of(gateway):.1f} MiB", flush=True)
    grown = memory_of(gateway) - before
    print_result("gateway_memory", grown, TARGET_MIB, met=grown <= TARGET_MIB and asked == MOST, streams=asked)


async def kill_over_and_over(url: str, command: list[str]) -> tuple[Counter[str], int]:
    """Return how requests ended while the baseline was killed, and how often it was."""
    asking, kills = asyncio.create_task(ask_all(url, REQUESTS)), 0
    while not asking.done():
        server = subprocess.Popen(command, cwd=ROOT)
        try:
            await asyncio.to_thread(wait_until_listening, server, int(command[-2]))
            await asyncio.wait({asking}, timeout=UP_S)
        finally:
            server.send_signal(signal.SIGKILL)
            await asyncio.to_thread(server.wait)
        kills += 1
    return await asking, kills


async def ask_all(url: str, requests: int) -> Counter[str]:
    """Return how many requests ended in which way: who answered, `interrupted` after the first token, or `lost`."""
    ends: Counter[str] = Counter()
    numbers = iter(range(requests))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask() -> None:
            for number in numbers:
                ends[await ask_one(session, url, number)] += 1

        await asyncio.gather(*(ask() for _ in range(AT_ONCE)))
    return ends


async def ask_one(session: aiohttp.ClientSession, url: str, number: int) -> str:
    body = {"model": "m", "messages": [{"role": "user", "content": f"n{number}"}], "stream": True}
    try:
        async with session.post(f"{url}/chat/completions", json=body) as response:
            content = await response.read()
    except aiohttp.ClientError:
        return "lost"
    if response.status != 200:
        return f"lost: {response.status}"
    return read_end(content, number)


def read_end(content: bytes, number: int) -> str:
    """Return who answered, `interrupted` if an error followed a first token, or `lost`."""
    events = [line[6:] for line in content.split(b"\n\n") if line.startswith(b"data: ")]
    parsed = [json.loads(event) for event in events if event != b"[DONE]"]
    text = "".join(choice["delta"].get("content", "") for event in parsed for choice in event.get("choices", ()))
    for name in ("baseline", "fallback"):
        whole = f"{name} n{number} " + "word " * TOKENS
        if text == whole and events[-1] == b"[DONE]" and parsed[0]["model"] == name:
            return name
        if text and whole.startswith(text) and "error" in parsed[-1]:
            return "interrupted"
    return "lost"


if __name__ == "__main__":
    main()
