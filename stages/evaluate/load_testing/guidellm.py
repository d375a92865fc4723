"""A served model under load, open loop: requests come when they come, whether or not the last one is answered.

guidellm sends them, from an environment of its own; what is told is worked out here from its record of each request.
Latencies count from the moment a request was due: one that a busy server or client kept waiting is not flattered.
"""

import json
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tuneline.core import artifacts
from tuneline.core.errors import NotFound, StageFailed
from tuneline.stages.evaluate.statistics import quantile
from tuneline.stages.evaluate.verdicts.gate import LOAD

COMMAND, VARIABLE = "guidellm", "TUNELINE_GUIDELLM"
VERSION = "0.8.1"
INSTALL = f"python -m venv .load && .load/bin/pip install guidellm=={VERSION}"
"""Apart from ours: it pins torch, transformers and datasets of its own."""
OWN = Path(".load/bin/guidellm")
SEED = 20261121
LAST_LINES = 8
BEYOND_S = 600
"""How much longer than planned the whole may take, start included."""


class Load(BaseModel):
    """What was measured; the format of a run's `load.json`. Times are in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str
    model: str
    convert: str | None
    """Fingerprint of the run's files; None where no run was named."""
    at: datetime
    tool: str
    rate: float
    """Requests a second that were due, on average (Poisson)."""
    requests: int
    errors: int
    """Requests that failed; their latency counts as endless."""
    requests_per_second: float
    """Answered, from when the first was due to the last answer's end."""
    latencies: tuple[float, ...]
    """From when a request was due to its last token, ascending; of answered ones."""
    first_tokens: tuple[float, ...]
    """From when a request was due to its first token, ascending (TTFT)."""
    tokens_per_second: float
    """Written, all requests together."""
    memory_gb: float | None
    """Peak resident memory of the server's process, in 10^9 bytes; None where it is not on this machine."""
    hardware: str | None
    """What the cost is of; not what was measured on, unless the endpoint runs there."""
    usd_per_hour: float | None
    usd_per_1000_queries: float | None
    """The hardware's price over the requests answered: at a higher rate a query costs less."""

    def latency(self, share: float) -> float:
        """The latency that this share of all requests did not exceed."""
        return quantile([*self.latencies, *[inf] * self.errors], share)

    def first_token(self, share: float) -> float:
        """The time to the first token that this share of all requests did not exceed."""
        return quantile([*self.first_tokens, *[inf] * self.errors], share)


def load(
    base_url: str,
    model: str,
    prompts: Sequence[str],
    *,
    rate: float,
    seconds: float,
    system: str = "",
    tools: Sequence[Mapping[str, Any]] = (),
    max_tokens: int = 96,
    key: str | None = None,
    process: int | None = None,
    hardware: str | None = None,
    usd_per_hour: float | None = None,
    convert: str | None = None,
) -> Load:
    """Sends `rate` requests a second for about `seconds`, each drawn from `prompts`, and waits for all answers.

    `process` is the server's, where it is on this machine.

    Raises:
        NotFound: guidellm is not installed. StageFailed: it ended without a report, or nothing was answered.
    """
    command, count = installed(), max(1, round(rate * seconds))
    with tempfile.TemporaryDirectory() as folder:
        rows, report = Path(folder) / "prompts.jsonl", Path(folder) / "report.json"
        asked = [
            {"prompt": prompt} | ({"prefix": system} if system else {})
            for prompt in random.Random(SEED).choices(prompts, k=count)
        ]
        rows.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in asked), encoding="utf-8")
        body = {"temperature": 0, "ignore_eos": False} | ({"tools": list(tools)} if tools else {})
        scenario = {
            "backend": {
                "kind": "openai_http",
                "target": base_url.removesuffix("/v1"),
                "model": model,
                "max_tokens": max_tokens,
                "extras": {"body": body},
                # Its check of the endpoint asks for /health, which hosted ones lack.
                "validate_backend": False,
            }
            | ({"api_key": key} if key else {}),
            "profile": {"kind": "poisson", "rate": [rate]},
            # Not a time: at its end what is not answered yet would be left out, and that is the slowest.
            "constraints": [{"kind": "max_requests", "count": count}],
            "data": [{"kind": "json_file", "path": str(rows)}],
            "seed": {"kind": "static", "value": SEED},
            "outputs": [{"kind": "json", "path": str(report)}],
        }
        settings = Path(folder) / "scenario.json"
        settings.touch(0o600)  # it may hold a key
        settings.write_text(json.dumps({"metadata": {"labels": {}}, "spec": scenario}))
        _run([command, "run", "--config", str(settings), "--disable-console"], seconds + BEYOND_S, report)
        told = json.loads(report.read_text())
    if rate and (found := measured(told)):
        per_second = found["requests_per_second"]
        return Load(
            endpoint=base_url,
            model=model,
            convert=convert,
            at=datetime.now(UTC),
            tool=f"guidellm {told['metadata']['guidellm_version']}",
            rate=rate,
            memory_gb=_peak_gb(process),
            hardware=hardware,
            usd_per_hour=usd_per_hour,
            usd_per_1000_queries=None if usd_per_hour is None else 1000 * usd_per_hour / 3600 / per_second,
            **found,
        )
    raise StageFailed(f"{base_url}: none of {count} requests was answered; `tuneline chat {base_url} hello` tells why")


def measured(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """The figures of a guidellm report, from its record of each request; None if none was answered."""
    requests = report["benchmarks"][0]["requests"]
    answered = [one["info"]["timings"] | {"tokens": one["output_tokens"] or 0} for one in requests["successful"] or ()]
    failed = len(requests["errored"] or ()) + len(requests["incomplete"] or ())
    if not answered:
        return None
    last = max(one["request_end"] for one in answered)
    span = last - min(one["targeted_start"] for one in answered)
    firsts = [one["first_token_iteration"] or one["request_end"] for one in answered]
    return {
        "requests": len(answered) + failed,
        "errors": failed,
        "requests_per_second": len(answered) / span,
        "latencies": tuple(sorted(round(one["request_end"] - one["targeted_start"], 4) for one in answered)),
        "first_tokens": tuple(
            sorted(round(f - one["targeted_start"], 4) for f, one in zip(firsts, answered, strict=True))
        ),
        "tokens_per_second": sum(one["tokens"] for one in answered) / span,
    }


def write_load(run: Path, found: Load) -> Path:
    """Where the gate of the run reads it."""
    artifacts.write_atomic(run / LOAD, found.model_dump_json(indent=1))
    return run / LOAD


def installed() -> str:
    """The guidellm that is there.

    Raises:
        NotFound: none is, with the commands that install it.
    """
    own = os.environ.get(VARIABLE) or (str(OWN) if OWN.exists() else None) or shutil.which(COMMAND)
    if own is None or shutil.which(own) is None:
        raise NotFound(f"{own or COMMAND}: not here; `{INSTALL}` puts it where it is looked for, or set {VARIABLE}")
    return own


def _run(command: Sequence[str], seconds: float, report: Path) -> None:
    # Several workers draw the same arrivals (each has the seed for itself), which is not Poisson: one is enough here.
    environment = os.environ | {"GUIDELLM__MAX_WORKER_PROCESSES": "1", "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=seconds, cwd=report.parent
        )
    except subprocess.TimeoutExpired:
        raise StageFailed(f"guidellm did not end within {seconds:.0f} s; ask for fewer requests a second") from None
    if done.returncode or not report.exists():
        last = "\n".join((done.stdout + done.stderr).splitlines()[-LAST_LINES:])
        raise StageFailed(f"guidellm ended with {done.returncode}; its last lines:\n{last}")


def _peak_gb(process: int | None) -> float | None:
    """proc(5): VmHWM, in kB of 1,024 bytes."""
    status = Path(f"/proc/{process}/status")
    if process is None or not status.exists():
        return None
    lines = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return round(int(lines[0].split()[1]) * 1024 / 1e9, 4) if lines else None
