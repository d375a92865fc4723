"""A Mistral through the line: its GGUF has its tokenizer's ids, though no space stands before what follows a control
token, whatever its settings say."""

import json
from pathlib import Path

import pytest

from tests.conftest import CACHE
from tests.line import small
from tests.unit import mistral
from tuneline.configs.recipe import Recipe
from tuneline.stages.convert import convert
from tuneline.stages.fetch import fetch
from tuneline.stages.prepare import prepare
from tuneline.stages.train import train

WORDS = " ".join(f"Ana has {n} {fruit} more. How many?" for n in range(100) for fruit in small.FRUIT)


def test_every_id_is_that_of_its_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELINE_CACHE", CACHE)
    monkeypatch.setenv("TUNELINE_MODELS", str(tmp_path / "models"))
    base, run = mistral.save(tmp_path / "base", WORDS), tmp_path / "runs" / "t"
    config = base / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"add_prefix_space": True}))
    settings = small.recipe(tmp_path).model_dump() | {"base": str(base), "serve": {"type": "Q8_0"}}
    recipe = Recipe.model_validate(settings | {"convert": {"types": ["F16", "Q8_0"]}})
    for stage in (fetch, prepare, train, convert):
        stage(recipe, run)
    report = json.loads((run / "convert/verify.json").read_text())
    checks = {(check["check"], check["file"]): check for check in report["checks"]}
    assert all(check["passed"] for check in checks.values())
    assert int(checks["token_ids", "tuned-Q8_0.gguf"]["detail"].split()[0]) > 60
