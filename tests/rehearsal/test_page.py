"""The page beside the gateway (`ui: true`): who is let in, what each key sees, and what outlives a container."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import yaml

from tests.rehearsal.conftest import Checkout, Stage, eventually
from tests.rehearsal.imports import installed, needed
from tests.runs import make_run
from tests.scripted_model import serve_script
from tests.ui.conftest import CHROMIUM
from tests.ui.test_talk import ask
from tuneline.configs.cloud import PAGE
from tuneline.core.paths import ROOT
from tuneline.rehearsal.session import Rehearsal
from tuneline.rehearsal.worker import NO_NAMESPACES_MESSAGE, can_make_namespaces

SECRET_RUN = "secret-run"


@dataclass
class Deployed:
    """A deployed page and gateway, and keys of theirs."""

    stage: Stage
    url: str
    gateway: str
    ann: str
    bo: str
    """An operator's."""
    cy: str
    """Which is revoked."""


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    if not can_make_namespaces():
        pytest.skip(NO_NAMESPACES_MESSAGE)
    folder = tmp_path_factory.mktemp("page")
    with serve_script(lambda request: f"You said: {request['messages'][-1]['content']}") as model:
        port = int(model.url.rpartition(":")[2].partition("/")[0])
        with Rehearsal(folder / "plane", let_through=[port]) as rehearsal:
            stage = Stage(rehearsal, folder / "plane")
            checkout = Checkout(stage, folder / "tuneline")
            checkout.change("configs/cloud.yaml", "\nui: false", "\nui: true")
            side = {"url": model.url, "model": "m"}
            models = {"echo": {"baseline": side, "candidate": side, "policy": {"verdict": False}}}
            gateway = yaml.safe_dump({"models": models, "log": {"prompts": 1}})
            (checkout.folder / "configs/gateway.yaml").write_text(gateway, encoding="utf-8")
            out = checkout.modal("deploy", "app.py")
            urls = dict(re.findall(r"(Page|Gateway)\.serve -> (http\S+)", out))
            keys = [add_key(stage, "ann"), add_key(stage, "bo", "--operator"), add_key(stage, "cy")]
            make_run(stage.volume("runs") / SECRET_RUN)
            yield Deployed(stage, urls["Page"], urls["Gateway"], *keys)


def add_key(stage: Stage, owner: str, *words: str) -> str:
    lines = stage.tuneline("keys", "add", owner, *words, "--modal").splitlines()
    return next(line for line in lines if line.startswith("tl-"))


def log_in(page: Deployed, key: str) -> httpx.Client:
    """Return a client with a session; it sends the cookie, which is for HTTPS alone, by itself."""
    opened = httpx.post(f"{page.url}/login", data={"key": key}, timeout=60)
    assert (opened.status_code, opened.headers["location"]) == (303, "/")
    cookie = opened.headers["set-cookie"]
    assert "secure" in cookie.lower() and "httponly" in cookie.lower()
    return httpx.Client(base_url=page.url, headers={"cookie": cookie.partition(";")[0]}, timeout=60)


def test_what_is_declared_for_it(deployed: Deployed) -> None:
    functions = deployed.stage.ask("apps/tuneline")
    page = functions["Page.*"]
    assert page["max_containers"] == 1 and page["min_containers"] == 0
    assert page["memory_limit_mib"] == page["memory_mib"] == 1024 * PAGE.memory_gib  # a bound on its cost
    assert page["volumes"] == {"/policy": "tuneline-policy", "/logs": "tuneline-logs", "/ui": "tuneline-ui"}
    assert page["gpu"] is None
    assert not needed("volumes/page_container.py", "ui") - installed(page["layers"])
    assert not any(re.search(r"(?m)^(torch|nvidia)", layer) for layer in page["layers"])
    assert any("tuneline/ui/style.css" in name for name in page["mounted"])
    assert not any("tuneline/ui/" in name for name in functions["Gateway.*"]["mounted"])


def test_without_a_key_there_is_a_form_and_nothing_else(deployed: Deployed) -> None:
    form = httpx.get(deployed.url, timeout=120)
    assert form.status_code == 200 and 'name="key"' in form.text and "nicegui" not in form.text.lower()
    for path in ("/?tab=Watch", "/socket.io/?EIO=4&transport=polling", f"/reports/{SECRET_RUN}"):
        assert "nicegui" not in httpx.get(deployed.url + path, timeout=60).text.lower()
    for key in ("tl-no", "", f"{deployed.ann}x"):
        wrong = httpx.post(f"{deployed.url}/login", data={"key": key}, timeout=60)
        assert wrong.status_code == 403 and "set-cookie" not in wrong.headers and "nicegui" not in wrong.text.lower()
    other = httpx.get(deployed.url, headers={"host": "evil.example"}, timeout=60)
    assert other.status_code == 403 and "not served under this name" in other.text


def test_a_plain_key_sees_neither_watch_nor_runs(deployed: Deployed) -> None:
    with log_in(deployed, deployed.ann) as ann, log_in(deployed, deployed.bo) as bo:
        plain, operators = ann.get("/?tab=Watch"), bo.get("/?tab=Watch")
        assert (plain.status_code, operators.status_code) == (200, 200)
        assert all(name in plain.text for name in ("Talk", "Compare"))
        assert not any(name in plain.text for name in ("Watch", "Runs", "Rollouts", SECRET_RUN))
        assert all(name in operators.text for name in ("Talk", "Compare", "Watch", "Runs", "Rollouts"))
        assert ann.get(f"/reports/{SECRET_RUN}").status_code == 403
        assert bo.get(f"/reports/{SECRET_RUN}").status_code == 404  # its report is on the runs Volume


def test_a_revoked_key_ends_its_sessions(deployed: Deployed) -> None:
    with log_in(deployed, deployed.cy) as cy:
        assert "Talk" in cy.get("/").text
        deployed.stage.tuneline("keys", "revoke", "cy", "--modal")
        eventually(lambda: 'name="key"' in cy.get("/").text)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium on the PATH")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def open_page(browser: Any, deployed: Deployed, key: str) -> Any:
    page = browser.new_context().new_page()
    page.set_default_timeout(60_000)
    page.goto(deployed.url)
    enter_key(page, key)
    return page


def enter_key(page: Any, key: str) -> None:
    page.get_by_label("Key of the gateway").fill(key)
    page.get_by_role("button", name="Open").click()
    page.get_by_label("Question", exact=True).wait_for()


def test_a_conversation_outlives_its_container_and_is_its_owners_alone(browser: Any, deployed: Deployed) -> None:
    bo = open_page(browser, deployed, deployed.bo)
    assert "You said: hello" in ask(bo, "hello", "echo").inner_text()
    address = bo.url
    assert "?c=" in address
    conversations = deployed.stage.volume("ui") / "conversations"
    eventually(lambda: [file.parent.name for file in conversations.rglob("*.json")] == ["bo"])
    assert deployed.stage.ask("preempt/Page.*", post=True) == 1  # an open page is an input
    session = cookies(bo)
    bo.close()  # it reloads itself once a server answers again, perhaps while the key is typed
    eventually(lambda: has_no_session(deployed, session), 240)
    bo = open_page(browser, deployed, deployed.bo)
    bo.goto(address)
    bo.get_by_text("You said: hello").wait_for()

    ann = open_page(browser, deployed, deployed.ann)
    ann.goto(address)
    ann.get_by_label("Question", exact=True).wait_for()
    assert ann.get_by_text("hello").count() == 0
    ann.get_by_role("button", name="Log out").click()
    ann.get_by_label("Key of the gateway").wait_for()


def has_no_session(deployed: Deployed, cookies: dict[str, str]) -> bool:
    """Return whether another container answers; not while it starts, which takes long on a busy machine."""
    try:
        return 'name="key"' in httpx.get(deployed.url, headers=cookies, timeout=30).text
    except httpx.TransportError:
        return False


def cookies(page: Any) -> dict[str, str]:
    return {"cookie": "; ".join(f"{cookie['name']}={cookie['value']}" for cookie in page.context.cookies())}


def test_an_operator_holds_traffic_through_the_one_writer_and_sees_runs(browser: Any, deployed: Deployed) -> None:
    bo = open_page(browser, deployed, deployed.bo)
    ask(bo, "seen by operators", "echo")
    bo.goto(f"{deployed.url}/?tab=Watch")
    bo.get_by_role("region", name="Sampled answers").get_by_text("seen by operators").first.wait_for()
    rollout = bo.get_by_role("region", name="Rollout echo other")
    rollout.get_by_role("button", name="Hold here").click()
    bo.get_by_role("button", name="Yes", exact=True).click()
    bo.get_by_text("held (move 1)").wait_for()
    record = json.loads((deployed.stage.volume("policy") / "traffic/echo.json").read_text())
    assert record["tasks"]["other"][-1]["by"] == "bo"
    rollout.get_by_text("held").wait_for()  # by the page's copy of the policy
    bo.get_by_role("tab", name="Runs").click()
    bo.get_by_role("cell", name=SECRET_RUN).wait_for()


def test_what_it_takes_is_in_the_costs(deployed: Deployed) -> None:
    httpx.get(deployed.url, timeout=120)
    ledgers = deployed.stage.volume("logs") / ".ledger"
    eventually(lambda: any(file.name.startswith("page-") for file in ledgers.glob("*")), 60)
    spent = json.loads(deployed.stage.tuneline("cost", "--modal", "--json"))
    assert sum(line["usd"] for line in spent if line["name"] == "page") > 0


def test_a_container_of_the_page_imports_no_torch() -> None:
    modules = "tuneline.ui.deployed_page, tuneline.volumes.page_container, tuneline.volumes.remote"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
