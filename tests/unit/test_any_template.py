"""Any chat template: what is learned is what each request's prompt is followed by, token for token.

The reference is transformers' own rendering of each turn's prompt and of the conversation up to that turn.
"""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.unit import public_templates
from tests.unit.public_templates import OURS, installed, save_base
from tests.unit.test_data_render import conversation
from tuneline.configs.catalogue import load_catalogue
from tuneline.core.errors import BadRecipe
from tuneline.core.paths import ROOT
from tuneline.stages.prepare.rendering.assistant_turns import split_turns
from tuneline.stages.prepare.rendering.renderer import Renderer
from tuneline.stages.prepare.rows import Row

CATALOGUE = load_catalogue(ROOT / "configs/tools/business.yaml")
FEW, MANY = 12, 2000


def rows(count: int, *, plain: bool = False) -> list[Row]:
    """Random conversations; with `plain` those without tools."""
    rng = random.Random(3)
    made = [conversation(rng, CATALOGUE) for _ in range(count * (4 if plain else 1))]
    return [row for row in made if not row.tools][:count] if plain else made


def accepted(renderer: Renderer, given: list[Row]) -> tuple[list[Row], Counter[str]]:
    """The rows that are trained on, turns of their own where they must be, and what is wrong with others."""
    faults, out = Counter[str](), []
    for row, measure in zip(given, renderer.measure([as_json(row) for row in given]), strict=True):
        if measure.fault == "several_renderings":
            parts = [Row.model_validate(row.model_dump() | {"messages": chat}) for chat in split_turns(row.chat())]
            for part, of_part in zip(parts, renderer.measure([as_json(part) for part in parts]), strict=True):
                faults[of_part.fault or "none"] += 1
                out += [] if of_part.fault else [part]
        else:
            faults[measure.fault or "none"] += 1
            out += [] if measure.fault else [row]
    return out, faults


def as_json(row: Row) -> bytes:
    return row.model_dump_json(exclude_none=True).encode()


def assert_exact(renderer: Renderer, row: Row) -> None:
    """The ids before each span are those of that turn's prompt, and the span is the turn to its end's last token."""
    rendered, tokenizer, chat, tools = renderer(row), renderer.tokenizer, row.chat(), renderer.tools(row)
    if renderer._needs_content:
        chat = [{"content": ""} | message for message in chat]

    def render(messages: list[dict[str, Any]], *, prompt: bool = False) -> str:
        return str(tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=prompt))

    starts = [at for at, on in enumerate(rendered.mask) if on and not (at and rendered.mask[at - 1])]
    learned = [at for at, m in enumerate(chat) if m["role"] == "assistant" and m.get("weight") != 0]
    assert len(starts) == len(learned)
    for first, number in zip(starts, learned, strict=True):
        end = rendered.mask.index(0, first) if 0 in rendered.mask[first:] else len(rendered.mask)
        prompt, until_here = render(chat[:number], prompt=True), render(chat[: number + 1])
        assert rendered.ids[:first] == tokenizer(prompt, add_special_tokens=False).input_ids, row
        answer = tokenizer.decode(rendered.ids[first:end])
        last = tokenizer.decode(rendered.ids[end - 1 : end])
        assert last in tokenizer.get_added_vocab(), (last, answer)
        if until_here.startswith(prompt):
            added = until_here.removeprefix(prompt)
            assert added.startswith(answer), (added, answer)
            rest = added.removeprefix(answer)
            assert not rest.strip() or rest.strip() in tokenizer.get_added_vocab(), rest


@pytest.mark.parametrize("name", sorted(OURS))
def test_what_is_learned_follows_each_prompt(name: str, tmp_path: Path) -> None:
    renderer = Renderer(save_base(tmp_path, OURS[name]), CATALOGUE)
    plain = [row for row in rows(FEW, plain=True) if name != "mistral-1" or row.messages[0].role != "system"]
    learned, faults = accepted(renderer, plain)
    assert set(faults) == {"none"}, faults
    for row in learned:
        assert_exact(renderer, row)


@pytest.mark.parametrize("name", sorted(OURS))
def test_with_the_tools_of_hermes_nothing_is_lost(name: str, tmp_path: Path) -> None:
    """Whatever the template, it writes tools, calls and results inside its own turns."""
    renderer = Renderer(save_base(tmp_path, OURS[name]), CATALOGUE, name="hermes")
    learned, faults = accepted(renderer, rows(FEW))
    assert set(faults) == {"none"}, faults
    for row in learned:
        assert_exact(renderer, row)
    text = "".join(renderer.text(row)[0] for row in learned)
    assert "<tool_call>\n{" in text and "<tools>" in text and "<tool_response>" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(OURS))
@pytest.mark.parametrize("tools", ["", "hermes"])
def test_two_thousand_conversations(name: str, tools: str, tmp_path: Path) -> None:
    renderer = Renderer(save_base(tmp_path, OURS[name]), CATALOGUE, name=tools)
    learned, _ = accepted(renderer, rows(MANY))
    assert len(learned) > 100
    for row in learned:
        assert_exact(renderer, row)


BEGUN = "<|im_start|>assistant\n<think></think>"
GOES_ON = public_templates.CHATML.partition("{% if add")[0] + "{{ '" + BEGUN.replace("\n", "\\n") + "' }}"


def test_a_template_that_begins_another_answer_after_each_is_refused(tmp_path: Path) -> None:
    """As one of Command R7B: the header of the next answer was learned as the end of this one."""
    with pytest.raises(BadRecipe, match="begins another answer after each one"):
        Renderer(save_base(tmp_path, GOES_ON), CATALOGUE)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(installed()))
def test_templates_of_public_models(name: str, tmp_path: Path) -> None:
    """Each is learned exactly, or what is wrong is said: none is learned otherwise than it is asked."""
    try:
        renderer = Renderer(save_base(tmp_path, installed()[name]), CATALOGUE)
    except BadRecipe as error:
        assert "chat template" in str(error)
        return
    learned, _ = accepted(renderer, rows(100))
    for row in learned:
        assert_exact(renderer, row)


def test_named_templates_are_used_as_transformers_does(tmp_path: Path) -> None:
    """A traceback came of a tokenizer with `default` and `tool_use`."""
    tool_use = OURS["chatml"].replace("{% for", "{{ '<|tools|>' + tools | tojson }}{% for", 1) + "  "
    base = save_base(tmp_path, {"default": OURS["chatml"], "tool_use": tool_use})
    renderer = Renderer(base, CATALOGUE)
    own: Any = Renderer(base, CATALOGUE).tokenizer
    for row in rows(FEW):
        chat = [{"role": m.role, "content": m.content or "x"} for m in row.messages if m.role != "tool"]
        tools = renderer.tools(row)
        template = tool_use if tools else OURS["chatml"]
        expected = own.apply_chat_template(chat, tools=tools, chat_template=template, tokenize=False)
        assert renderer.tokenizer.apply_chat_template(chat, tools=tools, tokenize=False) == expected
    assert not renderer.is_base_template, "convert and serving get the combined one"


def test_a_template_without_a_default_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRecipe, match="none is `default`"):
        Renderer(save_base(tmp_path, {"rag": OURS["chatml"], "tool_use": OURS["chatml"]}), None)


def test_earlier_thinking_is_learned_where_it_is_written(tmp_path: Path) -> None:
    renderer = Renderer(save_base(tmp_path, OURS["drops-thinking"]), CATALOGUE)
    turns = [("user", "1+1?", None), ("assistant", "2", "I add."), ("user", "2+2?", None), ("assistant", "4", "Again.")]
    messages = [{"role": role, "content": text, "reasoning_content": why} for role, text, why in turns]
    learned, faults = accepted(renderer, [Row.model_validate({"messages": messages})])
    assert faults == {"none": 2}
    texts = [renderer.text(row)[0] for row in learned]
    assert "<think>\nI add.\n</think>\n\n2<|im_end|>" in texts[0]
    assert "I add." not in texts[1] and "<think>\nAgain.\n</think>\n\n4<|im_end|>" in texts[1]


def test_thinking_that_no_template_writes_is_told(tmp_path: Path) -> None:
    renderer = Renderer(save_base(tmp_path, OURS["chatml"]), None)
    messages = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2", "reasoning_content": "Add."}]
    (measure,) = renderer.measure([as_json(Row.model_validate({"messages": messages}))])
    assert measure.fault == "thinking_not_written" and measure.loss_tokens > 0
    assert measure.reason == ("the chat template writes no reasoning_content", "Add."), "logs show the reason alone"


def test_a_turn_of_weight_0_is_context(tmp_path: Path) -> None:
    for name in ("chatml", "llama-2"):
        renderer = Renderer(save_base(tmp_path / name, OURS[name]), None)
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "bb", "weight": 0}]
        turns += [{"role": "user", "content": "c"}, {"role": "assistant", "content": "dd"}]
        row = Row.model_validate({"messages": turns})
        assert_exact(renderer, row)
        text, spans = renderer.text(row)
        assert "bb" in text and ["dd" in text[begin:end] for begin, end in spans] == [True]


def test_calls_that_a_template_does_not_write_are_an_error(tmp_path: Path) -> None:
    """Each would be learned as an empty answer."""
    marked = OURS["chatml"].replace("message['content'] +", "(message['content'] or '') +")
    renderer = Renderer(save_base(tmp_path, marked), CATALOGUE)
    call = {"function": {"name": "docs__create", "arguments": {"title": "plan"}}}
    messages = [{"role": "user", "content": "new doc"}, {"role": "assistant", "tool_calls": [call]}]
    (measure,) = renderer.measure([as_json(Row.model_validate({"messages": messages, "tools": ["docs.create"]}))])
    assert measure.fault == "lost_in_template" and "tool calls: docs__create" in measure.reason.text


def test_a_template_that_nothing_stops_is_refused(tmp_path: Path) -> None:
    endless = OURS["vicuna"].replace("+ eos_token", "+ '\n'")
    with pytest.raises(BadRecipe, match="could not stop"):
        Renderer(save_base(tmp_path, endless), None)


def test_an_answer_that_begins_with_a_newline_is_learned_after_its_prompt(tmp_path: Path) -> None:
    """In one piece two newlines are one token, which no prompt ends with."""
    renderer = Renderer(save_base(tmp_path, OURS["chatml"]), None)
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "\n\nb"}]
    assert_exact(renderer, Row.model_validate({"messages": messages}))


@pytest.mark.parametrize(
    ("name", "begins"), [("chatml", "<|im_start|>"), ("zephyr", "<|user|>"), ("llama-2", "<s>[INST]")]
)
def test_a_base_without_a_template_gets_one_by_name(name: str, begins: str, tmp_path: Path) -> None:
    base = save_base(tmp_path, public_templates.CHATML)
    (base / "chat_template.jinja").unlink()
    renderer = Renderer(base, CATALOGUE, name=name)
    learned, faults = accepted(renderer, rows(FEW))
    assert set(faults) == {"none"}
    for row in learned:
        assert_exact(renderer, row)


def test_a_named_template_whose_tokens_the_base_lacks_is_refused_with_those_that_fit(tmp_path: Path) -> None:
    with pytest.raises(BadRecipe, match=r"<\|header_start\|>.*llama-2.*zephyr"):
        Renderer(save_base(tmp_path, OURS["zephyr"]), None, name="llama-4")
