"""Installed, Tuneline is one top-level name, brings its data, and takes nothing from the folder a user stands in."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tuneline.core.paths import ROOT

NAMES = (
    "app",
    "cli",
    "configs",
    "core",
    "data",
    "endpoints",
    "engines",
    "images",
    "publish",
    "rehearsal",
    "stages",
    "volumes",
)
LEFT_OUT = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "tests", "benchmarks", "docs", "wandb")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed package, without what it depends on."""
    folder = tmp_path_factory.mktemp("installation")
    shutil.copytree(ROOT, folder / "source", symlinks=True, ignore=LEFT_OUT)
    words = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(folder / "site"), str(folder / "source")]
    subprocess.run([sys.executable, "-m", "pip", "install", *words], check=True, capture_output=True)
    return folder / "site"


def test_it_is_one_name_with_its_data(site: Path) -> None:
    assert {path.name for path in site.iterdir() if path.suffix != ".dist-info"} == {"bin", "tuneline"}
    for pattern in ("*.yaml", "*.jinja", "*.css", "*.safetensors", "CMakeLists.txt", "box.sh"):
        shipped = {path.relative_to(ROOT) for path in ROOT.rglob(pattern) if _is_shipped(path.relative_to(ROOT))}
        assert shipped
        assert not [path for path in shipped if not (site / "tuneline" / path).is_file()]


def _is_shipped(path: Path) -> bool:
    return path.parts[0] in NAMES


def test_files_of_a_user_are_not_imported(site: Path, tmp_path: Path) -> None:
    """Neither by the command nor by the processes it starts: each of these files ends whoever imports it."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py of the user was imported')")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TUNELINE_")}
    command = "import sys; from tuneline import cli; assert cli.__file__.startswith(sys.path[0]); cli.main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", command, "prepare", str(site / "tuneline/configs/recipes/micro.yaml")],
        env=environment | {"PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / ".runs/micro/prepare/manifest.json").exists()
