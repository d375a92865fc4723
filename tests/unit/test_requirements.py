"""Locks: each names exact versions and hashes, they agree with each other, and everything that runs pip uses them."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tuneline.core.package_locks import CHECKED, LOCKS, PYTHONS, read_locked_versions
from tuneline.core.paths import ROOT
from tuneline.images.packages import PYTHON
from tuneline.requirements.compile import ALL_PYTHONS, IMAGE, IMAGE_PYTHON, add_hashes, is_installable
from tuneline.stages.evaluate.load_testing.guidellm import VERSION

MAIN = ROOT / "requirements.lock"
FILES = [MAIN, *sorted(LOCKS.glob("*.txt"))]
REQUIREMENT = re.compile(r"[a-z0-9.-]+==[^\s;]+( ; [^#]+?)?( --hash=sha256:[0-9a-f]{64})+")
ANSWERED_BY_VLLM = {"fastapi", "numpy", "setuptools", "transformers"}
"""Packages whose version vLLM decides in its own image."""


def lines_of(lock: Path) -> list[str]:
    """The requirements of a lock, each with its continuation."""
    text = re.sub(r" \\\n\s+", " ", lock.read_text(encoding="utf-8"))
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def hashes_of(lock: Path) -> dict[str, set[str]]:
    return {line.split()[0]: set(re.findall(r"sha256:(\w+)", line)) for line in lines_of(lock)}


@pytest.mark.parametrize("lock", FILES, ids=lambda lock: lock.name)
def test_every_requirement_has_a_version_and_hashes(lock: Path) -> None:
    assert lines_of(lock)
    assert [line for line in lines_of(lock) if not REQUIREMENT.fullmatch(line)] == [], "run `make lock`"


def test_what_pyproject_asks_for_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = read_locked_versions(MAIN) | read_locked_versions(LOCKS / "torch.txt")
    for line in project["dependencies"] + project["optional-dependencies"]["dev"]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), f"{line}: run `make lock`"
    assert tuple(f"3.{minor}" for minor in range(PYTHONS[0][1], PYTHONS[1][1])) == ALL_PYTHONS
    assert project["requires-python"] == ">=3.11,<3.14"


@pytest.mark.parametrize("lock", [MAIN, *(LOCKS / f"{name}.txt" for name in ("cpu", "convert", "train"))], ids=str)
def test_a_lock_has_all_that_its_packages_and_pytorch_require(lock: Path) -> None:
    """It is installed without looking at what they require; PyTorch's CUDA builds with what is in cuda.txt."""
    locked = read_locked_versions(lock) | read_locked_versions(LOCKS / "torch.txt")
    cuda = read_locked_versions(LOCKS / "cuda.txt")
    needed = [Requirement(line.partition(" --hash")[0]) for line in lines_of(lock)]
    names = [package.name for package in needed if not package.marker or package.marker.evaluate()]
    here = {canonicalize_name(package.name) for package in metadata.distributions()}  # some are in images only
    for name in {*names, "torch"} & here:
        for line in metadata.requires(name) or ():
            requirement = Requirement(line)
            if not requirement.marker or requirement.marker.evaluate({"extra": ""}):
                package = canonicalize_name(requirement.name)
                version = locked.get(package) or (cuda.get(package) if name == "torch" else None)
                assert version and requirement.specifier.contains(version, prereleases=True), f"{name} requires {line}"


@pytest.mark.parametrize("name", ["cpu", "gateway", "assistant", "convert", "train", "serve", "evaluate"])
def test_images_have_the_versions_and_files_of_the_lock(name: str) -> None:
    ours, image = read_locked_versions(MAIN), read_locked_versions(LOCKS / f"{name}.txt")
    others = {package for package in ours.keys() & image.keys() if ours[package] != image[package]}
    assert others <= (ANSWERED_BY_VLLM if name in ("serve", "evaluate") else set())
    assert "torch" not in ours and ("torch" in image) == (name == "serve")
    known = hashes_of(MAIN)
    assert all(hashes <= known[line] for line, hashes in hashes_of(LOCKS / f"{name}.txt").items() if line in known)
    listed = re.findall(r"^[a-z0-9][a-z0-9-]*", (LOCKS / f"{name}.in").read_text(), re.M)
    assert listed and set(listed) - {"torch"} <= image.keys()


def test_vllm_runs_on_the_torch_that_trains() -> None:
    files = hashes_of(LOCKS / "torch.txt")
    (ours,) = files
    assert hashes_of(LOCKS / "serve.txt")[ours] < files[ours]
    cuda, serve = read_locked_versions(LOCKS / "cuda.txt"), read_locked_versions(LOCKS / "serve.txt")
    assert cuda.items() <= serve.items()
    serves, evaluates = read_locked_versions(LOCKS / "serve.txt"), read_locked_versions(LOCKS / "evaluate.txt")
    assert all(serves.get(name, version) == version for name, version in evaluates.items())


def test_environments_of_their_own_share_what_they_can() -> None:
    """A tool has one because it requires other versions; what both have is the same, so that figures compare."""
    ours = read_locked_versions(MAIN)
    shared = {"accelerate", "bitsandbytes", "datasets", "numpy", "pydantic", "safetensors"}
    for name, tool, same in (("compress", "llmcompressor", shared), ("onnx", "optimum-onnx", {"numpy", "safetensors"})):
        pinned = read_locked_versions(LOCKS / f"{name}.txt")
        assert tool in pinned and tool not in ours and pinned["transformers"] != ours["transformers"]
        assert {package: pinned.get(package) for package in same} == {package: ours[package] for package in same}


def test_the_load_test_is_of_the_version_that_is_installed() -> None:
    assert read_locked_versions(LOCKS / "load.txt")["guidellm"] == VERSION


def test_a_wheel_is_kept_for_the_machines_that_are_supported() -> None:
    def fits(tag: str) -> bool:
        return is_installable(f"orjson-3.13.0-{tag}.whl", ALL_PYTHONS, ("x86_64", "aarch64"))

    assert fits("cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64") and fits("cp313-cp313-manylinux_2_28_aarch64")
    assert fits("py3-none-any") and fits("cp39-abi3-manylinux_2_31_x86_64") and fits("py2.py3-none-any")
    assert not fits("cp314-cp314-manylinux_2_17_x86_64") and not fits("cp314-abi3-manylinux_2_17_x86_64")
    assert not fits("cp311-cp311-win_amd64") and not fits("cp311-cp311-musllinux_1_2_x86_64")
    assert not fits("cp313-cp313t-manylinux_2_17_x86_64") and not fits("pp311-pypy311_pp73-manylinux_2_17_x86_64")
    assert IMAGE_PYTHON == (PYTHON,) and IMAGE[1] == PYTHON


def test_a_package_without_a_wheel_is_no_lock() -> None:
    one, two = "0" * 64, "1" * 64
    locked = add_hashes("a==1 ; python_version < '3.12'\n    # via b\n", {"a==1": [one, two]})
    requirement = "a==1 ; python_version < '3.12'"
    assert locked == f"{requirement} \\\n    --hash=sha256:{one} \\\n    --hash=sha256:{two}\n    # via b\n"
    with pytest.raises(ValueError, match="a==1: no wheel"):
        add_hashes("a==1\n", {"a==1": []})


@pytest.mark.parametrize("file", ["Makefile", "images/box.sh"])
def test_whatever_runs_pip_checks_hashes(file: str) -> None:
    """The editable installation of this folder alone has none; it builds with what is installed."""
    lines = [line for line in (ROOT / file).read_text().splitlines() if "pip install" in line]
    assert lines and all("--require-hashes" in line or "--no-build-isolation --editable ." in line for line in lines)
    assert "--require-hashes" in CHECKED and "--no-deps" in CHECKED and CHECKED[-2:] == ("--only-binary", ":all:")
