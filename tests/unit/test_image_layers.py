"""What an image builds with files of ours is built with all of them: nothing else is there while it is built."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tuneline.core.paths import ROOT
from tuneline.images.compress import ENVIRONMENT_FILES
from tuneline.images.llama import BUILDER_FILES, BUILDER_IMPORTS
from tuneline.images.source import PACKAGE

RUN_AS_A_FILE = "import tuneline.engines.llama_cpp.build"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ((*BUILDER_IMPORTS, *BUILDER_FILES), RUN_AS_A_FILE),
        ((*BUILDER_IMPORTS, *BUILDER_FILES, *ENVIRONMENT_FILES), "import tuneline.stages.convert.folders.environments"),
    ],
)
def test_a_layer_has_all_it_imports(tmp_path: Path, files: tuple[str, ...], words: str) -> None:
    (tmp_path / "tuneline").mkdir()
    shutil.copy(ROOT / PACKAGE, tmp_path / PACKAGE)
    for file in files:
        (tmp_path / "tuneline" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / "tuneline" / file)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-S", "-c", words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
