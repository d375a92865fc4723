"""The page in a real browser: `tuneline ui` in a process of its own, before a gateway with an assistant and models by
script. Without Chromium or without Playwright these tests are skipped.
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.assistant_runs import HANDLERS
from tests.runs import make_run
from tests.scripted_model import results, serve_script
from tests.unit.misbehaving import Connection, MisbehavingUpstream, running, serving
from tuneline.core.events import Events
from tuneline.core.paths import IMPORTED_FROM, ROOT
from tuneline.endpoints import keys
from tuneline.endpoints.gateway.assistant_model import AssistantModel
from tuneline.endpoints.traffic.records import move
from tuneline.engines.server import free_port

CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
EVIL = (
    "Hi **there** <img src=x onerror=\"document.title='XSS'\"> </script><script>document.title='XSS'</script> "
    "[click](javascript:document.title='XSS') ![i](http://127.0.0.1:9/leak.png) [fine](https://example.org) "
    "<svg/onload=document.title='XSS'> <iframe src=\"javascript:parent.document.title='XSS'\"></iframe>"
)
"""What a model, a tool, a person or a name may say."""
EVIL_NAME = "<img src=x onerror=\"document.title='XSS'\">"
SEND = ("money__send", {"to": "Bob", "amount": 5})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a browser where there is none."""
    try:
        import nicegui  # noqa: F401
        import playwright  # noqa: F401
    except ImportError as error:
        reason = f"{error.name} is not installed"
    else:
        reason = "" if CHROMIUM else "no Chromium on the PATH"
    for item in items:
        if reason and "site" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason=reason))


def answer(request: Any) -> Any:
    """What the model says: by what it was asked last."""
    question = [message["content"] for message in request["messages"] if message["role"] == "user"][-1]
    if got := results(request):
        return f"The result is {'; '.join(got)}"
    if "send" in question:
        return [SEND]
    if "rate" in question and request.get("tools"):
        return [("rates__get", {"currency": EVIL if "evil" in question else "IDR"})]
    return EVIL if "evil" in question else f"You said: {question}"


async def _never_ends(connection: Connection) -> None:
    await connection.begin()
    await connection.tokens(0, 5)
    await asyncio.sleep(600)


@dataclass
class Site:
    """A running page, and what is behind it."""

    url: str
    """With its token."""
    gateway: str
    key: str
    home: Path
    requests: list[str] = field(default_factory=list)
    """Every address that the browser asked for."""


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One page for all these tests."""
    home = tmp_path_factory.mktemp("ui")
    folders = {f"TUNELINE_{name.upper()}": str(home / name) for name in ("logs", "policy", "ui", "runs", "models")}
    module = home / "ui_handlers.py"
    module.write_text(HANDLERS, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, running(MisbehavingUpstream({"slow": _never_ends})) as slow:
        for name, value in folders.items():
            patch.setenv(name, value)
        key = keys.add_key("ann")
        _make_runs(home / "runs")
        move("router", "other", "50", by="test")
        with serve_script(answer) as model:
            settings = _write_settings(home / "gateway.yaml", model.url, slow.url)
            port = free_port("127.0.0.1")
            assistant = AssistantModel([str(module)], f"http://127.0.0.1:{port}/v1", "tuned", home / "assistant")
            with (
                serving(settings, with_keys=True, port=port, assistant=assistant) as (url, _),
                _serving_page(url, settings, folders | {"TUNELINE_API_KEY": key}) as page,
            ):
                yield Site(page, url, key, home)


def _make_runs(folder: Path) -> None:
    """Two finished runs with curves, and a folder with a name that no run can have."""
    for name, factor in (("alpha", 1.0), ("beta", 2.0)):
        run = make_run(folder / name)
        events = Events(run, "train")
        for step in range(0, 300, 10):
            events.emit("metrics", step=step, steps=300, loss=factor / (1 + step), tokens_per_second=100.0 + step)
        (run / "report.html").write_text(f"<h1>Report of {name}</h1><script>document.title='XSS'</script>", "utf-8")
    bad = folder / EVIL_NAME
    bad.mkdir()
    (bad / "recipe.json").write_text(json.dumps({"base": EVIL}), "utf-8")


def _write_settings(file: Path, model: str, slow: str) -> Path:
    tuned = {"baseline": {"url": model, "model": "m"}}
    down = {"baseline": {"url": "http://127.0.0.1:9/v1", "model": "gone", "retries": 0}}
    rolled = {"baseline": tuned["baseline"], "candidate": {"url": model, "model": "m2"}, "policy": {"verdict": False}}
    models = {
        "router": rolled,
        "tuned": tuned,
        "slow": {"baseline": {"url": slow, "model": "slow"}},
        "down": down,
        "other": tuned,
    }
    file.write_text(yaml.safe_dump({"models": models, "log": {"prompts": 1}}), encoding="utf-8")
    return file


@contextlib.contextmanager
def _serving_page(gateway: str, settings: Path, variables: dict[str, str]) -> Iterator[str]:
    """Run `tuneline ui` before a gateway, and yield its address with the token."""
    port = free_port("127.0.0.1")
    words = [sys.executable, "-m", "tuneline", "ui", "--no-open", "--gateway", gateway, "--port", str(port)]
    words += ["--settings", str(settings)]
    environment = os.environ | variables | {"PYTHONPATH": str(IMPORTED_FROM), "COLUMNS": "200"}
    process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        line = process.stdout.readline()
        address = re.search(r"http://\S+", line)
        assert address, line
        _wait(port)
        yield address[0]
    finally:
        process.terminate()
        process.wait(15)


def _wait(port: int) -> None:
    """Wait until the page answers."""
    deadline = time.monotonic() + 30
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
        except urllib.error.HTTPError:  # 403: there is no token
            return
        except OSError:
            assert time.monotonic() < deadline, "the page does not answer"
            time.sleep(0.05)


@pytest.fixture(scope="package")  # Playwright has an event loop of its own: others need theirs after it
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(site: Site, browser: Any) -> Iterator[Callable[..., Any]]:
    """Return what opens the page in a browser of its own; asserts that no request left the machine."""
    contexts = []

    def open_page(path: str = "", *, width: int = 1280, height: int = 800, dark: bool = False) -> Any:
        scheme = "dark" if dark else "light"
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("request", lambda request: site.requests.append(request.url))
        page.goto(site.url)
        if path:
            page.goto(site.url.partition("/?")[0] + path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    own = site.url.partition("/?")[0]
    away = [url for url in site.requests if not url.startswith((own, "data:", "blob:", own.replace("http", "ws")))]
    assert not away
