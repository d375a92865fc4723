"""The tab Compare: one question, two models side by side, and which answer is better."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from nicegui import events, ui

from tuneline.configs.evaluation import Suite
from tuneline.configs.yaml_loader import read_yaml
from tuneline.core.errors import BadRecipe, TunelineError
from tuneline.core.machine import get_user_name
from tuneline.core.paths import ROOT
from tuneline.stages.evaluate.suites.suite_items import make_items
from tuneline.stages.evaluate.verdicts.ratings import Preference, Vote
from tuneline.ui.access import LOCAL
from tuneline.ui.answer_view import AnswerView, describe_figures
from tuneline.ui.conversation import Conversation, Turn
from tuneline.ui.elements import alert, plain, select, text_button
from tuneline.ui.live_ballot import LiveBallot
from tuneline.ui.page_context import PageContext

REFRESH_S = 0.12
OWN = ""
"""The choice of own questions instead of a suite's."""
SUITES = ROOT / "configs" / "suites"
LEAVE_MENU = """const e = document.activeElement
if (e.tagName !== 'TEXTAREA' || !e.value || e.value.trim() === QUESTION) e.blur()"""
"""Arrow keys are votes where no field has the focus; a text that is being typed keeps it."""
KEYS: dict[str, Vote] = {"ArrowLeft": "left", "ArrowRight": "right", "ArrowDown": "equal"}


@dataclass
class _Pair:
    """A question with its two answers, as they arrive."""

    item: str
    question: str
    is_blind: bool
    sides: tuple[Turn, Turn]
    views: tuple[AnswerView, AnswerView]
    figures: tuple[ui.label, ui.label]
    takes_votes: bool = False
    voted: bool = False

    @property
    def is_answered(self) -> bool:
        return all(turn.state != "running" for turn in self.sides)


class CompareTab:
    """Questions one after the other, with votes."""

    def __init__(self, page: PageContext) -> None:
        self._page = page
        self._pair: _Pair | None = None
        self._ballot: LiveBallot | None = None
        self._questions: list[str] = []
        self._build()
        page.on_models.append(self._show_models)
        self._show_models()
        self._say("")
        ui.keyboard(on_key=self._press)
        ui.timer(REFRESH_S, self._refresh)

    def _build(self) -> None:
        with ui.element("div").classes("tabpage"):
            with ui.element("div").classes("toolbar"):
                self._a, self._b = select("Model A", {}), select("Model B", {})
                suites = {OWN: "my own", **{name: f"suite {name}" for name in _list_suites()}}
                self._suite = select("Questions", suites, OWN, self._open_suite)
                self._blind = ui.switch("Blind", value=True)
            self._problem = alert("")
            with ui.element("div").classes("askline"):
                self._question = ui.textarea("Question for both").props("outlined autogrow dense").classes("wide")
                self._question.on("keydown.enter.exact.prevent", self._ask)
                text_button("Ask both", self._ask, primary=True)
            self._asked = plain("", "strong")
            self._answers = ui.element("div").classes("sides")
            with ui.element("div").classes("votes") as self._votes:
                text_button("← Left is better", lambda: self._vote("left"))
                text_button("↓ Equal", lambda: self._vote("equal"))
                text_button("Right is better →", lambda: self._vote("right"))
            self._votes.set_visibility(False)
            self._summary = ui.element("div").classes("stack")

    def _show_models(self) -> None:
        labels = {model.label: model.label for model in self._page.offered}
        for element, default in ((self._a, 0), (self._b, 1)):
            chosen: Any = element.value if element.value in labels else next(iter([*labels][default:]), None)
            element.set_options(labels, value=chosen)

    def _open_suite(self) -> None:
        """Take the questions of the chosen suite, and put the first one into the field."""
        self._say("")
        self._questions = []
        if self._suite.value:
            try:
                self._questions = _read_suite(str(self._suite.value))
            except TunelineError as error:
                self._say(str(error))
        self._take_next()

    def _take_next(self) -> None:
        if self._questions:
            self._question.set_value(self._questions.pop(0))

    def _ask(self) -> None:
        question = (self._question.value or "").strip()
        models = [self._page.find_model(str(element.value or "")) for element in (self._a, self._b)]
        if not question or (self._pair and not self._pair.is_answered):
            return
        if not models[0] or not models[1] or models[0] == models[1]:
            self._say("choose two different models")
            return
        self._say("")
        ballot = self._open_ballot(models[0].label, models[1].label)
        item, is_blind = ballot.add_question(is_blind=self._blind.value), bool(self._blind.value)
        order = models if ballot.a_is_left[item] else models[::-1]
        turns = [Turn(question=question, model=model.label) for model in order if model]
        self._show_pair(item, question, is_blind, (turns[0], turns[1]))
        for turn, model in zip(turns, order, strict=True):
            assert model
            conversation = Conversation(id=f"{ballot.id}-{item}-{id(turn)}", turns=[turn])
            self._page.answering.ask(conversation, model, lambda _: None)
        self._question.set_value("")

    def _open_ballot(self, a: str, b: str) -> LiveBallot:
        """Return the ballot of these two models: a new one where the models are others than before."""
        if self._ballot is None or (self._ballot.a, self._ballot.b) != (a, b):
            visitor = self._page.session.visitor
            self._ballot = LiveBallot(a, b, get_user_name() if visitor == LOCAL else visitor.owner)
            self._summary.clear()
        return self._ballot

    def _show_pair(self, item: str, question: str, is_blind: bool, turns: tuple[Turn, Turn]) -> None:
        self._asked.set_text(question)
        self._answers.clear()
        views, figures = [], []
        with self._answers:
            for side, turn in zip(("Left", "Right"), turns, strict=True):
                with ui.element("section").classes("card").props(f'aria-label="{side} answer"'):
                    ui.label(side if is_blind else f"{side}: {turn.model}").classes("figures")
                    views.append(AnswerView(turn))
                    figures.append(ui.label().classes("figures"))
        self._pair = _Pair(item, question, is_blind, turns, (views[0], views[1]), (figures[0], figures[1]))
        self._votes.set_visibility(False)

    def _refresh(self) -> None:
        if (pair := self._pair) is None:
            return
        for turn, view, figures in zip(pair.sides, pair.views, pair.figures, strict=True):
            view.update()
            figures.set_text(describe_figures(turn, is_blind=pair.is_blind and not pair.voted))
        self._votes.set_visibility(pair.takes_votes and not pair.voted)
        if pair.is_answered and not pair.takes_votes:
            ui.run_javascript(LEAVE_MENU.replace("QUESTION", json.dumps(pair.question)))
            pair.takes_votes = True

    def _press(self, event: events.KeyEventArguments) -> None:
        vote = KEYS.get(str(event.key.name or event.key))
        if vote and event.action.keydown and not event.action.repeat:
            self._vote(vote)

    def _vote(self, vote: Vote) -> None:
        pair, ballot = self._pair, self._ballot
        if pair is None or ballot is None or pair.voted or not pair.takes_votes:
            return
        pair.voted = True
        self._votes.set_visibility(False)  # with the count: who sees it and asks again meets no old buttons
        left, right = (_to_text(turn) for turn in pair.sides)
        file = ballot.vote(pair.item, vote, pair.question, left, right)
        self._show_summary(ballot.result(), file)
        self._take_next()
        if self._questions or self._question.value:
            self._ask()
        else:
            self._question.run_method("focus")

    def _show_summary(self, result: Preference, file: Path) -> None:
        self._summary.clear()
        won = f"{result.a} {result.a_won}, {result.b} {result.b_won}, equal {result.tied}"
        with self._summary, ui.element("section").classes("card").props('aria-label="Votes"'):
            ui.label(f"Votes: {result.items}")
            with ui.element("details").classes("fold"):
                with ui.element("summary"):
                    ui.label("which model they are for")
                plain(f"{won}: {result.verdict} (p = {result.p:.2g})")
            if self._page.session.visitor.is_operator:
                plain(self._page.describe_votes(file), "mono")

    def _say(self, problem: str) -> None:
        self._problem.set_text(problem)
        self._problem.set_visibility(bool(problem))


def _to_text(turn: Turn) -> str:
    calls = [f"{call.name}({call.arguments})" for call in turn.calls]
    return "\n".join([*([turn.answer] if turn.answer else []), *calls]) or turn.problem or "(nothing)"


@cache
def _list_suites() -> list[str]:
    return sorted(file.stem for file in SUITES.glob("*.yaml"))


def _read_suite(name: str) -> list[str]:
    """Return the questions of a suite that can be asked without a run's data.

    Raises:
        BadRecipe: it needs a run.
    """
    content = read_yaml(SUITES / f"{name}.yaml", BadRecipe)
    try:
        suite = Suite.model_validate({"name": name} | content)
    except ValueError:
        raise BadRecipe(f"suite {name}: cannot be read; `tuneline schema` prints its keys") from None
    if suite.styles or suite.lengths:
        raise BadRecipe(f"suite {name}: its items are made from a run's data; `tuneline rate` compares answers of runs")
    return [item.text for item in make_items(suite)]
