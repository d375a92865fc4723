"""How a catalogue is shown follows from the context: schemas, a line a tool, or the nearest tools."""

import json
from pathlib import Path

import pytest

from tests.unit.test_data_render import TINY
from tests.unit.test_data_templates import original
from tuneline.configs.catalogue import Catalogue, load_catalogue
from tuneline.configs.data import Data, Source
from tuneline.core.paths import ROOT
from tuneline.stages.prepare.examination import Examination
from tuneline.stages.prepare.rendering.renderer import Renderer
from tuneline.stages.prepare.rendering.tool_preselector import Preselector, choose_tool_display, measure_recall
from tuneline.stages.prepare.rows import Row


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue(ROOT / "configs/tools/business.yaml")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    for file in TINY.glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "chat_template.jinja").write_text(original("llama-3.1"))
    return folder


def data(**settings: object) -> Data:
    return Data.model_validate({"sources": [{"per_tool": 1}]} | settings)


def test_the_right_tool_is_among_the_first_for_phrases_never_trained_on(catalogue: Catalogue) -> None:
    found = measure_recall(Preselector.from_catalogue(catalogue), catalogue)
    assert found["phrases"] >= 300 and found["at_8"] > 0.9 and found["at_16"] > 0.97
    assert found["at_1"] <= found["at_4"] <= found["at_8"] <= found["at_16"]


def test_the_context_decides(catalogue: Catalogue, llama: Path) -> None:
    def way(max_tokens: int) -> str:
        return choose_tool_display(data(show="auto", max_tokens=max_tokens), catalogue, Renderer(llama, catalogue))

    assert [way(tokens) for tokens in (131072, 12000, 2048)] == ["schemas", "signatures", "nearest"]


def test_a_signature_is_a_line(catalogue: Catalogue, llama: Path) -> None:
    renderer = Renderer(llama, catalogue)
    row = Row.model_validate(
        {
            "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello."}],
            "tools": ["docs.share"],
        }
    )
    assert '"parameters": {' in renderer.text(row)[0].split("Do not use variables.")[1]
    renderer.show_signatures()
    assert "docs__share(title, to, role): Share a Google Doc with a person.\nhi<|eot_id|>" in renderer.text(row)[0]
    assert (
        renderer.tokenizer.apply_chat_template(row.chat(), tools=renderer.tools(row), tokenize=False)
        == (renderer.text(row)[0])
    )


def test_rows_show_the_nearest_tools_and_always_the_called_one(catalogue: Catalogue, tmp_path: Path) -> None:
    called = {"function": {"name": "docs__create", "arguments": {"title": "plan"}}}
    turns = [{"role": "user", "content": "send a whatsapp to Luca"}, {"role": "assistant", "tool_calls": [called]}]
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"messages": turns}) + "\n")
    settings = data(show="nearest", nearest=8).model_copy(update={"sources": (Source(path=file),)})
    examined = Examination(settings, catalogue, None, preselector=Preselector.from_catalogue(catalogue))
    rows = [entry.row for entry in examined.rows()]
    assert not examined.finish().count("error")
    assert len(rows[0].tools) == 8 and {"docs.create", "whatsapp.send"} <= set(rows[0].tools)
