"""Public benchmarks, which lm-eval (an extra) asks of the run's own server, with data sets that are on this machine.

Only tasks answered in text can be asked over a chat API: llama-server returns no likelihood of a given text.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tuneline.configs.evaluation import Standard
from tuneline.configs.recipe import Recipe
from tuneline.core.child_processes import last_lines
from tuneline.core.errors import BadRequest, StageFailed
from tuneline.core.events import Events
from tuneline.core.files import write_atomic
from tuneline.core.paths import resolve
from tuneline.stages.evaluate.answers import CONCURRENCY
from tuneline.stages.evaluate.clients.target_engines import Engines
from tuneline.stages.evaluate.targets import BASE, served_target

LAST_LINES = 4
"""Lines of lm-eval's output that are in an error."""
Row = dict[str, Any]


def require_lm_eval(settings: Standard) -> None:
    """Raise BadRequest if lm-eval is not installed; called before anything is asked."""
    if find_spec("lm_eval") is None:
        raise BadRequest(
            f"evaluate.standard: {', '.join(settings.tasks)}: needs lm-eval; `pip install 'tuneline[standard]'`, "
            "or take `standard` out of the recipe"
        )


def benchmark_table(
    recipe: Recipe, files: Mapping[str, Path], folder: Path, events: Events, engines: Engines
) -> list[Row]:
    """Return the metrics of `evaluate.standard` for the base and the served model; empty if it names no tasks."""
    if not recipe.evaluate.standard:
        return []
    rows = []
    for number, target in enumerate((BASE, served_target(recipe))):
        events.progress(number, 2, "models", f"standard benchmarks of {target}")
        base_url = engines.start(target, files[target]).base_url
        rows += ask_standard(recipe.evaluate.standard, base_url, target, folder, CONCURRENCY)
    return rows


def ask_standard(settings: Standard, base_url: str, target: str, folder: Path, concurrency: int) -> list[Row]:
    """Return the metrics of each task. They are cached in `folder/standard/TARGET.json`: no target is asked twice.

    Raises:
        StageFailed: lm-eval failed: there is no such task, its data is not here, or it needs likelihoods.
    """
    file = folder / "standard" / f"{target}.json"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        _run_lm_eval(settings, base_url, target, file.with_suffix(""), concurrency)
        newest = max(file.with_suffix("").rglob("results_*.json"), key=lambda result: result.stat().st_mtime)
        write_atomic(file, newest.read_text())  # its existence says that it was asked
    return _rows(json.loads(file.read_text()), target)


def _run_lm_eval(settings: Standard, base_url: str, target: str, out: Path, concurrency: int) -> None:
    url = f"base_url={base_url}/chat/completions,model={target},num_concurrent={concurrency},tokenized_requests=False"
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "local-chat-completions", "--model_args", url]
    command += ["--tasks", ",".join(settings.tasks), "--apply_chat_template", "--output_path", str(out)]
    command += ["--limit", str(settings.limit)] if settings.limit else []
    command += ["--include_path", str(resolve(settings.include))] if settings.include else []
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OPENAI_API_KEY": "none"}
    process = subprocess.run(command, env=os.environ | offline, capture_output=True, text=True, check=False)
    if process.returncode:
        tail = last_lines((process.stderr or process.stdout).strip(), LAST_LINES)
        raise StageFailed(
            f"evaluate.standard: {', '.join(settings.tasks)}: lm-eval failed, its last lines:\n{tail}\n"
            "Data must be on this machine: load each task's data set once, online, with `lm_eval run --tasks "
            "TASK --limit 1 "
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
            "stderr": metrics.get(name.replace(",", "_stderr,", 1)),
            "n": samples.get(task, {}).get("effective"),
        }
        for task, metrics in results["results"].items()
        for name, value in metrics.items()
        if "," in name and "_stderr," not in name and isinstance(value, int | float)
    ]
