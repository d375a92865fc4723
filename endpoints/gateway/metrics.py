"""Prometheus metrics of the gateway. Labels are bounded: names of settings and promotions, never what callers send."""

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping

import aiohttp
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

from tuneline.endpoints.gateway.admission import Admission
from tuneline.endpoints.gateway.forwarding import Forwarder
from tuneline.endpoints.request_log.lines import RequestLine
from tuneline.endpoints.traffic.assignment import BUCKETS, SHARES
from tuneline.endpoints.traffic.rollouts import Rollout

SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3, 6, 12, 25, 50, 100, 300)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28)
UNKNOWN = "unknown"
"""The model of a request for a name that is not served: callers can send any."""
ENGINE_TIMEOUT_S = 2.0
ENGINE_BYTES = 4 << 20
BREAKER = {"closed": 0.0, "half open": 0.5, "open": 1.0}


class Metrics:
    """Counters of what happened; what is so now is asked when they are read."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        of_request = ["model", "task", "side"]
        self._requests = self._counter("requests", "Requests by outcome.", [*of_request, "outcome"])
        self._failures = self._counter("upstream_failures", "Failed attempts.", ["target", "kind"])
        self._tokens = self._counter("tokens", "Tokens.", ["target", "kind"])
        self._cost = self._counter("cost_usd", "Cost of the answers.", ["target"])
        self._shadows = self._counter("shadow_requests", "Requests repeated for a candidate.", ["model", "outcome"])
        self._first = self._histogram("first_token_seconds", "Time to the first token, or to a whole answer.", SECONDS)
        self._latency = self._histogram("latency_seconds", "Time to the last byte.", SECONDS)
        self._between = self._histogram("inter_token_seconds", "Mean time between tokens of an answer.", TOKEN_SECONDS)

    def observe(self, line: RequestLine, served_names: Collection[str]) -> None:
        """Count a request that has ended."""
        model = line.model if line.model in served_names else UNKNOWN
        if line.shadow_of:
            self._shadows.labels(model, line.outcome).inc()
        else:
            self._requests.labels(model, line.task or UNKNOWN, line.served or "none", line.outcome).inc()
        if model == UNKNOWN:
            return
        for failure in line.failures:
            target, _, kind = failure.rpartition(": ")
            self._failures.labels(target, kind).inc()
        if not line.target:
            return
        self._tokens.labels(line.target, "prompt").inc(line.prompt_tokens)
        self._tokens.labels(line.target, "completion").inc(line.completion_tokens)
        self._cost.labels(line.target).inc(line.usd)
        if line.first_token_s is not None:
            self._first.labels(line.target).observe(line.first_token_s)
            self._latency.labels(line.target).observe(line.latency_s)
            if line.completion_tokens > 1 and line.latency_s > line.first_token_s:
                self._between.labels(line.target).observe(
                    (line.latency_s - line.first_token_s) / (line.completion_tokens - 1)
                )

    def render(self, state: "State", engines: Mapping[str, str]) -> bytes:
        """Return everything in Prometheus' text format; `engines` is name → its engine's own metrics as text."""
        now = CollectorRegistry()
        now.register(_Collected([*state.families(), *_engine_families(engines)]))
        return generate_latest(self.registry) + generate_latest(now)

    def _counter(self, name: str, text: str, labels: list[str]) -> Counter:
        return Counter(f"tuneline_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"tuneline_{name}", text, ["target"], buckets=buckets, registry=self.registry)


class State:
    """What is so at the moment."""

    def __init__(self, admission: Admission, forwarder: Forwarder, rollouts: Iterable[Rollout], broken: bool) -> None:
        self._admission, self._forwarder, self._rollouts, self._broken = admission, forwarder, rollouts, broken

    def families(self) -> Iterator[Metric]:
        """Yield gauges: queue, upstreams, rollouts, settings."""
        yield _gauge("waiting", "Requests in the queue.", [], [((), self._admission.waiting)])
        yield _gauge("active", "Requests being answered.", [], [((), self._admission.active)])
        yield _gauge("settings_broken", "1 if gateway.yaml was edited and cannot be read.", [], [((), self._broken)])
        by_label = {upstream.target.label: upstream for upstream in self._forwarder.upstreams}
        yield _gauge("upstream_active", "Requests at an upstream.", ["target"],
                     [((label,), upstream.in_flight) for label, upstream in by_label.items()])  # fmt: skip
        yield _gauge("breaker_open", "Circuit breaker: 0 closed, 0.5 half open, 1 open.", ["target"],
                     [((label,), BREAKER[upstream.breaker.state]) for label, upstream in by_label.items()])  # fmt: skip
        yield _gauge("budget_left_usd", "Remaining budget of a target today.", ["target"],
                     [((label,), budget - self._forwarder.spent_today(label)) for label, upstream in by_label.items()
                      if (budget := upstream.target.budget_usd_per_day) is not None])  # fmt: skip
        yield from self._rollout_families()

    def _rollout_families(self) -> Iterator[Metric]:
        rollouts = [((rollout.model, rollout.task), rollout) for rollout in self._rollouts]
        yield _gauge("candidate_share", "Share of units assigned to the candidate.", ["model", "task"],
                     [(place, SHARES[rollout.step.step] / BUCKETS) for place, rollout in rollouts])  # fmt: skip
        yield _gauge("held", "1 if a rollout waits for a person.", ["model", "task"],
                     [(place, rollout.step.held) for place, rollout in rollouts])  # fmt: skip
        yield _gauge("requests_missing", "Estimated requests needed for the next step.", ["model", "task"],
                     [(place, rollout.verdict.missing_requests) for place, rollout in rollouts])  # fmt: skip
        for bound in ("lower", "difference", "upper"):
            yield _gauge(f"outcome_{bound}", "Bounds of candidate minus baseline at this "
                "step.", ["model", "task", "outcome"],
                         [((*place, outcome), numbers[bound]) for place, rollout in rollouts
                          for outcome, numbers in rollout.verdict.numbers.items()])  # fmt: skip


async def read_engines(addresses: Mapping[str, str]) -> dict[str, str]:
    """Return name → the metrics of its engine, of those that answer; `addresses` are of their OpenAI API."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(ENGINE_TIMEOUT_S)) as session:
        texts = await asyncio.gather(*(_read(session, address) for address in addresses.values()))
    return {name: text for name, text in zip(addresses, texts, strict=True) if text}


async def _read(session: aiohttp.ClientSession, address: str) -> str:
    try:
        async with session.get(f"{address.removesuffix('/v1')}/metrics") as response:
            content = await response.content.read(ENGINE_BYTES)
            return content.decode("utf-8", "replace") if response.status == 200 else ""
    except (aiohttp.ClientError, OSError, TimeoutError):
        return ""


def _engine_families(texts: Mapping[str, str]) -> list[Metric]:
    """Return the engines' own metrics, each with the label `engine`; text that is no metrics is left out."""
    families: dict[str, Metric] = {}
    for engine, text in texts.items():
        try:
            for family in text_string_to_metric_families(text):
                mine = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    mine.samples.append(sample._replace(labels=sample.labels | {"engine": engine}))
        except ValueError:
            continue
    return list(families.values())


def _gauge(name: str, text: str, labels: list[str], values: Iterable[tuple[Iterable[str], float]]) -> Metric:
    family = GaugeMetricFamily(f"tuneline_{name}", text, labels=labels)
    for names, value in values:
        family.add_metric(list(names), float(value))
    return family


class _Collected:
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families
