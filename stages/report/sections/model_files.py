"""The GGUF files of a run: size against quality, and the quantization types in each."""

from collections.abc import Mapping
from pathlib import Path

from tuneline.core.formatting import format_percent
from tuneline.core.page_templates import mark_safe
from tuneline.stages.evaluate.verdicts.size_tradeoff import TOLERANCE_POINTS, FileQuality, SizeTradeoff, size_tradeoff
from tuneline.stages.report.charts import Mark, draw_scatter
from tuneline.stages.report.evaluation_record import AnswersBySuite, EvaluationRecord
from tuneline.stages.report.run_record import Row, RunRecord

REFERENCE = "tuned-F16"


def describe_files(run: RunRecord, evaluation: EvaluationRecord) -> Row:
    """Return the template variables `files`, `sizes`, `sizes_chart` and `divergence_chart`."""
    files = _list_files(run)
    tradeoff = _compare_sizes(run, evaluation.answers, files)
    return {
        "files": files,
        "sizes": tradeoff,
        "sizes_chart": mark_safe(_draw_sizes(tradeoff)) if tradeoff else "",
        "divergence_chart": mark_safe(_draw_divergence(tradeoff)) if tradeoff else "",
    }


def _list_files(run: RunRecord) -> list[Row]:
    """Return name, bytes and quantization types of each GGUF file, the largest first."""
    manifest = run.manifests.get("convert")
    if manifest is None:
        return []
    details = manifest.metrics.get("files", {})
    sizes = {Path(name).stem: file.bytes for name, file in manifest.made.items() if name.endswith(".gguf")}
    rows = [{"name": name, "bytes": amount, **_describe_types(details.get(name, {}))} for name, amount in sizes.items()]
    return sorted(rows, key=lambda row: (-row["bytes"], row["name"]))


def _describe_types(details: Row) -> Row:
    parameters_by_type = details.get("types", {})
    ranked = sorted(parameters_by_type.items(), key=lambda entry: -entry[1])
    total = sum(parameters_by_type.values()) or 1
    types = ", ".join(f"{kind} {format_percent(parameters / total)}" for kind, parameters in ranked)
    return {"k_share": details.get("k_quant_share"), "types": types}


def _compare_sizes(run: RunRecord, answers: Mapping[str, AnswersBySuite], files: list[Row]) -> SizeTradeoff | None:
    """Return size against quality of the tuned files, or None if none answered a suite that proves something."""
    settings = run.settings("evaluate")
    bytes_by_target = {row["name"]: row["bytes"] for row in files if not row["name"].startswith("base-")}
    unproving = {suite["name"] for suite in settings.get("evaluate.suites", []) if not suite.get("proves", True)}
    proving = {
        target: {suite: suite_answers for suite, suite_answers in by_suite.items() if suite not in unproving}
        for target, by_suite in answers.items()
        if target in bytes_by_target
    }
    tradeoff = size_tradeoff(
        {target: by_suite for target, by_suite in proving.items() if by_suite},
        bytes_by_target,
        REFERENCE,
        tolerance_points=settings.get("evaluate.tolerance_points", TOLERANCE_POINTS),
        confidence=run.confidence,
        fidelity=run.metrics("convert").get("fidelity", {}),
    )
    return tradeoff if tradeoff.rows else None


def _draw_sizes(tradeoff: SizeTradeoff) -> str:
    marks = [_to_mark(row, tradeoff, row.share, row.low, row.high) for row in tradeoff.rows]
    return draw_scatter(
        marks, "Right answers against file size", _format_megabytes, lambda y: f"{100 * y:g} %", top=1.0
    )


def _draw_divergence(tradeoff: SizeTradeoff) -> str:
    divergences = [(row, row.fidelity["kl_mean_nats"]) for row in tradeoff.rows if "kl_mean_nats" in row.fidelity]
    marks = [_to_mark(row, tradeoff, divergence, divergence, divergence) for row, divergence in divergences]
    return draw_scatter(marks, "KL divergence from 16 bit against file size", _format_megabytes, lambda y: f"{y:g}")


def _to_mark(row: FileQuality, tradeoff: SizeTradeoff, y: float, low: float, high: float) -> Mark:
    css = "tuned" if row == tradeoff.recommended else "base"
    return Mark(row.target.removeprefix("tuned-"), row.bytes / 1e6, y, low, high, css)


def _format_megabytes(amount: float) -> str:
    return f"{amount / 1000:g} GB" if amount >= 1000 else f"{amount:g} MB"
