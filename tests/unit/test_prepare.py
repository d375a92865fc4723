"""What a row is, what is refused with its line, what a model learns from a row, and how splits stay put."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from tuneline.configs.catalogue import Catalogue, load_catalogue
from tuneline.configs.data import Source
from tuneline.core.errors import BadRecipe
from tuneline.core.paths import ROOT
from tuneline.stages.evaluate.suites.suite_requests import suite_requests
from tuneline.stages.prepare.checks.overlap import count_overlap
from tuneline.stages.prepare.checks.problems import Problem
from tuneline.stages.prepare.checks.toolbox import Toolbox
from tuneline.stages.prepare.formats.reader import read_file
from tuneline.stages.prepare.rendering.renderer import Renderer
from tuneline.stages.prepare.rendering.tool_selection import add_distractors
from tuneline.stages.prepare.rows import Row
from tuneline.stages.prepare.synthesis.grammar import generate_requests
from tuneline.stages.prepare.validation_split import SplitKeys, choose_validation_rows

TINY = ROOT / "data/tiny"
GOOD = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello."}]}


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue(ROOT / "configs/tools/handlers.yaml")


def call_row(name: str = "docs__create", arguments: object = None) -> Row:
    call = {"type": "function", "function": {"name": name, "arguments": arguments or {"title": "plan"}}}
    messages = [{"role": "user", "content": "a doc called plan"}, {"role": "assistant", "tool_calls": [call]}]
    return Row.model_validate({"messages": messages})


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"messages": [}', "rows.jsonl:2:15: not JSON"),
        ('{"messages": []}', "rows.jsonl:2: row: the last message must be the assistant's"),
        (json.dumps({"messages": GOOD["messages"][:1]}), "the last message must be the assistant's"),
        (
            json.dumps({"messages": [{"role": "user", "content": " "}, GOOD["messages"][1]]}),
            "the user message is empty",
        ),
        (json.dumps({"messages": [{"role": "bot", "content": "x"}]}), "messages.0.role"),
        (call_row("no__such").model_dump_json(exclude_none=True), "tool 'no.such' is called but not in the catalogue"),
    ],
)
def test_a_broken_line_is_refused_with_file_line_and_reason(
    tmp_path: Path, catalogue: Catalogue, line: str, told: str
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    problem = first_problem(file, catalogue)
    assert "rows.jsonl:2" in problem and told in problem


def test_text_that_is_not_utf8_is_refused_with_its_column(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"messages": "caf\xe9"}\n')
    assert "rows.jsonl:1:18: not UTF-8" in first_problem(file, None)


def first_problem(file: Path, catalogue: Catalogue | None) -> str:
    return next(str(result) for result in read_file(file, Toolbox(catalogue)) if isinstance(result, Problem))


def test_arguments_written_as_json_text_are_read_as_an_object() -> None:
    assert call_row(arguments='{"title": "plan"}') == call_row(arguments={"title": "plan"})


def test_only_the_assistants_turns_are_learned_and_all_of_them(catalogue: Catalogue) -> None:
    renderer = Renderer(TINY, catalogue)
    row = Row.model_validate(
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": "Hello."},
                {"role": "user", "content": "a doc called plan"},
                {"role": "assistant", "tool_calls": call_row().messages[-1].model_dump()["tool_calls"]},
                {"role": "tool", "content": "done"},
                {"role": "assistant", "content": "It is there."},
            ],
            "tools": ["docs.create", "email.send"],
        }
    )
    rendered = renderer(row)
    learned = [i for i, m in zip(rendered.ids, rendered.mask, strict=True) if m]
    assert renderer.tokenizer.decode(learned) == (
        'Hello.<|eot_id|><|python_tag|>{"name": "docs__create", "parameters": {"title": "plan"}}<|eot_id|>'
        "It is there.<|eot_id|>"
    )
    assert renderer.tokenizer.decode(rendered.ids).count("docs__create(title)\nemail__send(to, subject)") == 1


def test_a_template_that_writes_no_answer_is_refused(tmp_path: Path) -> None:
    for file in TINY.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(BadRecipe, match="does not write the assistant's answer"):
        Renderer(tmp_path, None)


def test_the_tools_a_row_calls_are_always_shown_beside_so_many_others(catalogue: Catalogue) -> None:
    rng = random.Random(0)
    shown = [add_distractors(call_row(), catalogue, (3, 7), 0.0, rng).tools for _ in range(200)]
    assert all("docs.create" in tools and len(tools) == len(set(tools)) for tools in shown)
    assert {len(tools) for tools in shown} == {4, 5, 6, 7, 8}
    assert add_distractors(call_row(), catalogue, (3, 7), 1.0, rng).tools == list(catalogue.names)


def test_requests_are_different_seeded_and_cover_all_handlers_equally() -> None:
    first, again = (suite_requests(Path("data/requests/test.yaml"), 160, seed=1) for _ in range(2))
    assert first == again
    assert len({request.text for request in first}) == 160
    assert set(Counter(request.tool for request in first).values()) == {10}
    assert suite_requests(Path("data/requests/test.yaml"), 160, seed=2) != first


def test_a_grammar_too_small_for_the_rows_asked_of_it_says_so(tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text('{openers: [""], closers: [""], values: {x: a}, handlers: {t: {slots: {q: x}, say: ["find {q}"]}}}')
    with pytest.raises(BadRecipe, match="different requests, not 5"):
        list(generate_requests(Source(grammar=file, rows=5), random.Random(0)))


def test_a_row_keeps_its_side_of_the_split_when_others_are_added() -> None:
    rows = [
        Row.model_validate({"messages": [{"role": "user", "content": f"question {i}"}, GOOD["messages"][1]]})
        for i in range(2000)
    ]
    before, after = (
        choose_validation_rows(places_of(rows[:1000]), 0.1, 500),
        choose_validation_rows(places_of(rows), 0.1, 500),
    )
    assert before == after[:1000] and 150 < sum(after) < 250
    assert choose_validation_rows(places_of(rows, seed=1), 0.1, 500) != after
    assert sum(choose_validation_rows(places_of(rows), 0.5, 40)) <= 40


def test_every_label_with_enough_rows_is_in_validation() -> None:
    rows = [
        Row.model_validate({"messages": [{"role": "user", "content": f"question {i}"}, GOOD["messages"][1]]})
        for i in range(1000)
    ]
    places = SplitKeys(0)
    for number, row in enumerate(rows):
        places.add(row, f"label {number % 50}")
    held = {number % 50 for number, one in enumerate(choose_validation_rows(places, 0.03, 500)) if one}
    assert held == set(range(50))


def places_of(rows: list[Row], seed: int = 0) -> SplitKeys:
    places = SplitKeys(seed)
    for row in rows:
        places.add(row, "")
    return places


def test_overlap_counts_what_training_has_seen() -> None:
    found = count_overlap(
        ["please send _ a mail now", "find _"], ["please send _ a mail now", "mail _ and send it soon"]
    )
    assert found == {"phrasings": 2, "shared_phrasings": 1, "fivegrams": 4, "shared_fivegrams": 2}
