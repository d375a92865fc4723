"""The report: one self-contained HTML page a run, drawn from manifests, events and answers; never from memory."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stages import artifact, paths
from stages.artifact import DRAFT, MANIFEST, Manifest
from stages.errors import NotFound
from stages.events import read_events
from stages.report.charts import Mark, Series, lines, scatter, whisker, whisker_axis
from stages.report.tradeoffs import checks, tradeoffs

FILE = "report.html"
STAGES = ("prepare", "train", "convert", "evaluate")
FAILURES_SHOWN = 10
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

Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What is on disk of a run: a manifest for each finished stage, and the settings of begun ones."""

    path: Path
    manifests: Mapping[str, Manifest]
    begun: Mapping[str, Row] = field(default_factory=dict)
    fetched: Manifest | None = None

    def metrics(self, stage: str) -> Row:
        return self.manifests[stage].metrics if stage in self.manifests else {}

    def settings(self, stage: str) -> Row:
        if stage in self.manifests:
            return self.manifests[stage].made_from.settings
        settings: Row = self.begun.get(stage, {})
        return settings


def write_report(run: Path) -> Path:
    """Writes `report.html` into the run's folder and returns its path; what is missing is said in a line.

    Raises:
        NotFound: there is no such run.
    """
    if not run.is_dir():
        raise NotFound(f"{run}: no such run; `tuneline runs ls` shows those there are")
    found = _read(run)
    page = template("page.html.jinja").render(**_context(found))
    artifact.write_atomic(run / FILE, page)
    return run / FILE


def _read(run: Path) -> Run:
    manifests = {stage: m for stage in STAGES if (m := _manifest(run / stage / MANIFEST))}
    begun = {s: _draft_settings(run / s / DRAFT) for s in STAGES if s not in manifests and (run / s / DRAFT).exists()}
    wanted = {m.made_from.needs.get("fetch") for m in manifests.values()} - {None}
    bases = [m for file in sorted(paths.models().glob(f"*/{MANIFEST}")) if (m := _manifest(file))]
    return Run(run, manifests, begun, next((m for m in bases if m.fingerprint in wanted), None))


def _manifest(file: Path) -> Manifest | None:
    try:
        return Manifest.model_validate_json(file.read_text())
    except (OSError, ValidationError):
        return None


def _draft_settings(file: Path) -> Row:
    try:
        settings: Row = json.loads(file.read_text())["made_from"]["settings"]
    except (OSError, ValueError, KeyError):
        return {}
    return settings


def template(name: str) -> Any:
    """A page's template, with the filters its figures need."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "size": size, "duration": duration, "words": words, "count": count}
    return environment.get_template(name)


def _context(run: Run) -> Row:
    evaluated = run.metrics("evaluate")
    board: list[Row] = evaluated.get("scoreboard", [])
    suites = list(dict.fromkeys(row["suite"] for row in board))
    judged = _judged(board)
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
        "evaluated": evaluated,
        "confidence": evaluated.get("confidence", 0.95),
        "suites": [_suite(run, evaluated, suite, judged) for suite in suites],
        "targets": list(dict.fromkeys(row["target"] for row in board)),
        "judged": judged,
        "axis": safe(whisker_axis()),
        "failures": _failures(run.path, suites, judged),
        "files": _files(run, board, suites),
        "files_chart": safe(_files_chart(run, board, suites)),
        "tradeoffs": tradeoffs(run.metrics("convert")),
        "verified": checks(run.path / "convert"),
        "skipped": run.metrics("convert").get("skipped", []),
        "times": _times(run),
        "versions": _versions(run),
        "settings": {stage: run.settings(stage) for stage in STAGES if run.settings(stage)},
    }


def _state(run: Run) -> list[tuple[str, str]]:
    states = {stage: "finished" for stage in run.manifests} | {stage: "under way" for stage in run.begun}
    return [(stage, states.get(stage, "not started")) for stage in STAGES]


def _judged(board: Sequence[Row]) -> str:
    tuned = [row["target"] for row in board if row["target"] != "base"]
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
    under = f"{confidence} interval {percent(row['name_low'])} to {percent(row['name_high'])} for the 16-bit model."
    quantized = {t.removeprefix("tuned-"): r for t, r in rows.items() if t not in ("base", judged)}
    others = [f"{kind} {percent(r['name_accuracy'])}" for kind, r in quantized.items()]
    peers = [percent(p["accuracy"]) for p in evaluated.get("classifier", []) if p["suite"] == suites[0]]
    under += f" Quantized: {', '.join(others)}." if others else ""
    return sentence, under + (f" A TF-IDF classifier: {peers[0]}." if peers else "")


def _asked(run: Run) -> list[tuple[str, Any]]:
    shown = [(key, run.settings(stage).get(key)) for stage, keys in SHOWN_SETTINGS.items() for key in keys]
    facts = [(words(key.split(".")[-1]), _plain(value)) for key, value in shown if value is not None]
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
        "rate": safe(lines([Series("rate", "tuned", rate)], "Learning rate over steps")) if rate else "",
        "last_loss": loss[-1] if loss else None,
        "last_validation": validation[-1] if validation else None,
    }


def _suite(run: Run, evaluated: Row, suite: str, judged: str) -> Row:
    board = [row for row in evaluated["scoreboard"] if row["suite"] == suite]
    peers = [row for row in evaluated.get("classifier", []) if row["suite"] == suite]
    floor = _floor(run, suite)
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


def _floor(run: Run, suite: str) -> float | None:
    declared: list[Row] = run.settings("evaluate").get("evaluate.suites", [])
    return next((one.get("floor") for one in declared if one.get("name") == suite), None)


def _handlers(evaluated: Row, suite: str) -> dict[str, dict[str, Row]]:
    table: dict[str, dict[str, Row]] = {}
    for row in evaluated.get("handlers", []):
        if row["suite"] == suite:
            table.setdefault(row["tool"], {})[row["target"]] = row
    return table


def _failures(run: Path, suites: Sequence[str], judged: str) -> list[Row]:
    """Wrong tools of the first suite first, then wrong arguments, as they come."""
    file = run / "evaluate" / "answers" / (suites[0] if suites else "") / f"{judged}.jsonl"
    if not file.is_file():
        return []
    answers = sorted((json.loads(line) for line in file.read_text().splitlines() if line), key=lambda a: a["id"])
    wrong = [answer for answer in answers if not answer["name_correct"]]
    wrong += [answer for answer in answers if answer["name_correct"] and not answer["exact"]]
    return [
        {
            "prompt": answer["prompt"],
            "what": "arguments" if answer["name_correct"] else "tool",
            "expected": call_text(answer["expected"]),
            "got": "; ".join(map(call_text, answer["calls"])) or f"no call: {answer['error'] or answer['text']}"[:200],
        }
        for answer in wrong[:FAILURES_SHOWN]
    ]


def call_text(call: Row) -> str:
    """A call as a line of code."""
    if call["name"] is None:
        return ", ".join(call["words"]) if "words" in call else "no call"
    arguments = call["arguments"]
    if isinstance(arguments, dict):
        inner = ", ".join(f"{k}={v!r}" for k, v in arguments.items())
    else:
        inner = "no JSON object" if "raw" in call else "…"
    return f"{call['name']}({inner})"


def _files(run: Run, board: Sequence[Row], suites: Sequence[str]) -> list[Row]:
    manifest = run.manifests.get("convert")
    if manifest is None:
        return []
    scores = {row["target"]: row for row in board if row["suite"] == suites[0]} if suites else {}
    details = manifest.metrics.get("files", {})
    names = [Path(name).stem for name in manifest.files if name.endswith(".gguf")]
    sizes = {Path(name).stem: file.bytes for name, file in manifest.files.items()}
    rows = [
        {"name": n, "bytes": sizes[n], "score": scores.get(_target(n)), **_types(details.get(n, {}))} for n in names
    ]
    return sorted(rows, key=lambda row: (-row["bytes"], row["name"]))


def _files_chart(run: Run, board: Sequence[Row], suites: Sequence[str]) -> str:
    rows = [r for r in _files(run, board, suites) if r["score"] and _target(r["name"]) != "base"]
    megabytes = 1e6
    marks = [
        Mark(
            r["name"].removeprefix("tuned-"),
            r["bytes"] / megabytes,
            r["score"]["name_accuracy"],
            r["score"]["name_low"],
            r["score"]["name_high"],
        )
        for r in rows
    ]
    return scatter(marks, "Accuracy against file size", lambda x: f"{x:g} MB", lambda y: f"{100 * y:g} %")


def _target(stem: str) -> str:
    return "base" if stem.startswith("base-") else stem


def _types(details: Row) -> Row:
    share = details.get("k_quant_share")
    kinds = sorted(details.get("types", {}).items(), key=lambda entry: -entry[1])
    total = sum(details.get("types", {}).values()) or 1
    return {"k_share": share, "types": ", ".join(f"{kind} {percent(n / total)}" for kind, n in kinds)}


def _times(run: Run) -> list[tuple[str, Manifest]]:
    fetched = [("fetch", run.fetched)] if run.fetched else []
    return [*fetched, *((stage, run.manifests[stage]) for stage in STAGES if stage in run.manifests)]


def _versions(run: Run) -> dict[str, str]:
    """Versions of the newest stage; where stages differ, both are told."""
    found: dict[str, list[str]] = {}
    for _, manifest in _times(run):
        for name, version in manifest.versions.items():
            found.setdefault(name, [])
            found[name] += [version] if version not in found[name] else []
    return {name: ", ".join(versions) for name, versions in found.items()}


def percent(share: float) -> str:
    """97.3 %, with a narrow space that does not break."""
    return f"{100 * share:.1f}\u202f%"


def size(amount: int) -> str:
    """Bytes as people say them, in powers of 1,000."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if amount >= factor:
            return f"{amount / factor:.1f}\u202f{unit}"
    return f"{amount}\u202fB"


def duration(seconds: float) -> str:
    """2 h 05 min, 3 min 04 s, or 8.2 s."""
    if seconds < 60:
        return f"{seconds:.1f}\u202fs"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes}\u202fmin {rest:02d}\u202fs"
        if minutes < 60
        else f"{minutes // 60}\u202fh {minutes % 60:02d}\u202fmin"
    )


def words(name: str) -> str:
    """A key or target as people read it: `far_paraphrases`, `tuned-Q4_K_M` → far paraphrases, tuned Q4_K_M."""
    return name.replace("tuned-", "tuned ", 1) if name.startswith("tuned-") else name.replace("_", " ")


def count(number: float) -> str:
    """Thousands set apart by a thin space."""
    return f"{number:,.10g}".replace(",", "\u202f")


def _plain(value: Any) -> str:
    return (
        ", ".join(map(str, value))
        if isinstance(value, list | tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def safe(svg: str) -> Any:
    """Our own drawing; every text in it was escaped where it was made."""
    from markupsafe import Markup

    return Markup(svg)
