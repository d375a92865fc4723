"""Our rendering is transformers' own, token for token, and every assistant token is learned and no other."""

import random
from typing import Any

import pytest

from tuneline.configs.catalogue import Catalogue, Tool, load_catalogue
from tuneline.core.paths import ROOT
from tuneline.stages.prepare.rendering.chat_templates import LOSS_BEGIN
from tuneline.stages.prepare.rendering.renderer import Renderer
from tuneline.stages.prepare.rows import Row

TINY = ROOT / "data/tiny"
CONVERSATIONS = 2000
WORDS = ["a", "plan", "  ", "\n", "è", "perché", "🎉", "日本", "x=1;", "{}", '"quoted"', "…", "\t", "I", "'s", "end."]


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue(ROOT / "configs/tools/business.yaml")


@pytest.fixture(scope="module")
def rows(catalogue: Catalogue) -> list[Row]:
    rng = random.Random(0)
    return [conversation(rng, catalogue) for _ in range(CONVERSATIONS)]


def conversation(rng: random.Random, catalogue: Catalogue) -> Row:
    """A random conversation: some with a system message, with tools, calls of one or more, results, several turns."""

    def text() -> str:
        return "x" + "".join(rng.choice(["", " "]) + rng.choice(WORDS) for _ in range(rng.randint(1, 12)))

    names = rng.sample(catalogue.names, rng.choice([0, 0, 1, 3, 8]))
    messages: list[dict[str, Any]] = [{"role": "system", "content": text()}] if rng.random() < 0.4 else []
    for _ in range(rng.randint(1, 3)):
        messages.append({"role": "user", "content": text()})
        if names and rng.random() < 0.6:
            called = [rng.choice(names).replace(".", "__") for _ in range(rng.randint(1, 2))]
            calls = [
                {"function": {"name": name, "arguments": {"a": text(), "n": rng.randint(0, 9)}}} for name in called
            ]
            messages.append({"role": "assistant", "tool_calls": calls})
            messages += [{"role": "tool", "content": text()} for _ in calls]
        messages.append({"role": "assistant", "content": text()})
    return Row.model_validate({"messages": messages, "tools": names})


def test_ids_and_masks_are_those_of_transformers(rows: list[Row], catalogue: Catalogue) -> None:
    renderer = Renderer(TINY, catalogue)
    for row, rendered in zip(rows[:300], renderer.batch(rows[:300]), strict=True):
        theirs: Any = renderer.tokenizer.apply_chat_template(
            row.chat(), tools=renderer.tools(row), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        assert (rendered.ids, rendered.mask) == (theirs["input_ids"], theirs["assistant_masks"])


def test_every_assistant_token_is_learned_and_no_other(rows: list[Row], catalogue: Catalogue) -> None:
    """Told from the ids alone: from the end of an assistant's header to the end of its turn."""
    renderer = Renderer(TINY, catalogue)
    encode = renderer.tokenizer.encode
    header = encode("<|start_header_id|>assistant<|end_header_id|>", add_special_tokens=False)
    (end,) = encode("<|eot_id|>", add_special_tokens=False)
    gap = encode("\n\n", add_special_tokens=False)
    for row, rendered in zip(rows, renderer.batch(rows), strict=True):
        expected, at = [0] * len(rendered.ids), 0
        while at < len(rendered.ids):
            if rendered.ids[at : at + len(header)] == header:
                at += len(header) + len(gap)
                while True:
                    expected[at] = 1
                    if rendered.ids[at] == end:
                        break
                    at += 1
            at += 1
        assert rendered.mask == expected, row


def test_measuring_counts_what_rendering_gives(rows: list[Row], catalogue: Catalogue) -> None:
    renderer = Renderer(TINY, catalogue)
    counted = renderer.measure([row.model_dump_json(exclude_none=True).encode() for row in rows[:200]])
    measured = [(row.tokens, row.loss_tokens, row.fault) for row in counted]
    assert measured == [(len(r.ids), sum(r.mask), None) for r in renderer.batch(rows[:200])]


def test_no_mark_of_ours_is_left_in_a_text(rows: list[Row], catalogue: Catalogue) -> None:
    text, spans = Renderer(TINY, catalogue).text(rows[0])
    assert LOSS_BEGIN not in text and all(text[begin - 2 : begin] == "\n\n" for begin, _ in spans)


def test_an_answer_of_weight_0_is_in_the_prompt_and_not_in_the_loss() -> None:
    turns = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "WRONG", "weight": 0},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "right", "weight": 1},
    ]
    renderer = Renderer(TINY, None)
    row = Row.model_validate({"messages": turns})
    text, spans = renderer.text(row)
    assert "WRONG" in text and [text[first:end] for first, end in spans] == ["right<|eot_id|>"]
    rendered = renderer(row)
    learned = [token for token, in_loss in zip(rendered.ids, rendered.mask, strict=True) if in_loss]
    assert renderer.tokenizer.decode(learned) == "right<|eot_id|>"


def test_a_rows_own_tool_is_shown_as_it_is() -> None:
    own = {
        "type": "function",
        "function": {"name": "lamp", "description": "Mine.", "parameters": {"properties": {"own": {}}}},
    }
    catalogue = Catalogue(tools={"lamp": Tool(description="Theirs.", parameters={"properties": {"their": {}}})})
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    renderer = Renderer(TINY, catalogue)
    assert "lamp(own)" in renderer.text(Row.model_validate({"messages": turns, "tools": [own]}))[0]
    assert "lamp(their)" in renderer.text(Row.model_validate({"messages": turns, "tools": ["lamp"]}))[0]
