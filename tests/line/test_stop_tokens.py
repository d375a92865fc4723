"""A template that ends turns with another token than its base's end of text: everything that serves it stops there."""

import json
from pathlib import Path

import pytest

from tests.conftest import CACHE
from tests.line import small
from tests.unit.public_templates import CHATML, save_base
from tuneline.configs.recipe import Recipe
from tuneline.stages.convert import convert
from tuneline.stages.convert.task import MERGED
from tuneline.stages.fetch import fetch
from tuneline.stages.prepare import prepare
from tuneline.stages.prepare.prepared_run import request_fields
from tuneline.stages.train import train

END = "⟨over⟩"
TEMPLATE = CHATML.replace("<|im_end|>", END)


def save_resized_base(folder: Path) -> tuple[Path, int]:
    """Return a tiny base whose vocabulary has the token that ends a turn, and that token's id."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    save_base(folder, TEMPLATE)
    (folder / "chat_template.jinja").unlink()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(small.BASE)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    return folder, tokenizer.convert_tokens_to_ids(END)


def test_what_serves_it_stops_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELINE_CACHE", CACHE)
    monkeypatch.setenv("TUNELINE_MODELS", str(tmp_path / "models"))
    base, end = save_resized_base(tmp_path / "base")
    (tmp_path / "own.jinja").write_text(TEMPLATE, encoding="utf-8")
    settings = small.recipe(tmp_path, max_steps=2).model_dump()
    settings |= {"base": str(base), "template": str(tmp_path / "own.jinja"), "serve": {"type": "Q8_0"}}
    recipe = Recipe.model_validate(settings | {"convert": {"types": ["F16", "Q8_0"], "format": "safetensors"}})
    run = tmp_path / "runs" / "t"
    for stage in (fetch, prepare, train, convert):
        stage(recipe, run)
    configured = json.loads((base / "generation_config.json").read_text())["eos_token_id"]
    assert end not in (configured if isinstance(configured, list) else [configured])
    of_vllm = json.loads((run / "convert" / MERGED / "generation_config.json").read_text())["eos_token_id"]
    assert end in of_vllm, "vLLM stops at what a checkpoint's generation config names"
    fields = request_fields(run / "prepare")
    assert fields["stop_token_ids"] == of_vllm and fields["chat_template"] == TEMPLATE, "an adapter's requests say it"
    checks = json.loads((run / "convert/verify.json").read_text())["checks"]
    stops = [check for check in checks if check["check"] == "stop_tokens"]
    assert len(stops) == 2 and all(check["passed"] and END in check["detail"] for check in stops), stops
