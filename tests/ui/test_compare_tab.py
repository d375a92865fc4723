"""Compare in a real browser: blind sides, votes by arrow keys that `tuneline ratings` reads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.ui.conftest import Site
from tests.ui.test_talk import assert_harmless, choose, send
from tuneline.stages.evaluate.verdicts.ratings import read_ratings

Open = Callable[..., Any]


def begin(page: Any, question: str) -> None:
    choose(page, "Model A", "tuned")
    choose(page, "Model B", "other")
    send(page.get_by_label("Question for both"), question, page.get_by_role("button", name="Equal"))


def test_votes_by_keys_are_ratings(open_page: Open, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    page = open_page("/?tab=Compare")
    begin(page, "evil one")
    assert_harmless(page)
    left = page.get_by_role("region", name="Left answer")
    assert "tuned" not in left.inner_text() and "Hi there" in left.inner_text()
    page.keyboard.press("ArrowLeft")
    page.get_by_text("Votes: 1").wait_for()
    page.get_by_role("region", name="Right answer").get_by_text("3 tokens").wait_for()
    shown = [page.get_by_role("region", name=f"{side} answer").inner_text() for side in ("Left", "Right")]
    assert sorted("tuned" if "tuned ·" in text else "other" if "other ·" in text else "" for text in shown) == [
        "other",
        "tuned",
    ]  # who answered is told after the vote
    for key, count in (("ArrowRight", 2), ("ArrowDown", 3)):
        answer = page.get_by_role("region", name="Right answer").get_by_text(f"You said: question {count}")
        send(page.get_by_label("Question for both"), f"question {count}", answer)
        page.get_by_role("button", name="Equal").wait_for()
        page.keyboard.press(key)
        page.get_by_text(f"Votes: {count}").wait_for()
    [command] = [text for text in page.locator(".mono").all_inner_texts() if text.startswith("tuneline ratings")]
    file = Path(command.removeprefix("tuneline ratings "))
    monkeypatch.setenv("TUNELINE_UI", str(site.home / "ui"))
    result = read_ratings([file])
    key = json.loads(file.with_name(f"ballot-{result.ballot}.key.json").read_text("utf-8"))
    assert (result.a, result.b, result.items, result.tied) == ("tuned", "other", 3, 1)
    assert result.a_won == key["a_is_left"]["000"] + (not key["a_is_left"]["001"])
    assert result.left_share == 0.5


def test_a_suite_is_asked_item_by_item_by_name_on_a_phone(open_page: Open) -> None:
    page = open_page("/?tab=Compare", width=390, height=780, dark=True)
    choose(page, "Model A", "tuned")
    choose(page, "Model B", "other")
    page.get_by_role("switch", name="Blind").click()
    choose(page, "Questions", "suite pricing")
    page.get_by_role("button", name="Ask both").click()
    page.get_by_text("Left: tuned").wait_for()
    first = page.get_by_role("region", name="Right answer").inner_text()
    page.get_by_role("button", name="Equal").click()
    page.get_by_text("Votes: 1").wait_for()
    page.get_by_role("button", name="Equal").wait_for()
    assert page.get_by_role("region", name="Right answer").inner_text() != first  # the next item was asked
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_suite_that_needs_a_run_is_said(open_page: Open) -> None:
    page = open_page("/?tab=Compare")
    choose(page, "Questions", "suite style")
    page.get_by_role("alert").get_by_text("tuneline rate").wait_for()
