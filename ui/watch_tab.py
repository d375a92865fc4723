"""The tab Watch: the gateway as it is now, its cost, its rollouts and some answers."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from nicegui import ui

from tuneline.core.errors import TunelineError
from tuneline.endpoints.traffic.rollouts import Rollout
from tuneline.ui.answer_view import Shown
from tuneline.ui.charts import Points, draw, line_chart
from tuneline.ui.elements import alert, fold, plain, text_button
from tuneline.ui.gateway_state import GatewayState, describe_engines
from tuneline.ui.log_window import LogWindow, Sample, quantile
from tuneline.ui.traffic_history import Bounds
from tuneline.ui.watch_feed import EVERY_S, WatchFeed

MINUTE_S, RECENT_S = 60, 300
BUCKET_S = 10
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
NONE = "–"
NO_SAMPLES = "None: `log.prompts` in gateway.yaml says how many are logged."
ELSEWHERE = "The gateway's log is on another machine: these figures are its metrics."


class WatchTab:
    """Figures, charts, rollouts and samples; all of it from one feed."""

    def __init__(self, feed: WatchFeed, is_visible: Callable[[], bool]) -> None:
        """`is_visible` says whether anybody looks: a hidden tab asks nothing."""
        self._feed, self._is_visible, self._shown = feed, is_visible, Shown()
        self._figures: dict[str, ui.label] = {}
        self._rollouts: dict[tuple[str, str], _RolloutView] = {}
        self._sample_views: dict[str, ui.element] = {}
        with ui.element("div").classes("tabpage"):
            self._problem = alert("")
            self._note = plain("", "figures")
            self._tiles = ui.element("div").classes("tiles").props('role=region aria-label="Now"')
            with ui.element("div").classes("sides"):
                self._rates = line_chart("requests and errors per second", of_time=True)
                self._latency = line_chart("time to the last byte, s", of_time=True)
            self._engines = ui.element("div").classes("stack")
            ui.label("Rollouts").classes("strong")
            self._rollout_box = ui.element("div").classes("stack")
            ui.label("Sampled answers").classes("strong")
            self._no_samples = ui.label(NO_SAMPLES).classes("figures")
            self._samples = ui.element("div").classes("samples").props('role=region aria-label="Sampled answers"')
        ui.timer(EVERY_S, self._refresh)

    async def _refresh(self) -> None:
        if not self._is_visible():
            return
        await self._feed.refresh()
        self._problem.set_text(self._feed.problem)
        self._problem.set_visibility(bool(self._feed.problem))
        self._note.set_text("" if self._feed.log else ELSEWHERE)
        self._show_figures()
        self._draw()
        engines = describe_engines(self._feed.state) if self._feed.state else []
        self._shown.if_changed("engines", engines, lambda: self._show_engines(engines))
        self._show_rollouts()
        if self._feed.log:
            self._show_samples(self._feed.log.samples)

    def _show_figures(self) -> None:
        for name, value in list_figures(self._feed).items():
            if name not in self._figures:
                with self._tiles, ui.element("div").classes("tile"):
                    ui.label(name).classes("figures")
                    self._figures[name] = ui.label().classes("value")
            self._figures[name].set_text(value)

    def _draw(self) -> None:
        rates = self._feed.rates
        draw(
            self._rates,
            {
                "requests/s": [(1000 * rate.at, round(rate.requests_per_s, 3)) for rate in rates],
                "errors/s": [(1000 * rate.at, round(rate.errors_per_s, 3)) for rate in rates],
            },
        )
        curves = _latency_curves(self._feed.log) if self._feed.log else {}
        self._latency.set_visibility(any(curves.values()))
        draw(self._latency, curves)

    def _show_engines(self, engines: list[tuple[str, str]]) -> None:
        self._engines.clear()
        with self._engines:
            for name, figures in engines:
                plain(f"{name}: {figures}", "figures")

    def _show_rollouts(self) -> None:
        places = [(rollout.model, rollout.task) for rollout in self._feed.rollouts]
        self._shown.if_changed("places", places, lambda: self._lay_out_rollouts(places))
        for rollout in self._feed.rollouts:
            self._rollouts[rollout.model, rollout.task].update(rollout)

    def _lay_out_rollouts(self, places: list[tuple[str, str]]) -> None:
        self._rollout_box.clear()
        self._rollouts.clear()
        with self._rollout_box:
            for model, task in places:
                self._rollouts[model, task] = _RolloutView(self._feed, model, task)
            if not places:
                ui.label("No model of gateway.yaml has a candidate.").classes("figures")

    def _show_samples(self, samples: Mapping[str, Sample]) -> None:
        """Put new samples on top; an opened one stays open."""
        self._no_samples.set_visibility(not samples)
        for identity in [known for known in self._sample_views if known not in samples]:
            self._sample_views.pop(identity).delete()
        for identity, sample in samples.items():
            if identity not in self._sample_views:
                with self._samples, fold("") as view:
                    plain(sample.question, "mono")
                    plain(sample.answer or NONE, "mono")
                view.move(target_index=0)
                self._sample_views[identity] = view
            _set_summary(self._sample_views[identity], _describe_sample(sample))


def _describe_sample(sample: Sample) -> str:
    marks = f" · {', '.join(sample.marks)}" if sample.marks else ""
    return f"{sample.at:%H:%M:%S} · {sample.model} · {sample.side}{marks} · {_shorten(sample.question)}"


def _set_summary(view: ui.element, text: str) -> None:
    label = next(element for element in view.descendants() if isinstance(element, ui.label))
    label.set_text(text)


class _RolloutView:
    """One model's task: its share, its test as it narrows, and its two moves."""

    def __init__(self, feed: WatchFeed, model: str, task: str) -> None:
        self._feed, self._model, self._task, self._shown = feed, model, task, Shown()
        with ui.element("section").classes("card").props(f'aria-label="Rollout {model} {task}"'):
            with ui.element("div").classes("toolbar"):
                ui.label(f"{model}, {task}").classes("strong")
                self._step = ui.label().classes("state")
                self._verdict = ui.label().classes("figures")
            self._missing = plain("")
            self._charts = ui.element("div").classes("sides")
            with ui.element("div").classes("buttons"):
                text_button("Hold here", lambda: self._confirm("hold"))
                text_button("Back to the baseline", lambda: self._confirm("back"))
        self._by_outcome: dict[str, ui.echart] = {}

    def update(self, rollout: Rollout) -> None:
        """Show the rollout as it is."""
        self._shown.if_changed("all", rollout, lambda: self._show(rollout))

    def _show(self, rollout: Rollout) -> None:
        step = rollout.step
        share = f"{step.step} %" if step.step.isdecimal() else step.step
        self._step.set_text(f"{share}, held" if step.held else share)
        self._verdict.set_text(f"{rollout.verdict.action} · {rollout.requests:,} requests")
        missing = rollout.verdict.missing_requests
        lines = (
            [f"about {missing:,} more requests; about {rollout.planned:,} were planned for this step"]
            if missing
            else []
        )
        self._missing.set_text("\n".join([*lines, *rollout.verdict.reasons]))
        self._draw(rollout)

    def _draw(self, rollout: Rollout) -> None:
        traffic = self._feed.traffic
        narrowing = traffic.narrowings.get((self._model, self._task)) if traffic else None
        for outcome, points in (narrowing.by_outcome if narrowing else {}).items():
            if outcome not in self._by_outcome:
                with self._charts:
                    title = f"{outcome}: candidate minus baseline"
                    self._by_outcome[outcome] = line_chart(title, "requests")
            assert traffic
            margin = -traffic.margin(rollout)
            draw(
                self._by_outcome[outcome],
                {
                    "difference": [(point.requests, point.difference) for point in points],
                    "at least": [(point.requests, point.lower) for point in points],
                    "at most": [(point.requests, point.upper) for point in points],
                    "no worse than": [(point.requests, round(margin, 4)) for point in (points[0], points[-1])],
                },
                dashed=("at least", "at most", "no worse than"),
                reach=_find_reach(points, margin),
            )

    def _confirm(self, verb: str) -> None:
        """Ask once, then move."""
        what = "stay at this step until a person moves it" if verb == "hold" else "send all traffic to the baseline now"
        with ui.dialog() as dialog, ui.card():
            ui.label(f"{self._model}, {self._task}: {what}?")
            with ui.element("div").classes("buttons"):
                text_button("Yes", lambda: self._move(dialog, verb), primary=True)
                text_button("No", dialog.close)
        dialog.on("hide", dialog.delete)
        dialog.open()

    async def _move(self, dialog: ui.dialog, verb: str) -> None:
        client = ui.context.client  # the dialog, whose slot this runs in, is gone when a move takes longer than its end
        dialog.close()
        traffic = self._feed.traffic
        if traffic is None:
            return
        try:
            move = await asyncio.to_thread(traffic.hold if verb == "hold" else traffic.back, self._model, self._task)
            with client:
                ui.notify(f"{self._model}, {self._task}: at {move.step}, held (move {move.number})", type="positive")
        except TunelineError as error:
            with client:
                ui.notify(str(error), type="negative")


def _find_reach(points: Sequence[Bounds], margin: float) -> float:
    """Return how far up and down a test is drawn: its first bounds are too wide to see the later ones beside them."""
    later = [point for point in points if 4 * point.requests >= points[-1].requests]
    widest = max(max(abs(point.lower), abs(point.upper)) for point in later)
    return round(1.2 * max(widest, abs(margin)), 2)


def list_figures(feed: WatchFeed) -> dict[str, str]:
    """Return what the tiles say; a figure that is not known is a dash."""
    state, log = feed.state, feed.log
    figures = _list_metrics(feed, state) if state else {}
    if log is None:
        return figures
    recent = log.since(RECENT_S)
    first = [request.first_token_s for request in recent if request.first_token_s is not None]
    latencies = [request.latency_s for request in recent if request.ok]
    today, month = log.spent()
    figures["first token, p50 · p95"] = f"{_seconds(quantile(first, 0.5))} · {_seconds(quantile(first, 0.95))}"
    last = " · ".join(_seconds(quantile(latencies, share)) for share in QUANTILES.values())
    figures["last byte, p50 · p95 · p99"] = last
    figures["errors in 5 min"] = _share(sum(not request.ok for request in recent), len(recent))
    left = sum(state.budgets_left_usd.values()) if state and state.budgets_left_usd else None
    figures["cost today"] = f"{today:.2f} USD" + (f", {left:.2f} left" if left is not None else "")
    figures["cost this month"] = f"{month:.2f} USD"
    return figures


def _list_metrics(feed: WatchFeed, state: GatewayState) -> dict[str, str]:
    last = list(feed.rates)[-int(MINUTE_S / EVERY_S) :]

    def mean(values: list[float]) -> str:
        return f"{sum(values) / len(values):.2f}" if values else NONE

    figures = {
        "requests/s": mean([rate.requests_per_s for rate in last]),
        "tokens/s": mean([rate.tokens_per_s for rate in last]),
        "answering · waiting": f"{state.active:.0f} · {state.waiting:.0f}",
    }
    return figures | ({"passed over": ", ".join(state.broken)} if state.broken else {})


def _latency_curves(log: LogWindow) -> dict[str, Points]:
    """Return a curve for each quantile, a point for every ten seconds with a request."""
    buckets: dict[int, list[float]] = {}
    for request in log.served:
        if request.ok:
            buckets.setdefault(int(request.at.timestamp()) // BUCKET_S, []).append(request.latency_s)
    now = int(datetime.now(UTC).timestamp()) // BUCKET_S
    whole = sorted((number, values) for number, values in buckets.items() if number <= now)
    return {
        name: [(1000.0 * BUCKET_S * number, quantile(values, share)) for number, values in whole]
        for name, share in QUANTILES.items()
    }


def _seconds(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f} s"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%} of {whole:,}" if whole else NONE


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 70 else f"{line[:69]}…"
