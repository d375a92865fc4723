"""Roots: base images of the registry, made of Debian's packages and a Python of this machine; and commands in them."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from tuneline.core.child_processes import last_lines
from tuneline.core.errors import BadRequest, NotFound, StageFailed
from tuneline.rehearsal.image_builds import chroot_process, package_sources

PYTHON_IMAGE = re.compile(r"python:(3\.\d+)(?:\.\d+)?-slim-(\w+)")
ESSENTIAL = ("ca-certificates", "netbase", "tzdata", "libffi8", "libsqlite3-0", "libssl3", "libreadline8", "libbz2-1.0")
"""Packages of Python's slim images (github.com/docker-library/python, Dockerfile-linux.template)."""
RENAMED = {"trixie": {"libssl3": "libssl3t64", "libreadline8": "libreadline8t64"}}
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}
LAST_LINES = 15
_PYTHON_PLACES = (".pyenv/versions/{0}.*/bin/python{0}", ".local/share/uv/python/cpython-{0}.*/bin/python{0}")


class ChrootSpec(TypedDict):
    """The JSON argument of `chroot_process.py`."""

    root: str
    lower: list[str]
    upper: str
    work: str
    binds: list[tuple[str, str, bool]]
    """Source, target, whether it is read-only."""
    network: bool
    folder: str
    command: list[str]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Root:
    """The layers of an image, the newest first, and what its commands have set."""

    layers: tuple[Path, ...]
    environment: Mapping[str, str]

    def run(
        self,
        command: Sequence[str],
        *,
        upper: Path | None = None,
        binds: Sequence[tuple[Path, str]] = (),
        network: bool = False,
        environment: Mapping[str, str] | None = None,
        folder: str = "/",
        input: str = "",
    ) -> str:
        """Run a command and return what it printed; what it writes goes to `upper`, else it is removed.

        Raises:
            StageFailed: it failed; the end of its output is shown.
        """
        with tempfile.TemporaryDirectory(dir=self.layers[0].parent, prefix="run-") as scratch:
            spec = self._spec(Path(scratch), folder, command, upper, binds, network, environment or {})
            file = Path(scratch) / "spec.json"
            file.write_text(json.dumps(spec), encoding="utf-8")
            process = subprocess.run(
                [sys.executable, "-I", "-S", chroot_process.__file__, str(file)],
                input=input,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
            )
        if process.returncode:
            words = " ".join(command).splitlines()[0]
            tail = last_lines(process.stdout.strip(), LAST_LINES)
            raise StageFailed(f"`{words}` ended with {process.returncode} in the image; the end of its output:\n{tail}")
        return process.stdout

    def _spec(
        self,
        scratch: Path,
        folder: str,
        command: Sequence[str],
        upper: Path | None,
        binds: Sequence[tuple[Path, str]],
        network: bool,
        environment: Mapping[str, str],
    ) -> ChrootSpec:
        for name in ("root", "work", "upper"):
            (scratch / name).mkdir()
        sources = package_sources.list_files() if network else []
        variables = package_sources.list_variables() if network else {}
        return {
            "root": str(scratch / "root"),
            "lower": [str(layer) for layer in self.layers],
            "upper": str(upper or scratch / "upper"),
            "work": str(scratch / "work"),
            "binds": [(str(path), str(path), True) for path in sources]
            + [(str(source), target, False) for source, target in binds],
            "network": network,
            "folder": folder,
            "command": list(command),
            "environment": {**ENVIRONMENT, **variables, **self.environment, **environment},
        }


def make_base(image: str, folder: Path) -> None:
    """Make the root of one of Python's slim images in `folder`: Debian's packages by mmdebstrap, Python copied.

    Raises:
        BadRequest: another kind of image. NotFound: no mmdebstrap, or no such Python on this machine. StageFailed: no
            root could be made.
    """
    match = PYTHON_IMAGE.fullmatch(image)
    if not match:
        raise BadRequest(f"{image}: only Python's slim images are made here, such as python:3.12-slim-trixie")
    version, suite = match.groups()
    python = find_python(version)
    packages = [RENAMED.get(suite, {}).get(name, name) for name in ESSENTIAL]
    options = ["--quiet", "--variant=essential", f"--include=apt,{','.join(packages)}"]
    mirror = package_sources.find_debian_mirror()
    _check_output(["mmdebstrap", *options, suite, str(folder), *([mirror] if mirror else [])])
    _copy_python(python, folder / "usr/local")
    _check_output(["chroot", str(folder), "ldconfig"])
    _check_output(["chroot", str(folder), "/usr/local/bin/python", "-m", "ensurepip", "--upgrade", "--default-pip"])


def check_machine(python: str) -> None:
    """Check that roots can be made here.

    Raises:
        BadRequest: not root. NotFound: no mmdebstrap, or no such Python.
    """
    if os.geteuid() != 0:
        raise BadRequest("images are built as root: packages of Debian are installed in a root of their own")
    if not shutil.which("mmdebstrap"):
        raise NotFound("mmdebstrap is not here: `apt-get install mmdebstrap` (Debian or Ubuntu)")
    find_python(python)


def find_python(version: str) -> Path:
    """Return the prefix of a Python on this machine that can be copied: not Debian's own.

    Raises:
        NotFound: there is none.
    """
    places = [Path(path) for path in [shutil.which(f"python{version}")] if path]
    places += [path for place in _PYTHON_PLACES for path in sorted(Path.home().glob(place.format(version)))]
    code = "import sys; print(f'{sys.version_info[0]}.{sys.version_info[1]} {sys.base_prefix}')"
    for python in (Path(sys.executable), *places):
        output = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False).stdout.split()
        if output[:1] == [version] and output[1] not in ("/usr", "/"):
            return Path(output[1])
    raise NotFound(
        f"Python {version} is not here: `pyenv install {version}` or `uv python install {version}` brings it"
    )


def _copy_python(prefix: Path, target: Path) -> None:
    """Copy a Python without its packages and its tests."""
    ignored = shutil.ignore_patterns("site-packages", "__pycache__", "test", "tests", "*.a", "idlelib", "turtledemo")
    for name in ("bin", "include", "lib"):
        shutil.copytree(prefix / name, target / name, symlinks=True, dirs_exist_ok=True, ignore=ignored)
    [python] = (target / "bin").glob("python3.[0-9][0-9]")
    for script in (target / "bin").iterdir():
        if not script.name.startswith("python"):
            script.unlink()  # pip and others, which begin with the path of the Python they were installed for
    for name in ("python", "python3"):
        (target / "bin" / name).unlink(missing_ok=True)
        (target / "bin" / name).symlink_to(python.name)
    (target / "lib" / python.name / "site-packages").mkdir()


def _check_output(command: list[str]) -> None:
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if process.returncode:
        tail = last_lines(process.stdout.strip(), LAST_LINES)
        raise StageFailed(f"`{command[0]}` ended with {process.returncode}; the end of its output:\n{tail}")
