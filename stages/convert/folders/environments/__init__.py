"""Virtual environments for tools whose pins differ from ours; `requirements/NAME.txt` lists all packages of one.

They are created on first use, in the cache; on Modal, in the image, by
`python -m tuneline.stages.convert.folders.environments NAME`. TORCH_INDEX chooses PyTorch's build, as in `make setup`.
"""

import hashlib
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

from tuneline.core import package_locks, paths
from tuneline.core.child_processes import log_tail
from tuneline.core.errors import StageFailed

log = logging.getLogger(__name__)

MARK = "made"
"""A file that is written last: without it, packages are installed again."""
LAST_LINES = 8
WITHOUT_TORCH = frozenset({"clients", "litellm", "trainers", "deploy"})
"""Environments whose packages do not need PyTorch."""


def environment_python(name: str) -> Path:
    """Return the Python of the environment `name`, which is created if it is missing.

    Raises:
        StageFailed: a package cannot be installed; the end of pip's output is shown.
    """
    lock = package_locks.LOCKS / f"{name}.txt"
    content = b"".join(file.read_bytes() for file in (lock, package_locks.torch_lock()))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    root = paths.cache() / f"{name}-{version}-{hashlib.sha256(content).hexdigest()[:8]}"
    python = root / "bin/python"
    if not (root / MARK).exists():
        log.info("%s: creating its environment in %s (once, some minutes)", name, root)
        package_locks.run_checked(sys.executable, "-m", "venv", "--clear", str(root))
        package_locks.install_locked(python, lock, with_torch=name not in WITHOUT_TORCH)
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
