"""Packages at exact versions, each file checked by its hash: `requirements.lock` and `requirements/*.txt`.

`make setup` runs this file before anything is installed, so that it needs the standard library alone. PyTorch is apart
in `requirements/torch.txt`: TORCH_INDEX chooses its build, and TORCH_LOCK names another file for a build that is not in
there.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tuneline.core.child_processes import last_lines
from tuneline.core.environment import read_variable
from tuneline.core.errors import StageFailed, TunelineError
from tuneline.core.paths import ROOT

LOCKS = ROOT / "requirements"
CHECKED = ("--no-deps", "--require-hashes", "--only-binary", ":all:")
"""Options of pip: nothing beside what the file lists, nothing with another hash, and nothing that would be built, since
a build fetches what it needs unchecked."""
INDEX_VARIABLE, LOCK_VARIABLE = "TORCH_INDEX", "TORCH_LOCK"
PYTHONS = ((3, 11), (3, 14))
"""From the first on, below the second: `requires-python` in pyproject.toml."""
LAST_LINES = 12


def read_locked_versions(lock: Path) -> dict[str, str]:
    """Return the version of each package in a lock."""
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", lock.read_text(encoding="utf-8"), re.M))


def install_locked(python: Path, lock: Path, *, with_torch: bool = True) -> None:
    """Install into the environment of `python`: pip itself, PyTorch, what `lock` lists, and CUDA if PyTorch needs it.

    Raises:
        StageFailed: a file has another hash than the lock, or cannot be had; the end of pip's output is shown.
    """
    _install(python, LOCKS / "pip.txt")
    if with_torch:
        _install_torch(python)
    _install(python, lock)
    if _list_missing(python):
        _install(python, LOCKS / "cuda.txt")
    if missing := _list_missing(python):
        raise StageFailed(
            f"{'; '.join(missing)}: set {LOCK_VARIABLE} to a lock file with this build and its dependencies"
        )


def torch_lock() -> Path:
    """Return the file with the hashes of PyTorch's builds: TORCH_LOCK, else `requirements/torch.txt`."""
    return Path(read_variable(LOCK_VARIABLE) or LOCKS / "torch.txt")


def _install_torch(python: Path) -> None:
    """Install the build of PyTorch that pip chooses: with hashes at hand, it would prefer a page that lists them."""
    lock, index = torch_lock(), read_variable(INDEX_VARIABLE)
    pins = [f"{name}=={version}" for name, version in read_locked_versions(lock).items()]
    if {*pins} <= _list_installed(python):
        return
    # Not an argument: it may have credentials, and all users of a machine can read arguments.
    source = {"PIP_INDEX_URL": index} if index else {}
    with tempfile.TemporaryDirectory(dir=python.parents[1]) as folder:
        only_wheels = ("--no-deps", "--only-binary", ":all:", "--dest", folder)
        run_checked(str(python), "-m", "pip", "download", "--quiet", *only_wheels, *pins, environment=source)
        try:
            _install(python, lock, "--no-index", "--find-links", folder)
        except StageFailed as error:
            raise StageFailed(
                f"{error}\n{lock} has no hash of this build of PyTorch (from {index or 'the index of pip'}); "
                f"if it is the one you want, write a lock file with its hashes and set {LOCK_VARIABLE} to that file"
            ) from None


def _list_installed(python: Path) -> set[str]:
    """Return `name==version` of each installed package, without the version's build, such as `+cpu`."""
    command = [str(python), "-m", "pip", "list", "--format", "freeze"]
    output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return {line.partition("+")[0] for line in output.splitlines()}


def _install(python: Path, lock: Path, *options: str) -> None:
    run_checked(str(python), "-m", "pip", "install", "--quiet", *CHECKED, *options, "--requirement", str(lock))


def _list_missing(python: Path) -> list[str]:
    """Return a line for each package that PyTorch requires and that is missing: CUDA builds need some of their own."""
    command = [str(python), "-m", "pip", "check"]
    output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return [line.rstrip(".") for line in output.splitlines() if line.startswith("torch ")]


def run_checked(*command: str, environment: Mapping[str, str] | None = None) -> None:
    """Run a command, with `environment` beside the variables of this process.

    Raises:
        StageFailed: it failed; the end of its output is shown.
    """
    variables = os.environ | dict(environment or {})
    process = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if process.returncode:
        tail = last_lines((process.stdout + process.stderr).strip(), LAST_LINES)
        raise StageFailed(f"`{' '.join(command)}` ended with {process.returncode}; the end of its output:\n{tail}")


def main(root: str, lock: str) -> None:
    """Create a virtual environment in the folder `root`, unless it is there, and install what `lock` lists."""
    first, limit = PYTHONS
    if not first <= sys.version_info < limit:
        found = ".".join(map(str, sys.version_info[:2]))
        raise SystemExit(f"Python 3.11, 3.12 or 3.13 is needed; this is {found}: `make setup PYTHON=python3.12`")
    try:
        run_checked(sys.executable, "-m", "venv", root)
        install_locked(Path(root) / "bin/python", Path(lock))
    except TunelineError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main(*sys.argv[1:])
