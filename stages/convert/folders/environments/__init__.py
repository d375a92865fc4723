"""Environments of their own, for tools whose pins differ from ours: `NAME.txt` here lists all packages of one.

Made on first use, in the cache; on Modal, in the image: `python -m tuneline.stages.convert.folders.environments NAME`.
TORCH_INDEX chooses PyTorch's build, as in the Makefile.
"""

import hashlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tuneline.core import paths
from tuneline.core.errors import StageFailed

log = logging.getLogger(__name__)

MARK = "made"
"""Written last: without it, packages are installed again."""
LAST_LINES = 8


def python_of(name: str) -> Path:
    """The Python of the environment `name`, made unless it is there.

    Raises:
        StageFailed: a package cannot be installed; the end of pip's output is shown.
    """
    listed = Path(__file__).with_name(f"{name}.txt")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    root = paths.cache() / f"{name}-{version}-{hashlib.sha256(listed.read_bytes()).hexdigest()[:8]}"
    python = root / "bin/python"
    if not (root / MARK).exists():
        log.info("%s: making its environment in %s (minutes, once)", name, root)
        _run(sys.executable, "-m", "venv", "--clear", str(root))
        torch = next(line for line in listed.read_text().splitlines() if line.startswith("torch=="))
        if index := os.environ.get("TORCH_INDEX"):  # first and alone: what needs it later keeps the chosen build
            _run(str(python), "-m", "pip", "install", "--quiet", "--index-url", index, torch)
        _run(str(python), "-m", "pip", "install", "--quiet", "--requirement", str(listed))
        (root / MARK).touch()
    return python


def run_in(name: str, script: Path, words: dict[str, Any], scratch: Path) -> None:
    """`script` in the environment `name`, given `words`.

    Raises:
        StageFailed: it failed; the end of what it said is shown.
    """
    log = scratch / f"{name}.log"
    with log.open("w") as out:
        # -P: the files beside it, gguf.py for one, are no packages of that environment.
        command = [str(python_of(name)), "-P", str(script), json.dumps(words)]
        code = subprocess.run(command, stdout=out, stderr=out, check=False).returncode
    if code:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:])
        raise StageFailed(f"{words['model']}: {script.name} ended with {code}; the end of its log:\n{last}")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-LAST_LINES:])
        raise StageFailed(f"`{' '.join(command)}` ended with {done.returncode}; the end of its output:\n{last}")
