"""From a request to an answer with a run's model: was the right handler really called, and is its result in the answer?

    python benchmarks/assistant_requests.py RUN [requests]

The requests are the first suite's of the run, spread over it. Handlers only note their call and answer with a reference
that no other call has. Beside it, what the same model picks for the same requests when it is asked once, as the suite
does. The last line is JSON.
"""

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parents[1])
from benchmarks.common.rounds import print_result
from tuneline.configs.recipe import recipe_of
from tuneline.core.paths import run_folder
from tuneline.endpoints.assistant.events import Done
from tuneline.endpoints.assistant.handlers import Handler, make_handler
from tuneline.endpoints.assistant.loop import Assistant
from tuneline.endpoints.assistant.store import Store
from tuneline.endpoints.assistant.trace import Trace
from tuneline.endpoints.tool_selection import load_tool_selector
from tuneline.engines.llama_cpp.llama_server import start_llama_server
from tuneline.engines.providers import find_provider
from tuneline.stages.evaluate.suites.run_context import RunContext
from tuneline.stages.evaluate.suites.suite_items import make_items
from tuneline.stages.prepare.prepared_run import has_results, load_tools


def main(run: Path, count: int) -> None:
    recipe, catalogue = recipe_of(run), load_tools(run / "prepare")
    assert catalogue
    suite = recipe.evaluate.suites[0]
    items = [item for item in make_items(suite, RunContext(catalogue)) if item.tool and item.arguments is not None]
    items = items[:: max(1, len(items) // count)][:count]
    gguf = run / "convert" / f"tuned-{recipe.serve.type}.gguf"
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with start_llama_server(gguf, alias="m", log=log, context=recipe.serve.context, threads=1) as server:
            figures = asyncio.run(_ask_all(server.base_url, catalogue, run, items, Path(folder)))
    for name, value in figures.items():
        print(f"{name}: {value}")
    print_result("assistant_requests", None, 0.0, met=True, **figures)


async def _ask_all(url: str, catalogue: Any, run: Path, items: list[Any], folder: Path) -> dict[str, int]:
    called: list[tuple[str, dict[str, Any]]] = []

    def make(name: str) -> Handler:
        async def note(arguments: dict[str, Any]) -> str:
            called.append((name, arguments))
            return f"reference {len(called):05d}"

        return make_handler(name, catalogue.tools[name], note, confirm=False)

    counts = dict.fromkeys(("requests", "right_tool", "exact", "in_answer", "once_right_tool", "once_exact"), 0)
    handlers = {name: make(name) for name in catalogue.names}
    async with find_provider(url).connect("m") as chat:
        assistant = Assistant(
            chat,
            handlers,
            Store(folder / "assistant.db"),
            Trace(folder),
            selector=load_tool_selector(run),
            picks_only=not has_results(run / "prepare"),
        )
        for item in items:
            before = len(called)
            events = [event async for event in assistant.ask("bench", item.text)]
            assert isinstance(events[-1], Done)
            right = [n for n, (name, _) in enumerate(called[before:], before) if name == item.tool]
            exact = [n for n in right if called[n][1] == item.arguments]
            counts["requests"] += 1
            counts["right_tool"] += bool(right)
            counts["exact"] += bool(exact)
            counts["in_answer"] += any(f"{n + 1:05d}" in events[-1].text for n in exact)
            answer = await chat.ask(
                [{"role": "user", "content": item.text}], catalogue.openai(), temperature=0, max_tokens=96
            )
            counts["once_right_tool"] += [call.name for call in answer.tool_calls] == [item.tool]
            counts["once_exact"] += [(c.name, c.arguments) for c in answer.tool_calls] == [(item.tool, item.arguments)]
    return counts


if __name__ == "__main__":
    main(run_folder(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 100)
