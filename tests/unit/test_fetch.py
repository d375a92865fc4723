"""Fetch: bases in folders, what is taken of them, and what is refused."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hub_peer import COMMIT, FILES, weights
from tuneline.configs.recipe import Recipe
from tuneline.core.errors import BadRecipe, NotFound
from tuneline.core.paths import ROOT
from tuneline.stages import fetch
from tuneline.stages.fetch import bases


def recipe(base: str, revision: str | None = None) -> Recipe:
    data = {"sources": [{"grammar": "data/requests/train.yaml", "rows": 1}]}
    return Recipe.model_validate({"name": "r", "base": base, "revision": revision, "data": data})


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELINE_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("TUNELINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "models"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "my base"
    folder.mkdir()
    for name, content in {**FILES, "README.md": b"x", "make.py": b"x", "pytorch_model.bin": b"x"}.items():
        (folder / name).write_bytes(content)
    return folder


def test_a_folder_is_copied_without_code_and_pickles(base: Path, models: Path, tmp_path: Path) -> None:
    made = fetch.fetch(recipe(str(base)), tmp_path / "run")
    assert set(made.manifest.files) == set(FILES)
    assert made.path.parent == models and made.path.name.startswith("my-base@")
    assert bases.open_base(recipe(str(base))).manifest.fingerprint == made.manifest.fingerprint


def test_runs_share_a_base_and_another_content_is_another_base(base: Path, models: Path, tmp_path: Path) -> None:
    first = fetch.fetch(recipe(str(base)), tmp_path / "run")
    assert fetch.fetch(recipe(str(base)), tmp_path / "other").manifest.started == first.manifest.started
    (base / "model.safetensors").write_bytes(weights(b"othe"))
    assert (first.path / "model.safetensors").read_bytes() == FILES["model.safetensors"], "the source is still linked"
    with pytest.raises(NotFound, match="tuneline fetch"):
        bases.open_base(recipe(str(base)))
    assert fetch.fetch(recipe(str(base)), tmp_path / "run").path != first.path


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
        (lambda f: (f / "model.safetensors").unlink(), "pickle"),
        (lambda f: (f / "config.json").write_text('{"model_type": "gpt2"}'), "gpt2"),
    ],
)
def test_a_folder_that_cannot_be_trained_is_refused_before_anything_is_written(
    base: Path, models: Path, tmp_path: Path, spoil: Any, says: str
) -> None:
    spoil(base)
    with pytest.raises(BadRecipe, match=says):
        fetch.fetch(recipe(str(base)), tmp_path / "run")
    assert not models.exists() and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "revision", "error", "says"),
    [
        ("tinny", None, NotFound, "tinny"),
        ("/no/such/folder", None, NotFound, "/no/such/folder"),
        ("./no/such", None, NotFound, "no/such"),
        ("meta-llama/Llama-3.2-1B", None, BadRecipe, "40 hex"),
        ("meta-llama/Llama-3.2-1B", "main", BadRecipe, "40 hex"),
        ("meta-llama/Llama-3.2-1B", COMMIT[:12], BadRecipe, "40 hex"),
    ],
)
def test_a_base_that_is_nowhere_or_not_pinned(
    models: Path, tmp_path: Path, name: str, revision: str | None, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        fetch.fetch(recipe(name, revision), tmp_path / "run")
    assert not models.exists() and not (tmp_path / "run").exists()


def test_the_base_is_checked_without_torch() -> None:
    code = (
        "import sys; from tuneline.stages.fetch import bases; from tuneline.configs.recipe import Recipe\n"
        "r = Recipe.model_validate({'base': 'tinny', 'data': {'sources': [{'path': 'x'}]}})\n"
        "try: bases.locate_base(r)\n"
        "except LookupError: pass\n"
        "else: sys.exit('accepted')\n"
        "heavy = {'torch', 'transformers', 'numpy', 'huggingface_hub'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
