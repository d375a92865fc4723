"""Demands on what is measured after the evaluation: a load test of the served model, and a judge's scores."""

from collections.abc import Sequence
from math import inf
from pathlib import Path

from tuneline.configs.evaluation import Service
from tuneline.core import artifacts
from tuneline.stages.evaluate import statistics
from tuneline.stages.evaluate.load_testing.guidellm import LOAD, LoadResult
from tuneline.stages.evaluate.scoring.llm_judge import JUDGED, MIN_LABELS, JudgeResult
from tuneline.stages.evaluate.verdicts.reason import Reason

TAIL, CONFIDENCE = 0.95, 0.95
"""Quantile of the latencies that is bounded, and the confidence of its bound."""


def service_reasons(run: Path, demands: Service | None) -> list[Reason]:
    """Return the demands on the run's load test; one open demand if there is none of these files."""
    if demands is None:
        return []
    if not (run / LOAD).exists():
        return [Reason(None, f"service: not measured; `tuneline load {run.name}` does")]
    load = LoadResult.model_validate_json((run / LOAD).read_text())
    if load.convert != _fingerprint(run / "convert"):
        return [Reason(None, f"service: measured on other files; `tuneline load {run.name}` measures these")]
    where = f"of {load.requests} requests at {load.rate:g} a second"
    failed = load.errors / load.requests
    reasons: list[Reason | None] = [
        Reason(
            failed <= demands.errors, f"service: {failed:.1%} {where} failed, at most {demands.errors:.1%} demanded"
        ),
        _tail_at_most("p95 latency", load.latencies, load.errors, demands.p95_latency_s, where),
        _tail_at_most("p95 time to first token", load.first_tokens, load.errors, demands.p95_first_token_s, where),
        _at_most("memory of the server, GB", load.memory_gb, demands.memory_gb),
        _at_most(f"USD for 1,000 queries on {load.hardware}", load.usd_per_1000_queries, demands.usd_per_1000_queries),
    ]
    if demands.requests_per_second is not None:
        rate = load.requests_per_second
        line = f"service: {rate:.2f} requests a second answered, {demands.requests_per_second:g} demanded"
        reasons.append(Reason(rate >= demands.requests_per_second, line))
    return [reason for reason in reasons if reason]


def _tail_at_most(name: str, values: Sequence[float], errors: int, limit: float | None, where: str) -> Reason | None:
    """Compare the quantile's one-sided upper bound with a limit; a failed request counts as infinitely slow.

    The bound is an order statistic, so that no shape of the distribution is assumed.
    """
    if limit is None:
        return None
    all_values = [*values, *[inf] * errors]
    quantile, bound = statistics.quantile(all_values, TAIL), statistics.quantile_bound(all_values, TAIL, CONFIDENCE)
    if bound is None:
        line = f"service: {name} {quantile:.3f} s {where}: too few to bound it, 59 at least; at most {limit:g} demanded"
        return Reason(False if quantile > limit else None, line)
    line = f"service: {name} {quantile:.3f} s {where}, upper bound {bound:.3f} s, at most {limit:g} demanded"
    return Reason(False if quantile > limit else True if bound <= limit else None, line)


def _at_most(name: str, value: float | None, limit: float | None) -> Reason | None:
    if limit is None:
        return None
    if value is None:
        return Reason(None, f"service: {name}: not measured, at most {limit:g} demanded")
    return Reason(value <= limit, f"service: {name}: {value:.3g}, at most {limit:g} demanded")


def judge_reasons(run: Path, floor: float | None) -> list[Reason]:
    """Return the demand on the judge's scores; open if these answers were not judged, or with too few labels."""
    if floor is None:
        return []
    if not (run / JUDGED).exists():
        return [Reason(None, f"judge: nothing was judged; `tuneline judge {run.name}` does")]
    result = JudgeResult.model_validate_json((run / JUDGED).read_text())
    if result.evaluate != _fingerprint(run / "evaluate"):
        return [Reason(None, f"judge: other answers were judged; `tuneline judge {run.name}` judges these")]
    line = f"judge: {result.summary}"
    if result.labels < MIN_LABELS:
        return [Reason(None, f"{line}: does not count with fewer than {MIN_LABELS} labels")]
    return [Reason(result.bound >= floor, f"{line}; {floor:.1%} demanded of the lower bound")]


def _fingerprint(stage: Path) -> str | None:
    return artifacts.open_artifact(stage).manifest.fingerprint if artifacts.is_finished(stage) else None
