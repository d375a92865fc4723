"""Watch in a real browser: figures of real requests, a rollout that is held, answers that stay text."""

from collections.abc import Callable
from typing import Any

import openai

from tests.ui.conftest import Site
from tests.ui.test_talk import assert_harmless
from tuneline.endpoints.traffic.records import read_record

Open = Callable[..., Any]


def ask(site: Site, question: str, user: str) -> None:
    client = openai.OpenAI(base_url=f"{site.gateway}/v1", api_key=site.key, max_retries=0)
    client.chat.completions.create(model="router", messages=[{"role": "user", "content": question}], user=user)


def test_figures_a_rollout_and_samples(open_page: Open, site: Site, monkeypatch: Any) -> None:
    for number in range(30):
        ask(site, "evil" if number == 29 else f"question {number}", f"user{number}")
    page = open_page("/?tab=Watch")
    now = page.get_by_role("region", name="Now")
    now.get_by_text("errors in 5 min").wait_for()
    assert "USD" in now.inner_text() and "waiting" in now.inner_text()
    sample = page.get_by_role("region", name="Sampled answers").locator("details").first
    sample.locator("summary").click()
    assert "<img src=x onerror" in sample.inner_text()
    assert_harmless(page)
    rollout = page.get_by_role("region", name="Rollout router other")
    rollout.get_by_text("more requests").wait_for()
    rollout.get_by_role("img", name="answered: candidate minus baseline").get_by_text("at least").wait_for()
    ask(site, "one more", "another")
    page.get_by_text("one more").first.wait_for()
    assert sample.get_attribute("open") is None  # the new one is on top, and the opened one stays open below it
    assert page.locator(".samples details[open]").count() == 1
    monkeypatch.setenv("TUNELINE_POLICY", str(site.home / "policy"))
    rollout.get_by_role("button", name="Hold here").click()
    page.get_by_role("button", name="No", exact=True).click()
    record = read_record("router")
    assert record and not record.tasks["other"][-1].held
    rollout.get_by_role("button", name="Hold here").click()
    page.get_by_role("button", name="Yes", exact=True).click()
    rollout.get_by_text("50 %, held").wait_for()
    record = read_record("router")
    assert record and record.tasks["other"][-1].held


def test_watch_on_a_phone_in_the_dark(open_page: Open) -> None:
    page = open_page("/?tab=Watch", width=390, height=780, dark=True)
    page.get_by_role("region", name="Now").get_by_text("requests/s", exact=True).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
