"""What the assistant adds to a round, how it runs calls at once, and whether its memory stays flat.

    python benchmarks/assistant.py [conversations]

The model is a function here and the handlers return at once, so all CPU is the assistant's own: choosing and checking,
SQLite, the trace. The ratio is CPU a round over what is allowed. The last line is JSON.
"""

import asyncio
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parents[1])
from benchmarks.common.rounds import ROOT, print_result
from tuneline.configs.catalogue import load_catalogue
from tuneline.endpoints.assistant.events import Done, Limits
from tuneline.endpoints.assistant.handlers import Handler, make_handler
from tuneline.endpoints.assistant.loop import Assistant
from tuneline.endpoints.assistant.store import Store
from tuneline.endpoints.assistant.trace import Trace
from tuneline.engines.chat_messages import Answer, Delta
from tuneline.engines.providers import find_provider
from tuneline.engines.tool_calls import ToolCall

ALLOWED_CPU_MS, ALLOWED_PARALLEL_MS = 15.0, 300.0
FLAT_MB = 5.0
"""What the second half of the conversations may add to the process."""
TURNS = 20
AT_ONCE = 50
CALLED = "whatsapp.send"


class ModelFunction:
    """A model that calls once, or eight times if asked to wait, and then repeats question and result."""

    provider = find_provider("local")

    async def stream(self, messages: Sequence[Any], tools: Any = None, **_: Any) -> AsyncIterator[Delta | Answer]:
        question = next(message["content"] for message in reversed(messages) if message["role"] == "user")
        if messages[-1]["role"] == "user":
            arguments = {"to": "Ann", "message": question}
            calls = (ToolCall(CALLED, arguments),) if "wait" not in question else (ToolCall("wait", {}),) * 8
            yield Answer("", calls, ({},), "tool_calls", 100, 10, 0.0)
            return
        text = f"{question} | {messages[-1]['content']}"
        yield Delta(text=text)
        yield Answer(text, (), (), "stop", 100, 10, 0.0)


def main(conversations: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(_measure(Path(folder), conversations))
    for name, value in figures.items():
        print(f"{name}: {value}")
    ratio = figures["cpu_ms_a_round"] / ALLOWED_CPU_MS
    is_flat = figures["mb_at_the_end"] - figures["mb_half_way"] <= FLAT_MB
    met = ratio <= 1 and figures["eight_calls_of_200_ms"] <= ALLOWED_PARALLEL_MS and is_flat
    print_result("assistant", ratio, 1.0, met=met, **figures)


async def _measure(folder: Path, conversations: int) -> dict[str, float]:
    model: Any = ModelFunction()
    store = Store(folder / "assistant.db")
    assistant = Assistant(model, _make_handlers(), store, Trace(folder), limits=Limits(history_tokens=1_000))
    await _converse(assistant, 0, 2)
    started = time.perf_counter()
    await _ask(assistant, "wait", None)
    parallel_ms = (time.perf_counter() - started) * 1000
    before, cpu = _resident_mb(), time.process_time()
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with gate:
            await _converse(assistant, number, TURNS)

    half = conversations // 2
    await asyncio.gather(*(one(number) for number in range(half)))
    middle = _resident_mb()
    await asyncio.gather(*(one(number) for number in range(half, conversations)))
    rounds = conversations * TURNS * 2
    return {
        "conversations": conversations,
        "cpu_ms_a_round": round((time.process_time() - cpu) * 1000 / rounds, 2),
        "eight_calls_of_200_ms": round(parallel_ms),
        "mb_before": before,
        "mb_half_way": middle,
        "mb_at_the_end": _resident_mb(),
    }


async def _converse(assistant: Assistant, number: int, turns: int) -> None:
    conversation: str | None = None
    for turn in range(turns):
        question = f"conversation {number} turn {turn}"
        end = await _ask(assistant, question, conversation)
        assert end.text.startswith(question) and question in end.text.partition("|")[2], "conversations were mixed up"
        conversation = end.conversation


async def _ask(assistant: Assistant, question: str, conversation: str | None) -> Done:
    events = [event async for event in assistant.ask("bench", question, conversation)]
    assert isinstance(events[-1], Done)
    return events[-1]


def _make_handlers() -> dict[str, Handler]:
    """Return handlers for all 104 tools of our catalogue, and one that takes 200 ms."""

    async def repeat(arguments: dict[str, Any]) -> Any:
        return arguments

    async def wait(_: dict[str, Any]) -> str:
        await asyncio.sleep(0.2)
        return "waited"

    catalogue = load_catalogue(ROOT / "configs/tools/business.yaml")
    handlers = {name: make_handler(name, tool, repeat, confirm=False) for name, tool in catalogue.tools.items()}
    handlers["wait"] = make_handler(
        "wait", catalogue.tools[CALLED].model_copy(update={"parameters": {}}), wait, confirm=False
    )
    return handlers


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return round(pages * resource.getpagesize() / 1e6, 1)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000)
