"""Public benchmarks by name, asked by lm-eval (an extra) of the run's own server, with data that is at hand.

Only tasks that are answered in words can be asked over a chat API: llama-server gives no likelihood of a given text.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tuneline.configs.evaluation import Standard
from tuneline.core.errors import BadRequest, StageFailed
from tuneline.core.paths import find

LAST_LINES = 4
Row = dict[str, Any]


def refuse_unless_installed(settings: Standard) -> None:
    """Raise BadRequest where lm-eval is not there: said before anything is asked."""
    if find_spec("lm_eval") is None:
        raise BadRequest(
            f"evaluate.standard: {', '.join(settings.tasks)}: needs lm-eval; `pip install 'tuneline[standard]'`, "
            "or take `standard` out of the recipe"
        )


def ask_standard(settings: Standard, base_url: str, target: str, folder: Path, at_a_time: int) -> list[Row]:
    """The metrics of each task, kept in `folder/standard/TARGET.json`: a target that was asked is not asked again.

    Raises:
        StageFailed: lm-eval failed: no such task, data that is not at hand, or a task that wants likelihoods.
    """
    file = folder / "standard" / f"{target}.json"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        _run(settings, base_url, target, file.with_suffix(""), at_a_time)
        newest = max(file.with_suffix("").rglob("results_*.json"), key=lambda found: found.stat().st_mtime)
        file.write_text(newest.read_text())
    return _rows(json.loads(file.read_text()), target)


def _run(settings: Standard, base_url: str, target: str, out: Path, at_a_time: int) -> None:
    url = f"base_url={base_url}/chat/completions,model={target},num_concurrent={at_a_time},tokenized_requests=False"
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "local-chat-completions", "--model_args", url]
    command += ["--tasks", ",".join(settings.tasks), "--apply_chat_template", "--output_path", str(out)]
    command += ["--limit", str(settings.limit)] if settings.limit else []
    command += ["--include_path", str(find(settings.include))] if settings.include else []
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OPENAI_API_KEY": "none"}
    done = subprocess.run(command, env=os.environ | offline, capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-LAST_LINES:])
        raise StageFailed(
            f"evaluate.standard: {', '.join(settings.tasks)}: lm-eval failed, its last lines:\n{last}\n"
            "Data must be at hand: load each task's data set once, online, with `lm_eval run --tasks TASK --limit 1 "
            "--model dummy`; tasks of likelihoods (multiple choice) cannot be asked over a chat API"
        )


def _rows(results: Row, target: str) -> list[Row]:
    samples = results.get("n-samples", {})
    return [
        {
            "target": target,
            "task": task,
            "metric": name,
            "value": value,
            "stderr": found.get(name.replace(",", "_stderr,", 1)),
            "n": samples.get(task, {}).get("effective"),
        }
        for task, found in results["results"].items()
        for name, value in found.items()
        if "," in name and "_stderr," not in name and isinstance(value, int | float)
    ]
