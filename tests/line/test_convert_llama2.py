"""A Llama 2 Chat through the line, with its own template and with tools in its turns, judged and served."""

import json
from pathlib import Path

import pytest

from tests.conftest import CACHE
from tests.line import small
from tests.line.test_convert_mistral import WORDS
from tests.line.test_llama_server import ask
from tests.unit import llama2
from tuneline.configs.recipe import Recipe
from tuneline.engines.llama_cpp.llama_server import start_llama_server
from tuneline.stages.convert import convert
from tuneline.stages.evaluate import evaluate
from tuneline.stages.fetch import fetch
from tuneline.stages.prepare import prepare
from tuneline.stages.prepare.prepared_run import TEMPLATE
from tuneline.stages.train import train

SUITE = {
    "name": "fruit",
    "items": [{"ask": f"Ana has {n} plums, and more. How many?", "says": ["Ana"]} for n in (31, 57)],
}


@pytest.mark.parametrize("template", ["", "hermes"])
def test_it_is_trained_converted_judged_and_served(
    template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELINE_CACHE", CACHE)
    monkeypatch.setenv("TUNELINE_MODELS", str(tmp_path / "models"))
    base, run = llama2.save(tmp_path / "base", WORDS), tmp_path / "runs" / "t"
    settings = small.recipe(tmp_path).model_dump() | {"base": str(base), "template": template}
    settings |= {"serve": {"type": "Q8_0"}, "convert": {"types": ["F16", "Q8_0"]}}
    recipe = Recipe.model_validate(settings | {"evaluate": {"suites": [SUITE | {"max_tokens": 8}]}})
    for stage in (fetch, prepare, train, convert, evaluate):
        stage(recipe, run)
    assert (run / "prepare" / TEMPLATE).exists() == bool(template), "its own is kept where none is named"
    report = json.loads((run / "convert/verify.json").read_text())
    checks = {(check["check"], check["file"]): check for check in report["checks"]}
    assert all(check["passed"] for check in checks.values()), report
    assert int(checks["token_ids", "tuned-Q8_0.gguf"]["detail"].split()[0]) > 60
    answers = [json.loads(line) for file in (run / "evaluate").rglob("*.jsonl") for line in file.open(encoding="utf-8")]
    assert len(answers) == 6, "the base and both files answered both questions"
    with start_llama_server(
        run / "convert/tuned-Q8_0.gguf", alias="t", log=tmp_path / "log", context=512, threads=1
    ) as server:
        answer = ask(server, [{"role": "user", "content": "Ana has 2 figs. How many?"}], tools=[], max_tokens=4)
    assert answer["message"]["role"] == "assistant" and answer["finish_reason"] in ("length", "stop")
