"""Demands on what is measured after the evaluation: a load test of the served model, and a judge's scores."""

from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tuneline.configs.evaluation import Service
from tuneline.core.artifacts import read_artifact
from tuneline.stages.evaluate import statistics
from tuneline.stages.evaluate.load_testing.guidellm import LOAD, LoadResult
from tuneline.stages.evaluate.scoring.llm_judge import JUDGED, MIN_LABELS, JudgeResult
from tuneline.stages.evaluate.verdicts.reason import Reason

Result = TypeVar("Result", bound=BaseModel)
TAIL, CONFIDENCE = 0.95, 0.95
"""Quantile of the latencies that is bounded, and the confidence of its bound."""


def service_reasons(run: Path, demands: Service | None, gate: Mapping[str, Any]) -> list[Reason]:
    """Return the demands on the run's load test; one open demand if there is none of the files that `gate` is about."""
    if demands is None:
        return []
    load = _read(run / LOAD, LoadResult)
    if load is None:
        return [Reason(None, f"service: not measured; run `tuneline load {run.name}`")]
    if load.files != gate.get("files"):
        return [Reason(None, f"service: {_explain_other_files(run, load, gate)}")]
    where = f"of {load.requests} requests at {load.rate:g} per second"
    failed = load.errors / load.requests
    reasons: list[Reason | None] = [
        Reason(
            failed <= demands.errors, f"service: {failed:.1%} {where} failed, at most {demands.errors:.1%} required"
        ),
        _tail_at_most("p95 latency", load.latencies, load.errors, demands.p95_latency_s, where),
        _tail_at_most("p95 time to first token", load.first_tokens, load.errors, demands.p95_first_token_s, where),
        _at_most("memory of the server, GB", load.memory_gb, demands.memory_gb),
        _cost_at_most(run, load, demands.usd_per_1000_queries),
    ]
    if demands.requests_per_second is not None:
        rate = load.requests_per_second
        line = f"service: {rate:.2f} requests per second answered, {demands.requests_per_second:g} required"
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
        line = f"service: {name} {quantile:.3f} s {where}: too few to bound it, 59 at least; at most {limit:g} required"
        return Reason(False if quantile > limit else None, line)
    line = f"service: {name} {quantile:.3f} s {where}, upper bound {bound:.3f} s, at most {limit:g} required"
    return Reason(False if quantile > limit else True if bound <= limit else None, line)


def _at_most(name: str, value: float | None, limit: float | None) -> Reason | None:
    if limit is None:
        return None
    if value is None:
        return Reason(None, f"service: {name}: not measured, at most {limit:g} required")
    return Reason(value <= limit, f"service: {name}: {value:.3g}, at most {limit:g} required")


def _cost_at_most(run: Path, load: LoadResult, limit: float | None) -> Reason | None:
    """Compare what 1,000 queries cost with a limit; open where the price of the machine that answered is not known."""
    if limit is None or load.usd_per_1000_queries is not None:
        where = load.hardware or load.endpoint
        return _at_most(f"USD for 1,000 queries on {where}", load.usd_per_1000_queries, limit)
    commands = f"`tuneline load {run.name} --usd-per-hour PRICE`, or `tuneline load URL --for {run.name} --gpu KIND`"
    text = f"the price of {load.hardware or load.endpoint} is not known, at most {limit:g} required; {commands}"
    return Reason(None, f"service: USD for 1,000 queries: {text}")


def _explain_other_files(run: Path, load: LoadResult, gate: Mapping[str, Any]) -> str:
    """Return why a load test says nothing about the files of the gate, and which command does."""
    served = gate.get("files", {})
    if load.files.keys() == served.keys() or not load.files:
        return f"measured on other files; run `tuneline load {run.name}` again"
    return (
        f"measured on {min(load.files)}, and {min(served, default='something else')} is what is served; "
        f"`tuneline load URL --for {run.name}` measures a server of it"
    )


def judge_reasons(run: Path, floor: float | None, gate: Mapping[str, Any]) -> list[Reason]:
    """Return the demand on the judge's scores; open if these answers were not judged, or with too few labels."""
    if floor is None:
        return []
    result = _read(run / JUDGED, JudgeResult)
    if result is None:
        return [Reason(None, f"judge: no answers were judged; run `tuneline judge {run.name}`")]
    if (result.evaluate, result.target) != (read_artifact(run / "evaluate").manifest.digest, gate.get("target")):
        return [Reason(None, f"judge: other answers were judged; run `tuneline judge {run.name}` again")]
    line = f"judge: {result.summary}"
    if result.labels < MIN_LABELS:
        return [Reason(None, f"{line}: does not count with fewer than {MIN_LABELS} labels")]
    return [Reason(result.bound >= floor, f"{line}; {floor:.1%} required of the lower bound")]


def _read(file: Path, kind: type[Result]) -> Result | None:
    """Return what is in a file, or None if there is none or it is damaged: then it was not measured."""
    try:
        return kind.model_validate_json(file.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
