"""Virtual environments for tools whose pins differ from ours; `NAME.txt` in this folder lists all packages of one.

They are created on first use, in the cache; on Modal, in the image, by
`python -m tuneline.stages.convert.folders.environments NAME`. TORCH_INDEX chooses PyTorch's build, as in the Makefile.
"""

import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuneline.core import paths
from tuneline.core.child_processes import last_lines, log_tail
from tuneline.core.errors import StageFailed

log = logging.getLogger(__name__)

MARK = "made"
"""A file that is written last: without it, packages are installed again."""
LAST_LINES = 8


def environment_python(name: str) -> Path:
    """Return the Python of the environment `name`, which is created if it is missing.

    Raises:
        StageFailed: a package cannot be installed; the end of pip's output is shown.
    """
    requirements = Path(__file__).with_name(f"{name}.txt")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    root = paths.cache() / f"{name}-{version}-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:8]}"
    python = root / "bin/python"
    if not (root / MARK).exists():
        log.info("%s: making its environment in %s (minutes, once)", name, root)
        _run(sys.executable, "-m", "venv", "--clear", str(root))
        torch = next(line for line in requirements.read_text().splitlines() if line.startswith("torch=="))
        if index := os.environ.get("TORCH_INDEX"):  # first and alone: what needs it later keeps the chosen build
            # Not an argument: it may have credentials, and all users of a machine can read arguments.
            _run(str(python), "-m", "pip", "install", "--quiet", torch, environment={"PIP_INDEX_URL": index})
        _run(str(python), "-m", "pip", "install", "--quiet", "--requirement", str(requirements))
        (root / MARK).touch()
    return python


def run_in_environment(name: str, script: Path, arguments: dict[str, Any], scratch: Path) -> None:
    """Run `script` in the environment `name`. It is passed `arguments` as JSON; its log is written to `scratch`.

    Raises:
        StageFailed: it failed; the end of its log is shown.
    """
    log = scratch / f"{name}.log"
    with log.open("w") as out:
        # -P: files beside the script, such as onnx.py, would hide packages of that environment.
        command = [str(environment_python(name)), "-P", str(script), json.dumps(arguments)]
        code = subprocess.run(command, stdout=out, stderr=out, check=False).returncode
    if code:
        tail = log_tail(log, LAST_LINES)
        raise StageFailed(f"{arguments['model']}: {script.name} ended with {code}; the end of its log:\n{tail}")


def _run(*command: str, environment: Mapping[str, str] | None = None) -> None:
    process = subprocess.run(
        command, env=os.environ | dict(environment or {}), capture_output=True, text=True, check=False
    )
    if process.returncode:
        tail = last_lines(process.stdout + process.stderr, LAST_LINES)
        raise StageFailed(f"`{' '.join(command)}` ended with {process.returncode}; the end of its output:\n{tail}")
