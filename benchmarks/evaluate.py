"""What an item costs us: CPU of asking, judging and storing, beside a server that answers at once; inspect-ai's too.

    python benchmarks/evaluate.py [items]

The server is a process of its own; both clients ask it the same requests, four at a time, the whole catalogue of 104
tools in every one. The ratio is ours over what is allowed. inspect-ai is measured where `pip install
tuneline[inspect]` has put it. The last line is JSON.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])
from benchmarks.common.rounds import ROOT, print_result

ALLOWED_MS = 50.0
SERVER = """
import asyncio, json
CALL = {"id": "1", "type": "function", "function": {"name": "docs__create", "arguments": "{\\"title\\": \\"x\\"}"}}
BODY = json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [{"index": 0,
    "message": {"role": "assistant", "content": None, "tool_calls": [CALL]}, "finish_reason": "tool_calls"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}}).encode()
HEAD = b"HTTP/1.1 200 OK\\r\\ncontent-type: application/json\\r\\ncontent-length: %d\\r\\n\\r\\n" % len(BODY)

async def answer(reader, writer):
    while head := await reader.readuntil(b"\\r\\n\\r\\n"):
        length = next(int(l.split(b":")[1]) for l in head.split(b"\\r\\n") if l.lower().startswith(b"content-length"))
        await reader.readexactly(length)
        writer.write(HEAD + BODY)
        await writer.drain()

async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0, limit=2**24)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


def main(items: int) -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert server.stdout
    url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
    try:
        cpu_ms = {"ours": round(_ours(url, items), 2)}
        if find_spec("inspect_ai"):
            cpu_ms["inspect-ai"] = round(_inspect(url, items), 2)
        else:
            print("inspect-ai is not installed: only our own client is measured")
    finally:
        server.terminate()
    for client, value in cpu_ms.items():
        print(f"{client:<12} {value:8.2f} ms of CPU an item")
    ratio = cpu_ms["ours"] / ALLOWED_MS
    print_result("evaluate", ratio, 1.0, met=ratio <= 1, items=items, cpu_ms_per_item=cpu_ms, allowed_ms=ALLOWED_MS)


def _ours(url: str, items: int) -> float:
    from tuneline.configs.catalogue import load_catalogue
    from tuneline.configs.evaluation import Suite
    from tuneline.stages.evaluate.clients.openai_client import connect_engine
    from tuneline.stages.evaluate.clients.suite_runner import ask_all
    from tuneline.stages.evaluate.clients.target_engines import Engine
    from tuneline.stages.evaluate.suites.run_context import RunContext
    from tuneline.stages.evaluate.suites.suite_items import make_items

    catalogue = load_catalogue(ROOT / "configs/tools/business.yaml")
    questions = make_items(Suite(name="bench", grammar=ROOT / "data/synthesis/ask/en.yaml", rows=items))

    async def ask_them(file: Path) -> float:
        async with connect_engine(Engine(url, "m"), "", catalogue) as ask:
            await ask_all(questions[:8], ask, file, run_context=RunContext(catalogue))  # connections, imports
            started = time.process_time()
            await ask_all(questions, ask, file, run_context=RunContext(catalogue))
            return time.process_time() - started

    with tempfile.TemporaryDirectory() as folder:
        return 1000 * asyncio.run(ask_them(Path(folder) / "answers.jsonl")) / (items - 8)


def _inspect(url: str, items: int) -> float:
    """Two evaluations of different sizes in this process: their difference is the items' own, start-up left out."""
    from inspect_ai import eval as evaluate

    from tuneline.configs.catalogue import load_catalogue
    from tuneline.configs.evaluation import Suite
    from tuneline.stages.evaluate.clients.inspect_tasks import make_task
    from tuneline.stages.evaluate.suites.run_context import RunContext

    os.environ |= {"TUNELINE_API_KEY": "none", "TUNELINE_BASE_URL": url}
    known = RunContext(load_catalogue(ROOT / "configs/tools/business.yaml"))

    def cpu(rows: int) -> float:
        suite = Suite(name="bench", grammar=ROOT / "data/synthesis/ask/en.yaml", rows=rows)
        started = time.process_time()
        with tempfile.TemporaryDirectory() as logs:
            evaluate(make_task(suite, known), model="openai-api/tuneline/m", log_dir=logs, display="none",
                     max_connections=4)  # fmt: skip
        return time.process_time() - started

    few = cpu(16)
    return 1000 * (cpu(16 + items) - few) / items


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
