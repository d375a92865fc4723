"""The catalogue, and the mapping of its names to what models may see."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneline.configs.catalogue import Catalogue, dotted_name, load_catalogue
from tuneline.core.errors import BadData
from tuneline.core.paths import ROOT

TOOL = {"description": "d", "parameters": {"type": "object"}}
OPENAI = re.compile(r"^[a-zA-Z0-9_-]{1,64}$")
WORDS = st.lists(st.sampled_from(["a", "B", "z9", "x1y", "send", "Ab0"]), min_size=1, max_size=2).map("_".join)
NAMES = st.lists(WORDS, min_size=1, max_size=4).map(".".join)


@given(st.lists(NAMES, min_size=1, max_size=8, unique=True))
def test_names_map_one_to_one_to_what_every_api_takes(names: list[str]) -> None:
    wires = [
        tool["function"]["name"] for tool in Catalogue.model_validate({"tools": dict.fromkeys(names, TOOL)}).openai()
    ]
    assert [dotted_name(w) for w in wires] == names and len(set(wires)) == len(names)
    assert all(OPENAI.match(w) and w.isidentifier() for w in wires)


@pytest.mark.parametrize("name", ["a__b", "a_.b", "a b", "é.b", "a/b", "a" * 65, "a\n", ""])
def test_a_name_that_could_collide_or_be_refused_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="words of letters|longer than|write 'a"):
        Catalogue.model_validate({"tools": {name: TOOL}})


def test_the_catalogue_we_ship_has_16_tools_whose_required_arguments_exist() -> None:
    catalogue = load_catalogue(ROOT / "configs" / "tools" / "handlers.yaml")
    assert len(catalogue.names) >= 16
    for name, tool in catalogue.tools.items():
        assert tool.parameters["type"] == "object", name
        assert set(tool.parameters.get("required", ())) <= set(tool.parameters["properties"]), name


def test_tools_are_given_in_the_order_they_were_asked_for() -> None:
    catalogue = Catalogue.model_validate({"tools": {"a.x": TOOL, "b": TOOL}})
    assert [t["function"]["name"] for t in catalogue.openai(["b", "a.x"])] == ["b", "a__x"]
    assert catalogue.openai(["b"])[0]["function"]["parameters"] == TOOL["parameters"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tools: [", r"yaml:2:1: not YAML"),
        ("[]", "not a catalogue"),
        ("tools: {a__b: {description: d, parameters: {}}}", "a__b"),
        ("x: 1", "tools"),
    ],
)
def test_a_broken_catalogue_names_file_and_key(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "tools.yaml"
    path.write_text(text)
    with pytest.raises(BadData, match=says) as caught:
        load_catalogue(path)
    assert str(path) in str(caught.value)
