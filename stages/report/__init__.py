"""The report: one self-contained HTML page a run, drawn from manifests, events and answers; never from memory."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tuneline.core import artifacts
from tuneline.core.artifacts import Manifest
from tuneline.core.errors import NotFound
from tuneline.core.events import read_events
from tuneline.core.formatting import (
    Row,
    call_text,
    figures,
    megabytes,
    percent,
    plain,
    safe,
    said,
    short,
    template,
    words,
)
from tuneline.stages.evaluate.verdicts.gate import of_run
from tuneline.stages.evaluate.verdicts.size_tradeoff import Size, Sizes
from tuneline.stages.report import evidence
from tuneline.stages.report.charts import Mark, Series, lines, scatter, whisker, whisker_axis
from tuneline.stages.report.run_files import STAGES, Run, read
from tuneline.stages.report.tradeoffs import checks, tradeoffs

FILE = "report.html"
CONFUSIONS_SHOWN = 12
SHOWN_SETTINGS = {
    "train": (
        "base",
        *(f"train.{key}" for key in ("method", "rank", "alpha", "learning_rate", "schedule")),
        *(f"train.{key}" for key in ("epochs", "max_steps", "batch_rows", "seed")),
    ),
    "convert": ("convert.types",),
}
"""What the opening section tells; the rest stands at the end of the page."""


def write_report(run: Path) -> Path:
    """Writes `report.html` into the run's folder and returns its path; what is missing is said in a line.

    Raises:
        NotFound: there is no such run.
    """
    if not run.is_dir():
        raise NotFound(f"{run}: no such run; `tuneline runs ls` shows those there are")
    found = read(run)
    page = template(Path(__file__).with_name("page.html.jinja")).render(**_context(found))
    artifacts.write_atomic(run / FILE, page)
    return run / FILE


def _context(run: Run) -> Row:
    evaluated = run.metrics("evaluate")
    board: list[Row] = evaluated.get("scoreboard", [])
    suites = list(dict.fromkeys(row["suite"] for row in board))
    targets = list(dict.fromkeys(row["target"] for row in board))
    judged = _judged(board, evaluated.get("gate", {}).get("target"))
    answers = evidence.answers_by_target(run.path / "evaluate", suites, targets)
    asked = answers.get(judged, {})
    gate = of_run(run.path, evaluated["gate"]) if evaluated.get("gate") else None
    sized = _sized(run, answers)
    return {
        "name": run.path.name,
        "written": datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
        "run": run,
        "state": _state(run),
        "headline": _headline(run, board, suites, judged),
        "asked": _asked(run),
        "prepared": run.metrics("prepare"),
        "trained": run.metrics("train"),
        "curves": _curves(run.path),
        "samples": _samples(run.path),
        "evaluated": evaluated,
        "confidence": evaluated.get("confidence", 0.95),
        "suites": [_suite(run, evaluated, suite, judged) for suite in suites],
        "targets": targets,
        "judged": judged,
        "axis": safe(whisker_axis()),
        "gate": gate,
        "gate_reasons": evidence.reasons(gate) if gate else [],
        "service": evidence.service(run.path),
        "judge": evidence.judged(run.path),
        "verdicts": evidence.verdicts(run.path / "evaluate"),
        "confused": evidence.confusion_table(asked),
        "failures": evidence.failures(asked, answers.get("base", {})),
        "call_text": call_text,
        "said": said,
        "files": _files(run),
        "sizes": sized,
        "sizes_chart": safe(_sizes_chart(sized)) if sized else "",
        "divergence_chart": safe(_divergence_chart(sized)) if sized else "",
        "tradeoffs": tradeoffs(run.metrics("convert")),
        "verified": checks(run.path / "convert"),
        "skipped": run.metrics("convert").get("skipped", []),
        "times": _times(run),
        "planned": _planned(run),
        "versions": _versions(run),
        "settings": {stage: run.settings(stage) for stage in STAGES if run.settings(stage)},
    }


def _state(run: Run) -> list[tuple[str, str]]:
    states = {stage: "finished" for stage in run.manifests} | {stage: "under way" for stage in run.begun}
    return [(stage, states.get(stage, "not started")) for stage in STAGES]


def _judged(board: Sequence[Row], served: str | None) -> str:
    """What goes live, or the 16-bit file of an evaluation that does not say."""
    tuned = [row["target"] for row in board if row["target"] != "base"]
    if served in tuned:
        return str(served)
    return "tuned-F16" if "tuned-F16" in tuned else next(iter(tuned), "")


def _headline(run: Run, board: Sequence[Row], suites: Sequence[str], judged: str) -> tuple[str, str]:
    """(the result in a sentence, what stands under it)."""
    rows = {row["target"]: row for row in board if suites and row["suite"] == suites[0]}
    if judged not in rows:
        last = next((f"{stage} is {state}" for stage, state in _state(run) if state != "finished"), "")
        return "Not evaluated yet", f"So far: {last}."
    row, base = rows[judged], rows.get("base")
    before = f"{percent(base['name_accuracy'])} → " if base else ""
    sentence = f"Right tool on {words(suites[0])}: {before}{percent(row['name_accuracy'])} (n = {row['n']})"
    evaluated = run.metrics("evaluate")
    confidence = f"{100 * evaluated.get('confidence', 0.95):g}\u202f%"
    under = f"{confidence} interval {percent(row['name_low'])} to {percent(row['name_high'])} for {words(judged)}."
    files = {t.removeprefix("tuned-"): r for t, r in rows.items() if t not in ("base", judged)}
    others = [f"{kind} {percent(r['name_accuracy'])}" for kind, r in files.items()]
    peers = [percent(p["accuracy"]) for p in evaluated.get("classifier", []) if p["suite"] == suites[0]]
    under += f" Other files: {', '.join(others)}." if others else ""
    return sentence, under + (f" A TF-IDF classifier: {peers[0]}." if peers else "")


def _asked(run: Run) -> list[tuple[str, Any]]:
    shown = [(key, run.settings(stage).get(key)) for stage, keys in SHOWN_SETTINGS.items() for key in keys]
    facts = [(words(key.split(".")[-1]), plain(value)) for key, value in shown if value is not None]
    if run.fetched:
        facts.insert(0, ("revision", run.fetched.made_from.settings.get("revision", "")))
    rows = [str(s["rows"]) for s in run.settings("prepare").get("data.sources", []) if s.get("rows")]
    return [*facts, ("rows asked for", " + ".join(rows))] if rows else facts


def _curves(run: Path) -> Row:
    events = [e for e in read_events(run) if e.get("stage") == "train" and e.get("kind") == "metrics"]

    def points(key: str) -> list[tuple[float, float]]:
        # A resumed training repeats steps: the last word counts.
        return sorted({e["step"]: float(e[key]) for e in events if key in e and "step" in e}.items())

    loss, validation, rate = points("loss"), points("validation_loss"), points("learning_rate")
    both = [Series("training", "muted-line", loss), Series("validation", "tuned", validation, dots=True)]
    return {
        "loss": safe(lines([s for s in both if s.points], "Loss over steps")),
        "rate": safe(lines([Series("rate", "tuned", rate)], "Learning rate over steps", short)) if rate else "",
        "last_loss": loss[-1] if loss else None,
        "last_validation": validation[-1] if validation else None,
    }


def _samples(run: Path) -> Row:
    """What was answered at the first and the last validation."""
    told = sorted((e for e in read_events(run) if e.get("kind") == "sample"), key=lambda event: event["step"])
    if not told:
        return {}
    first, last = told[0], told[-1]
    rows = [later | {"before": one["got"]} for one, later in zip(first["samples"], last["samples"], strict=False)]
    return {"first": first["step"], "last": last["step"], "rows": rows}


def _suite(run: Run, evaluated: Row, suite: str, judged: str) -> Row:
    board = [row for row in evaluated["scoreboard"] if row["suite"] == suite]
    peers = [row for row in evaluated.get("classifier", []) if row["suite"] == suite]
    declared = _declared(run, suite)
    floor = declared.get("floor")
    names = [
        _drawn(words(r["target"]), r["n"], r["name_accuracy"], r["name_low"], r["name_high"], _css(r["target"]), floor)
        for r in board
    ]
    names += [_drawn("TF-IDF classifier", r["n"], r["accuracy"], r["low"], r["high"], "peer", floor) for r in peers]
    exact = [
        _drawn(words(r["target"]), r["n"], r["exact_accuracy"], r["exact_low"], r["exact_high"], _css(r["target"]))
        for r in board
    ]
    confused = [r for r in evaluated.get("confusions", []) if r["suite"] == suite and r["target"] == judged]
    return {
        "name": suite,
        "floor": floor,
        "one_by_one": declared.get("independent") == "items",
        "rows": board,
        "peers": peers,
        "names": names,
        "exact": exact,
        "handlers": _handlers(evaluated, suite),
        "confusions": confused[:CONFUSIONS_SHOWN],
        "confusions_more": len(confused[CONFUSIONS_SHOWN:]),
    }


def _drawn(
    label: str, n: int, value: float, low: float, high: float, css: str, floor: float | None = None
) -> tuple[str, str, str, int]:
    return label, safe(whisker(value, low, high, css, floor)), percent(value), n


def _css(target: str) -> str:
    return "base" if target == "base" else "tuned"


def _declared(run: Run, suite: str) -> Row:
    """A suite as the recipe has it."""
    suites: list[Row] = run.settings("evaluate").get("evaluate.suites", [])
    return next((one for one in suites if one.get("name") == suite), {})


def _handlers(evaluated: Row, suite: str) -> dict[str, dict[str, Row]]:
    table: dict[str, dict[str, Row]] = {}
    for row in evaluated.get("handlers", []):
        if row["suite"] == suite:
            table.setdefault(row["tool"], {})[row["target"]] = row
    return table


def _files(run: Run) -> list[Row]:
    manifest = run.manifests.get("convert")
    if manifest is None:
        return []
    details = manifest.metrics.get("files", {})
    sizes = {Path(name).stem: file.bytes for name, file in manifest.files.items() if name.endswith(".gguf")}
    rows = [{"name": name, "bytes": amount, **_types(details.get(name, {}))} for name, amount in sizes.items()]
    return sorted(rows, key=lambda row: (-row["bytes"], row["name"]))


def _sized(run: Run, answers: Mapping[str, evidence.BySuite]) -> Sizes | None:
    files = {row["name"]: row["bytes"] for row in _files(run) if not row["name"].startswith("base-")}
    confidence = run.metrics("evaluate").get("confidence", 0.95)
    fidelity = run.metrics("convert").get("fidelity", {})
    return evidence.size_rows(answers, files, fidelity, run.settings("evaluate"), confidence)


def _sizes_chart(sized: Sizes) -> str:
    marks = [Mark(_kind(r), r.bytes / 1e6, r.share, r.low, r.high, _mark_css(r, sized)) for r in sized.rows]
    return scatter(marks, "Right answers against file size", megabytes, lambda y: f"{100 * y:g} %", top=1.0)


def _divergence_chart(sized: Sizes) -> str:
    rows = [row for row in sized.rows if "kl_mean_nats" in row.fidelity]
    found = [(row, row.fidelity["kl_mean_nats"]) for row in rows]
    marks = [Mark(_kind(row), row.bytes / 1e6, kl, kl, kl, _mark_css(row, sized)) for row, kl in found]
    return scatter(marks, "KL divergence from 16 bit against file size", megabytes, lambda y: f"{y:g}")


def _kind(row: Size) -> str:
    return row.target.removeprefix("tuned-")


def _mark_css(row: Size, sized: Sizes) -> str:
    return "tuned" if row == sized.recommended else "base"


def _types(details: Row) -> Row:
    share = details.get("k_quant_share")
    kinds = sorted(details.get("types", {}).items(), key=lambda entry: -entry[1])
    total = sum(details.get("types", {}).values()) or 1
    return {"k_share": share, "types": ", ".join(f"{kind} {percent(n / total)}" for kind, n in kinds)}


def _times(run: Run) -> list[tuple[str, Manifest]]:
    fetched = [("fetch", run.fetched)] if run.fetched else []
    return [*fetched, *((stage, run.manifests[stage]) for stage in STAGES if stage in run.manifests)]


def _planned(run: Run) -> list[Row]:
    """The plan of the training against what was measured."""
    if (manifest := run.manifests.get("train")) is None:
        return []
    from tuneline.stages.plan.planned_vs_measured import against

    found = against(run.path, manifest.seconds, read_events(run.path))
    return [
        {
            "what": one.what,
            "planned": f"{figures(one.planned)} {one.unit}",
            "measured": f"{figures((one.measured, one.measured))} {one.unit}",
            "mend": one.mend,
        }
        for one in found
    ]


def _versions(run: Run) -> dict[str, str]:
    """Versions of the newest stage; where stages differ, both are told."""
    found: dict[str, list[str]] = {}
    for _, manifest in _times(run):
        for name, version in manifest.versions.items():
            found.setdefault(name, [])
            found[name] += [version] if version not in found[name] else []
    return {name: ", ".join(versions) for name, versions in found.items()}
