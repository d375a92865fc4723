"""What an image builds with files of ours is built with all of them: nothing else is there while it is built."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from configs.section import ROOT
from images.compress import OWN
from images.llama import BUILDER, SOURCE

RUN_AS_A_FILE = "import runpy; runpy.run_path('stages/convert/llama_cpp.py')"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ((*BUILDER, *SOURCE), RUN_AS_A_FILE),
        ((*BUILDER, *SOURCE, *OWN), "import stages.convert.environments"),
    ],
)
def test_a_layer_has_all_it_imports(tmp_path: Path, files: tuple[str, ...], words: str) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", words], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
