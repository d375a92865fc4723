"""The page in a headless Chromium: first paint, 2,000 messages that scroll, and what Watch costs the gateway.

First paint is of browsers without a cache, of which each is new. The gateway's CPU is that of its process without a
request but the page's own, over the same time without and with an open Watch.
"""

import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parents[1])
import psutil
import yaml
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.common.rounds import print_result
from benchmarks.common.servers import cpu_of, free_port, gateway_command, serving
from tuneline.ui.conversation import Conversation, ConversationStore, Turn

ROUNDS = 7
MOST_PAINT_S = 2.0
TURNS = 1_000
"""Each is two messages."""
WATCHED_S = 60.0
MOST_CPU = 0.01
FIRST = "question 0:"
ANSWER = "An answer with **bold** words and `code`, and a list:\n\n- one\n- two\n\n" + "It goes on. " * 20
SCROLL = """async () => {
  const box = document.querySelector('.messages'), frames = []
  let last = performance.now()
  for (let step = 0; step <= 120; step++) {
    box.scrollTop = -(box.scrollHeight - box.clientHeight) * step / 120
    await new Promise(requestAnimationFrame)
    frames.push(performance.now() - last); last = performance.now()
  }
  return frames.slice(1)
}"""


def main() -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ["TUNELINE_UI"] = str(folder / "ui")
        gateway, page_url = start(stack, folder)
        playwright = stack.enter_context(sync_playwright())
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        paints, ready = zip(*(measure_paint(chromium, page_url) for _ in range(ROUNDS)), strict=True)
        print(f"first paint     median {statistics.median(paints):.2f} s, at most {max(paints):.2f} s; n = {ROUNDS}")
        print(f"ready to type   median {statistics.median(ready):.2f} s, at most {max(ready):.2f} s")
        scroll = measure_scroll(chromium, page_url)
        print(
            f"2,000 messages  open in {scroll['open_s']:.2f} s; all there after {scroll['all_s']:.1f} s of scrolling; "
            f"frames while scrolling: median {scroll['frame_ms']:.0f} ms, 95 % within {scroll['frame_p95_ms']:.0f} ms"
        )
        share = measure_watch(chromium, page_url, gateway)
        print(f"Watch           costs the gateway {100 * share:.2f} % of a core")
        chromium.close()
    met = statistics.median(paints) <= MOST_PAINT_S and share <= MOST_CPU and scroll["frame_p95_ms"] <= 100
    more = {name: round(value, 3) for name, value in scroll.items()}
    paint = statistics.median(paints)
    print_result("ui", paint / MOST_PAINT_S, 1.0, met=met, paint_s=round(paint, 3), watch=round(share, 4), **more)


def start(stack: ExitStack, folder: Path) -> tuple[psutil.Process, str]:
    """Start a gateway and the page; return the gateway's process and the page's address."""
    upstream, port, page = free_port(), free_port(), free_port()
    stack.enter_context(
        serving([sys.executable, "-m", "benchmarks.common.fake_model", str(upstream), "m"], folder, upstream)
    )
    target = {"baseline": {"url": f"http://127.0.0.1:{upstream}/v1", "model": "m"}}
    settings = folder / "gateway.yaml"
    settings.write_text(yaml.safe_dump({"models": {"m": target}}), encoding="utf-8")
    gateway = stack.enter_context(serving(gateway_command(settings, port), folder, port))
    words = [
        "ui",
        "--no-open",
        "--port",
        str(page),
        "--gateway",
        f"http://127.0.0.1:{port}",
        "--settings",
        str(settings),
    ]
    unbuffered = {"PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    stack.enter_context(serving([sys.executable, "-m", "tuneline", *words], folder, page, unbuffered))
    address = re.search(r"http://\S+token=\S+", (folder / f"{page}.log").read_text("utf-8"))
    assert address
    return gateway, address[0]


def measure_paint(chromium: Browser, url: str) -> tuple[float, float]:
    """Return seconds to the first paint with content, and until a question can be typed."""
    with chromium.new_context(viewport={"width": 1280, "height": 800}) as context:
        page = context.new_page()
        started = time.perf_counter()
        page.goto(url)
        page.get_by_label("Question", exact=True).wait_for()
        ready = time.perf_counter() - started
        entries = page.evaluate("performance.getEntriesByName('first-contentful-paint').map(e => e.startTime)")
        return entries[0] / 1000, ready


def measure_scroll(chromium: Browser, url: str) -> dict[str, float]:
    """Return how 2,000 messages open and scroll, in seconds and milliseconds."""
    turns = [
        Turn(question=f"question {number}: and what then?", answer=ANSWER, model="m", state="done", request="req_0")
        for number in range(TURNS)
    ]
    conversation = Conversation(id="20260101-0123456789ab", turns=turns)
    ConversationStore("local").save(conversation)
    with chromium.new_context(viewport={"width": 1280, "height": 800}) as context:
        page = context.new_page()
        page.goto(url)
        started = time.perf_counter()
        page.goto(f"{url.partition('?')[0]}?c={conversation.id}")
        page.get_by_text(f"question {TURNS - 1}:").wait_for()
        opened = time.perf_counter() - started
        scroll_to_top(page)
        everything = time.perf_counter() - started - opened
        frames = sorted(page.evaluate(SCROLL))
        return {
            "open_s": opened,
            "all_s": everything,
            "frame_ms": statistics.median(frames),
            "frame_p95_ms": frames[int(0.95 * len(frames))],
        }


def scroll_to_top(page: Page) -> None:
    """Scroll up until the first question is there."""
    first: Any = page.get_by_text(FIRST)
    deadline = time.monotonic() + 300
    while first.count() == 0:
        assert time.monotonic() < deadline, "the first message does not come"
        page.evaluate("() => { const b = document.querySelector('.messages'); b.scrollTop = -b.scrollHeight }")
        page.wait_for_timeout(100)


def measure_watch(chromium: Browser, url: str, gateway: psutil.Process) -> float:
    """Return the share of a core that an open Watch adds to the gateway's process."""
    alone = cpu_over(gateway, WATCHED_S)
    with chromium.new_context() as context:
        page = context.new_page()
        page.goto(url)
        page.goto(f"{url.partition('?')[0]}?tab=Watch")
        page.get_by_text("answering · waiting").wait_for()
        watched = cpu_over(gateway, WATCHED_S)
    return max(0.0, watched - alone) / WATCHED_S


def cpu_over(process: psutil.Process, seconds: float) -> float:
    """Return the CPU seconds that a process takes in so many seconds."""
    before = cpu_of(process)
    time.sleep(seconds)
    return cpu_of(process) - before


if __name__ == "__main__":
    main()
