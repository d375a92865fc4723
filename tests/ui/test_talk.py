"""Talk in a real browser: answers, calls, confirmations, feedback; what models say never becomes HTML."""

import contextlib
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.ui.conftest import EVIL, Site
from tuneline.endpoints.request_log.export import read_requests
from tuneline.ui.conversation import Conversation, ConversationStore, ToolCall, Turn

Open = Callable[..., Any]
ANSWERED = "first token after"


def ask(page: Any, question: str, model: str = "tuned", until: str = ANSWERED) -> Any:
    """Ask in a new conversation and return its turn, when it says `until`."""
    page.get_by_role("button", name="New conversation").click()
    page.get_by_role("region", name="Question").first.wait_for(state="detached")
    choose(page, "Model", model)
    return ask_more(page, question, until)


def choose(page: Any, label: str, option: str) -> None:
    page.get_by_role("combobox", name=label).click()
    page.get_by_role("option", name=option, exact=True).click()
    page.get_by_role("listbox").wait_for(state="detached")


def ask_more(page: Any, question: str, until: str = ANSWERED) -> Any:
    number = page.get_by_role("region", name="Question").count()
    turn = page.get_by_role("region", name="Question").nth(number)
    send(page.get_by_label("Question", exact=True), question, turn)
    turn.get_by_text(until).wait_for()
    return turn


def send(field: Any, question: str, shown: Any) -> None:
    """Ask until `shown` is there: what opens late empties the field, a menu that closes late takes the focus."""
    from playwright.sync_api import TimeoutError as NotShown

    for _ in range(3):
        field.fill(question)
        field.press("Enter")
        with contextlib.suppress(NotShown):
            shown.wait_for(timeout=10_000)
            return
    raise AssertionError(f"{question[:40]!r} was not sent: {field.page.locator('body').inner_text()!r}")


def assert_harmless(page: Any) -> None:
    """Nothing of `EVIL` became an element or ran."""
    assert page.title() == "Tuneline"
    for element in ("img", "iframe", "svg[onload]", ".markdown script", "[onerror]", "a[href^=javascript]"):
        assert page.locator(element).count() == 0, element


def test_an_answer_streams_with_its_figures_and_survives_a_reload(open_page: Open) -> None:
    page = open_page()
    turn = ask(page, "hello **you**")
    assert turn.locator("strong").inner_text() == "you"
    assert re.search(r"tuned · 3 tokens · \d\.\d s · first token after \d\.\d\d s", turn.inner_text())
    ask_more(page, "again")
    page.reload()
    assert page.get_by_role("region", name="Question").count() == 2
    assert "token=" not in page.url
    page.get_by_role("button", name="Earlier conversations").click()
    page.get_by_text("hello **you**", exact=True).last.wait_for()


def test_what_models_tools_and_people_say_never_becomes_html(open_page: Open) -> None:
    page = open_page()
    turn = ask(page, f"evil {EVIL}")
    assert "<img src=x onerror" in turn.locator(".answer").inner_text()
    links = turn.locator(".answer a")
    assert [link.get_attribute("href") for link in links.all()] == [
        "http://127.0.0.1:9/leak.png",
        "https://example.org",
    ]
    assert links.last.get_attribute("rel") == "noopener noreferrer nofollow"
    assert_harmless(page)
    turn = ask(page, "evil rate", "assistant")
    turn.locator("summary", has_text="rates.get").click()
    assert turn.locator("details").inner_text().count("<img src=x onerror") == 2  # arguments and result
    assert_harmless(page)
    page.reload()  # stored
    page.get_by_role("region", name="Question").first.wait_for()
    assert_harmless(page)
    page.get_by_role("button", name="Earlier conversations").click()
    page.get_by_role("menuitem").first.wait_for()
    assert_harmless(page)


def test_calls_are_folded_and_what_is_dangerous_asks_first(open_page: Open) -> None:
    page = open_page()
    turn = ask(page, "what is the rate?", "assistant")
    assert not turn.get_by_text('"IDR"', exact=False).first.is_visible()
    turn.locator("summary", has_text="rates.get").click()
    assert "16250" in turn.locator("details").inner_text()
    turn = ask(page, "send it", "assistant", "runs only if you say so")
    assert '"to": "Bob"' in turn.inner_text() and "waits for your confirmation" not in turn.inner_text()
    page.reload()
    page.get_by_role("button", name="Run it", exact=True).click()
    turn.get_by_text("The result is sent 5 to Bob").wait_for()
    assert page.get_by_role("button", name="Run it", exact=True).count() == 0
    turn = ask(page, "send it", "assistant", "runs only if you say so")
    page.get_by_role("button", name="Do not run it").click()
    turn.get_by_text("The result is").wait_for()
    assert "sent 5" not in turn.inner_text()


def test_an_answer_is_stopped_repeated_and_its_question_edited(open_page: Open) -> None:
    page = open_page()
    turn = ask(page, "wait", "slow", "w4")
    page.get_by_role("button", name="Stop the answer").click()
    turn.get_by_text("stopped").wait_for()
    choose(page, "Model", "tuned")
    turn.get_by_role("button", name="Answer again").click()
    page.get_by_text("You said: wait").wait_for()
    page.get_by_role("button", name="Edit the question").click()
    page.get_by_text("This replaces the last question").wait_for()
    field = page.get_by_label("Question", exact=True)
    field.fill("better")
    field.press("Enter")
    page.get_by_text("You said: better").wait_for()
    assert page.get_by_role("region", name="Question").count() == 1


def test_feedback_reaches_the_request_log(open_page: Open, site: Site) -> None:
    page = open_page()
    turn = ask(page, "rated question")
    turn.get_by_role("button", name="Bad answer").click()
    turn.get_by_role("textbox").fill("It should have said this")
    turn.get_by_role("button", name="Send").click()
    page.get_by_text("written to the request log").last.wait_for()
    turn.get_by_role("textbox").wait_for(state="detached")
    logged = [r for r in read_requests(site.home / "logs").values() if "rated question" in str(r.get("prompt"))]
    assert [(r["value"], r["correction"]) for r in logged] == [(0.0, "It should have said this")]
    assert turn.get_by_role("button", name="Bad answer").get_attribute("aria-pressed") == "true"


def test_a_model_that_is_down_is_said(open_page: Open) -> None:
    page = open_page()
    turn = ask(page, "anybody?", "down", "no connection")
    turn.get_by_role("alert").wait_for()
    assert "down: no connection" in turn.get_by_role("alert").inner_text()


def test_a_phone_the_dark_and_the_keyboard_alone(open_page: Open) -> None:
    page = open_page(width=390, height=780, dark=True)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 30)"
    ask(page, "a long one " * 60)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page = open_page()
    page.keyboard.type("by keyboard")  # the field has the focus
    page.keyboard.press("Enter")
    page.get_by_text("You said: by keyboard").wait_for()
    for _ in range(30):
        page.keyboard.press("Shift+Tab")
        if page.evaluate("document.activeElement.ariaLabel") == "Good answer":
            break
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Good answer", pressed=True).wait_for()
    unnamed = "[...document.querySelectorAll('button, input, textarea')].filter(e => !e.closest('[aria-hidden=true]')"
    names = "&& !(e.ariaLabel || e.labels?.length || e.innerText.trim())).map(e => e.outerHTML)"
    assert page.evaluate(f"{unnamed}{names}") == []


@pytest.mark.slow
def test_two_thousand_messages_scroll_and_stay_text(
    open_page: Open, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELINE_UI", str(site.home / "ui"))
    call = ToolCall(name=EVIL, arguments=EVIL, result=EVIL)
    turns = [Turn(question=f"{n}: {EVIL}", answer=EVIL, model="tuned", state="done", calls=[call]) for n in range(1000)]
    conversation = Conversation(id="20260101-0123456789ab", turns=turns)
    ConversationStore("local").save(conversation)
    page = open_page(f"/?c={conversation.id}")
    page.get_by_text("999: Hi").wait_for()
    for _ in range(100):
        page.evaluate("() => { const b = document.querySelector('.messages'); b.scrollTop = -b.scrollHeight }")
        if page.locator(".turn").count() == 1000:
            break
        page.wait_for_timeout(100)
    assert page.locator(".turn").count() == 1000
    assert page.get_by_text("0: Hi **there**").count()
    assert_harmless(page)
    field = page.get_by_label("Question", exact=True)
    field.fill("still quick")
    field.press("Enter")
    page.get_by_text("You said: still quick").wait_for()
    ConversationStore("local").delete(conversation.id)
