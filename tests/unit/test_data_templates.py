"""Our chat templates write what the originals write, and mark every assistant token and no other.

`benchmarks/data.py masks` holds the masks of 2,000 conversations a template right.
"""

import random
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_data_render import TINY, conversation
from tuneline.configs.catalogue import Catalogue, load_catalogue
from tuneline.core.paths import ROOT
from tuneline.stages.prepare.rendering.chat_templates import TEMPLATES_FOLDER
from tuneline.stages.prepare.rendering.renderer import Renderer
from tuneline.stages.prepare.rows import Row

LLAMA_3 = ("<|start_header_id|>assistant<|end_header_id|>", "<|eot_id|>")
LLAMA_4 = ("<|header_start|>assistant<|header_end|>", "<|eot|>")
SHAPES = {"llama-3.1": LLAMA_3, "llama-3.2": LLAMA_3, "llama-4": LLAMA_4}
SPECIAL = ["<|header_start|>", "<|header_end|>", "<|eot|>", "<|python_start|>", "<|python_end|>"]


def original(name: str) -> str:
    """What Meta ships, as installed packages carry it."""
    if name == "llama-4":
        from transformers.models.llama4.processing_llama4 import chat_template

        return str(chat_template)
    import trl

    folder = Path(trl.__file__).parent / "chat_templates"
    return (folder / f"{name.replace('-', '').replace('.', '_')}.jinja").read_text("utf-8")


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue(ROOT / "configs/tools/business.yaml")


@pytest.fixture(scope="module")
def rows(catalogue: Catalogue) -> list[Row]:
    rng = random.Random(1)
    return [conversation(rng, catalogue) for _ in range(200)]


@pytest.fixture(scope="module", params=sorted(SHAPES))
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny tokenizer with Llama 4's control tokens too, and the original template."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp(request.param)
    tokenizer: Any = AutoTokenizer.from_pretrained(TINY, local_files_only=True)
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    tokenizer.chat_template = original(request.param)
    tokenizer.save_pretrained(folder)
    return folder


def name_of(base: Path) -> str:
    return next(name for name in SHAPES if base.name.startswith(name))


def test_the_template_is_found_by_what_it_writes(base: Path, catalogue: Catalogue) -> None:
    assert Renderer(base, catalogue).template == (TEMPLATES_FOLDER / f"{name_of(base)}.jinja").read_text("utf-8")


def test_the_text_is_the_originals(base: Path, rows: list[Row], catalogue: Catalogue) -> None:
    renderer = Renderer(base, catalogue)
    original_text = original(name_of(base))
    single = [row for row in rows if all(len(message.tool_calls or ()) < 2 for message in row.messages)][:300]
    for row in single:
        given: dict[str, Any] = {"tools": renderer.tools(row), "tokenize": False}
        theirs = renderer.tokenizer.apply_chat_template(row.chat(), chat_template=original_text, **given)
        assert renderer.text(row)[0] == theirs
        assert renderer.tokenizer.apply_chat_template(row.chat(), **given) == theirs


def test_every_assistant_token_is_learned_and_no_other(base: Path, rows: list[Row], catalogue: Catalogue) -> None:
    """Told from the ids alone: from the end of an assistant's header to the end of its turn."""
    renderer = Renderer(base, catalogue)
    encode = renderer.tokenizer.encode
    header, end = (encode(text, add_special_tokens=False) for text in SHAPES[name_of(base)])
    gap = encode("\n\n", add_special_tokens=False)
    assert len(end) == 1
    for row, rendered in zip(rows, renderer.batch(rows), strict=True):
        expected, at = [0] * len(rendered.ids), 0
        while at < len(rendered.ids):
            if rendered.ids[at : at + len(header)] == header:
                at += len(header) + len(gap)
                last = rendered.ids.index(end[0], at)
                expected[at : last + 1] = [1] * (last + 1 - at)
                at = last
            at += 1
        assert rendered.mask == expected, row
        assert sum(message.role == "assistant" for message in row.messages) == sum(
            now and not before for before, now in zip([0, *expected], expected, strict=False)
        )


def test_several_calls_at_once_are_written_as_the_parser_splits_them(base: Path, rows: list[Row]) -> None:
    if name_of(base) == "llama-4":
        return  # theirs writes several itself
    row = next(row for row in rows if any(len(message.tool_calls or ()) == 2 for message in row.messages))
    assert '}}; {"name": "' in Renderer(base, None).text(row)[0]


def test_a_template_that_none_of_ours_equals_stays(tmp_path: Path) -> None:
    for file in TINY.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    own = original("llama-3.1").replace("Environment", "environment")
    (tmp_path / "chat_template.jinja").write_text(own)
    renderer = Renderer(tmp_path, None)
    assert renderer.is_base_template and renderer.template == own


def test_a_base_without_a_template_gets_its_familys(tmp_path: Path) -> None:
    for file in TINY.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert Renderer(tmp_path, None).template == (TEMPLATES_FOLDER / "llama-3.1.jinja").read_text("utf-8")
