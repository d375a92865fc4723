"""A load test by guidellm, open loop: requests are sent when they are due, whether or not the last one is answered.

guidellm is installed in an environment of its own; the figures are computed here from its record of each request.
Latencies count from the moment a request was due, so that queueing in a busy server or client is included.
"""

import json
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict

from tuneline.core.child_processes import last_lines
from tuneline.core.environment import read_variable
from tuneline.core.errors import NotFound, StageFailed
from tuneline.core.files import write_atomic
from tuneline.core.package_locks import LOCKS
from tuneline.core.redaction import redact_url
from tuneline.stages.evaluate.statistics import quantile

LOAD = "load.json"
"""The result of the load test, in a run's folder."""
COMMAND, VARIABLE = "guidellm", "TUNELINE_GUIDELLM"
VERSION = "0.8.1"
INSTALL = f"python -m tuneline.core.package_locks .load {LOCKS / 'load.txt'}"
"""In an environment of its own: it pins torch, transformers and datasets."""
INSTALLED = Path(".load/bin/guidellm")
SEED = 20261121
LAST_LINES = 8
"""Lines of guidellm's output that are in an error."""
EXTRA_S = 600
"""How much longer than planned a test may take, with its start."""


class LoadResult(BaseModel):
    """What a load test measured; the format of a run's `load.json`. Times are in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: Annotated[str, AfterValidator(redact_url)]
    model: str
    convert: str | None = None
    """Only in results of older versions, which do not say what was served."""
    files: dict[str, str] = {}
    """Path in the run's folder → SHA-256 of what was served; empty where no run was named."""
    at: datetime
    tool: str
    rate: float
    """Mean rate at which requests were due, per second (Poisson arrivals)."""
    requests: int
    errors: int
    """Requests that failed; their latency counts as infinite."""
    requests_per_second: float
    """Answered requests per second, from when the first was due to the end of the last answer."""
    latencies: tuple[float, ...]
    """From when each answered request was due to its last token, ascending."""
    first_tokens: tuple[float, ...]
    """TTFT: from when each answered request was due to its first token, ascending."""
    tokens_per_second: float
    """Completion tokens per second, of all requests together."""
    memory_gb: float | None
    """Peak resident memory of the server's process, in 10^9 bytes; None where it is not on this machine."""
    hardware: str | None
    """The machine that answered: this one, or what the caller named; None where nobody said."""
    engine: str | None = None
    """What answered, with its version and threads, where it runs here."""
    usd_per_hour: float | None
    """Its price; None where nobody said."""
    usd_per_1000_queries: float | None
    """The price over the answered requests; a query costs less at a higher rate."""

    def latency(self, share: float) -> float:
        """Return the latency that this share of all requests did not exceed."""
        return quantile([*self.latencies, *[inf] * self.errors], share)

    def first_token(self, share: float) -> float:
        """Return the time to the first token that this share of all requests did not exceed."""
        return quantile([*self.first_tokens, *[inf] * self.errors], share)


@dataclass(frozen=True)
class Requests:
    """What a load test sends, and where."""

    base_url: str
    model: str
    prompts: Sequence[str]
    """Drawn at random for each request."""
    system: str = ""
    tools: Sequence[Mapping[str, Any]] = ()
    max_tokens: int = 96
    key: str | None = None


def send_load(
    requests: Requests,
    *,
    rate: float,
    seconds: float,
    process: int | None = None,
    hardware: str | None = None,
    usd_per_hour: float | None = None,
    files: Mapping[str, str] = {},
    engine: str | None = None,
) -> LoadResult:
    """Send `rate` requests a second for about `seconds`, wait for all answers, and return what was measured.

    `process` is the server's process id, where it is on this machine.

    Raises:
        NotFound: guidellm is not installed.
        StageFailed: it ended without a report, or nothing was answered.
    """
    command, count = guidellm_command(), max(1, round(rate * seconds))
    with tempfile.TemporaryDirectory() as folder:
        report_file = Path(folder) / "report.json"
        settings = _write_scenario(requests, rate, count, Path(folder), report_file)
        _run([command, "run", "--config", str(settings), "--disable-console"], seconds + EXTRA_S, report_file)
        report = json.loads(report_file.read_text())
    figures = report_figures(report) if rate else None
    if not figures:
        raise StageFailed(
            f"{requests.base_url}: none of {count} requests was answered; "
            f"`tuneline chat {requests.base_url} hello` shows why"
        )
    per_second = figures["requests_per_second"]
    return LoadResult(
        endpoint=requests.base_url,
        model=requests.model,
        files=dict(files),
        engine=engine,
        at=datetime.now(UTC),
        tool=f"guidellm {report['metadata']['guidellm_version']}",
        rate=rate,
        memory_gb=_peak_memory_gb(process),
        hardware=hardware,
        usd_per_hour=usd_per_hour,
        usd_per_1000_queries=None if usd_per_hour is None else 1000 * usd_per_hour / 3600 / per_second,
        **figures,
    )


def _write_scenario(requests: Requests, rate: float, count: int, folder: Path, report: Path) -> Path:
    """Write guidellm's input into `folder` and return the file of its settings."""
    rows = [
        {"prompt": prompt} | ({"prefix": requests.system} if requests.system else {})
        for prompt in random.Random(SEED).choices(requests.prompts, k=count)
    ]
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    scenario = {
        "backend": _backend(requests),
        "profile": {"kind": "poisson", "rate": [rate]},
        # A limit of time would leave out what is not answered at its end, which is the slowest.
        "constraints": [{"kind": "max_requests", "count": count}],
        "data": [{"kind": "json_file", "path": str(prompts)}],
        "seed": {"kind": "static", "value": SEED},
        "outputs": [{"kind": "json", "path": str(report)}],
    }
    settings = folder / "scenario.json"
    settings.touch(0o600)  # it may have a key
    settings.write_text(json.dumps({"metadata": {"labels": {}}, "spec": scenario}))
    return settings


def _backend(requests: Requests) -> dict[str, Any]:
    body = {"temperature": 0, "ignore_eos": False} | ({"tools": list(requests.tools)} if requests.tools else {})
    return {
        "kind": "openai_http",
        "target": requests.base_url.removesuffix("/v1"),
        "model": requests.model,
        "max_tokens": requests.max_tokens,
        "extras": {"body": body},
        # Its check of the endpoint requests /health, which hosted ones lack.
        "validate_backend": False,
    } | ({"api_key": requests.key} if requests.key else {})


def report_figures(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the measured fields of a `LoadResult` from a guidellm report, or None if no request was answered."""
    requests = report["benchmarks"][0]["requests"]
    answered = [
        request["info"]["timings"] | {"tokens": request["output_tokens"] or 0}
        for request in requests["successful"] or ()
    ]
    failed = len(requests["errored"] or ()) + len(requests["incomplete"] or ())
    if not answered:
        return None
    span = max(timing["request_end"] for timing in answered) - min(timing["targeted_start"] for timing in answered)
    first_tokens = [(t["first_token_iteration"] or t["request_end"]) - t["targeted_start"] for t in answered]
    return {
        "requests": len(answered) + failed,
        "errors": failed,
        "requests_per_second": len(answered) / span,
        "latencies": tuple(sorted(round(t["request_end"] - t["targeted_start"], 4) for t in answered)),
        "first_tokens": tuple(sorted(round(seconds, 4) for seconds in first_tokens)),
        "tokens_per_second": sum(timing["tokens"] for timing in answered) / span,
    }


def write_load_result(run: Path, result: LoadResult) -> Path:
    """Write the result where the run's gate reads it, and return the file."""
    write_atomic(run / LOAD, result.model_dump_json(indent=1))
    return run / LOAD


def guidellm_command() -> str:
    """Return the path of guidellm.

    Raises:
        NotFound: it is not installed; the message has the commands that install it.
    """
    command = read_variable(VARIABLE) or (str(INSTALLED) if INSTALLED.exists() else None) or shutil.which(COMMAND)
    if command is None or shutil.which(command) is None:
        raise NotFound(f"{command or COMMAND}: not installed; run `{INSTALL}`, or set {VARIABLE} to its path")
    return command


def _run(command: Sequence[str], timeout_s: float, report: Path) -> None:
    # Each of several workers would draw the same arrivals from the seed, which is not Poisson; one is enough here.
    environment = os.environ | {"GUIDELLM__MAX_WORKER_PROCESSES": "1", "HF_HUB_OFFLINE": "1"}
    try:
        process = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=timeout_s, cwd=report.parent
        )
    except subprocess.TimeoutExpired:
        raise StageFailed(f"guidellm did not end within {timeout_s:.0f} s; use a lower --rate") from None
    if process.returncode or not report.exists():
        tail = last_lines(process.stdout + process.stderr, LAST_LINES)
        raise StageFailed(f"guidellm ended with {process.returncode}; its last lines:\n{tail}")


def _peak_memory_gb(process: int | None) -> float | None:
    """Return a process's peak resident memory in 10^9 bytes: VmHWM of proc(5), in kB of 1,024 bytes."""
    status = Path(f"/proc/{process}/status")
    if process is None or not status.exists():
        return None
    lines = [line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:")]
    return round(int(lines[0].split()[1]) * 1024 / 1e9, 4) if lines else None
