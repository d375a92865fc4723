"""Runs in a real browser: the table, curves that grow, two side by side, reports."""

from collections.abc import Callable
from typing import Any

from tests.ui.conftest import EVIL_NAME, Site
from tests.ui.test_talk import assert_harmless
from tuneline.core.events import Events

Open = Callable[..., Any]


def choose_run(page: Any, name: str) -> None:
    page.get_by_role("row").filter(has=page.get_by_role("cell", name=name, exact=True)).get_by_role("checkbox").click()


def test_two_runs_side_by_side_and_a_curve_that_grows(open_page: Open, site: Site) -> None:
    page = open_page("/?tab=Runs")
    choose_run(page, "alpha")
    first = page.get_by_role("region", name="Run alpha")
    assert "finished" in first.inner_text() and "USD" in first.inner_text()
    loss = page.get_by_role("img", name="loss")
    loss.get_by_text("290", exact=True).wait_for()  # the axis ends at the last step
    Events(site.home / "runs" / "alpha", "train").emit("metrics", step=777, steps=999, loss=0.1)
    loss.get_by_text("777", exact=True).wait_for()
    choose_run(page, "beta")
    loss.get_by_text("beta: loss").wait_for()
    assert page.get_by_role("region", name="Run ").count() == 2
    with page.expect_popup() as popup:
        first.get_by_role("link", name="report").click()
    assert popup.value.get_by_role("heading").inner_text() == "Report of alpha"
    assert popup.value.title() != "XSS"


def test_names_and_bases_never_become_html(open_page: Open) -> None:
    page = open_page("/?tab=Runs")
    page.get_by_role("cell", name=EVIL_NAME, exact=True).wait_for()
    assert_harmless(page)
    choose_run(page, EVIL_NAME)
    page.get_by_text("letters, digits").wait_for()
    assert_harmless(page)


def test_runs_on_a_phone_in_the_dark(open_page: Open) -> None:
    page = open_page("/?tab=Runs", width=390, height=780, dark=True)
    choose_run(page, "alpha")
    page.get_by_role("img", name="loss").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
