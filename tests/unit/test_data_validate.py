"""The commands on data: what `validate` tells, writes and mends, what `init` finds, and what stops `prepare`."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tuneline.cli import app
from tuneline.configs.catalogue import load_catalogue
from tuneline.configs.data import Data, Source
from tuneline.configs.recipe import Recipe
from tuneline.configs.recipe_file import load_recipe
from tuneline.core.errors import BadData, BadRequest, NotFound
from tuneline.core.paths import ROOT
from tuneline.stages.fetch import fetch
from tuneline.stages.prepare import prepare
from tuneline.stages.prepare.checks.overlap import count_overlap, read_phrasings
from tuneline.stages.prepare.checks.problems import Problem
from tuneline.stages.prepare.checks.toolbox import Toolbox
from tuneline.stages.prepare.examination import Examination
from tuneline.stages.prepare.formats.reader import SourceRow, read_file
from tuneline.stages.prepare.prepared_run import load_tools, read_prepared
from tuneline.stages.prepare.recipe_starter import write_starter_recipe
from tuneline.stages.prepare.rendering.renderer import Renderer
from tuneline.stages.prepare.requirements import check_requirements
from tuneline.stages.prepare.rows import Row
from tuneline.stages.prepare.validation import validate

TINY = ROOT / "data/tiny"


@pytest.fixture(autouse=True)
def _models(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "models"
    monkeypatch.setenv("TUNELINE_MODELS", str(folder))
    fetch(recipe_of(Source(path=TINY / "config.json")), tmp_path_factory.mktemp("fetched"))


def recipe_of(*sources: Source, **data: Any) -> Recipe:
    return Recipe(name="x", data=Data(sources=sources, **data))


def pair(i: int, answer: str = "") -> dict[str, Any]:
    return {"prompt": f"what is number {i}?", "completion": answer or f"it is {i}, of {i * 7} in {i * 13} halls"}


def write(file: Path, rows: list[Any]) -> Path:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def test_validate_tells_each_problem_with_its_place_and_writes_verdict_and_page(tmp_path: Path) -> None:
    rows = [pair(i) for i in range(60)] + [pair(3), pair(90, " "), pair(91, "mail anna.rossi@gmail.com")]
    file = write(tmp_path / "rows.jsonl", rows)
    done = validate([file], None, tmp_path / "out")
    verdict = json.loads((tmp_path / "out/validation.json").read_text())
    assert not done.passed and verdict == done.verdict and not verdict["passed"]
    assert f"{file}:62: messages.1: the assistant message is empty" in done.summary
    assert f"{file}:61: equal to {file}:4" in done.summary
    assert {kind: one["count"] for kind, one in verdict["problems"].items()} == {
        "no_answer": 1,
        "personal_data": 1,
        "duplicate": 1,
    }
    assert "tokens are not counted" in done.summary and not verdict["tokens_counted"]
    assert "the assistant message is empty" in (tmp_path / "out/validation.html").read_text()


def test_validate_with_a_recipe_counts_tokens_by_its_template_and_checks_what_it_requires(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [pair(i) for i in range(60)] + [pair(99, "long " * 600)])
    recipe = tmp_path / "r.yaml"
    require = {"format_errors": 0, "average_tokens": "<4096", "rows": ">=61"}
    recipe.write_text(
        yaml.safe_dump({"data": {"sources": [{"path": str(file)}], "max_tokens": 256, "require": require}})
    )
    done = validate([recipe], None, tmp_path / "out")
    measured = [len(Renderer(TINY, None)(row).ids) for row in rows_of(file)[:60]]
    assert done.verdict["measures"]["tokens"] == sum(measured) and done.verdict["measures"]["too_long"] == 1
    assert [one["met"] for one in done.verdict["required"]] == [True, True, False] and not done.passed
    assert "NOT MET: rows >= 61: 60" in done.summary and f"{file}:61" in done.summary
    page = (tmp_path / "out/validation.html").read_text()
    assert page.count("<pre>") == 10 and "<mark>it is" in page


def rows_of(file: Path) -> list[Row]:
    found = list(read_file(file, Toolbox(None)))
    assert not [one for one in found if isinstance(one, Problem)]
    return [one.row for one in found if isinstance(one, SourceRow)]


@pytest.mark.parametrize(
    ("wanted", "found", "met"),
    [(0, 0, True), (0, 1, False), ("<4096", 4096, False), ("<=4096", 4096, True), (">= 3", 2, False), ("=2", 2, True)],
)
def test_bounds_are_compared_as_they_are_written(wanted: Any, found: int, met: bool) -> None:
    assert check_requirements({"format_errors": wanted}, {"format_errors": found})[0]["met"] is met


def test_a_plain_number_is_the_least_of_what_is_good() -> None:
    assert check_requirements({"handler_coverage": 104}, {"handler_coverage": 105})[0]["met"]
    assert not check_requirements({"handler_coverage": 104}, {"handler_coverage": 103})[0]["met"]


def test_fix_writes_a_cleaned_copy_that_passes_and_touches_no_original(tmp_path: Path) -> None:
    words = " ".join(f"word{i}" for i in range(50))
    rows = [pair(i) for i in range(60)] + [
        pair(61, "Il cafÃ© Ã¨ chiuso perchÃ© Ã¨ tardi."),
        pair(62, "the key is AKIAIOSFODNN7EXAMPLE"),
        pair(3),
        pair(70, words),
        pair(70, words.replace("word9 ", "word9 more ")),
        pair(80, " "),
    ]
    file = write(tmp_path / "rows.jsonl", rows)
    file.open("a").write("{broken\n")
    before = file.read_bytes()
    done = validate([file], None, tmp_path / "out", fix=True)
    cleaned = tmp_path / "out/cleaned/1-rows.jsonl"
    assert not done.passed and file.read_bytes() == before and f"{cleaned} (63 rows)" in done.summary
    answers = [row.messages[-1].content for row in rows_of(cleaned)]
    assert answers[60:] == ["Il café è chiuso perché è tardi.", "the key is [AWS key]", words]
    assert validate([cleaned], None, tmp_path / "again").summary.count("error") == 0


def test_the_command_exits_2_on_errors_and_0_without(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "good.jsonl", [pair(i) for i in range(60)]), tmp_path / "bad.jsonl"
    bad.write_text("{\n")
    to = ["--to", str(tmp_path / "out")]
    assert CliRunner().invoke(app, ["validate", str(good), *to]).exit_code == 0
    told = CliRunner().invoke(app, ["validate", str(bad), *to])
    assert told.exit_code == 2 and f"{bad}:1:" in told.output
    with pytest.raises(NotFound):
        validate([tmp_path / "none.jsonl"], None, tmp_path)
    with pytest.raises(BadRequest):
        validate([ROOT / "configs/recipes/micro.yaml", good], None, tmp_path)


def test_init_writes_a_recipe_that_runs(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "books/plain").mkdir(parents=True)
    (data / "books/epic").mkdir()
    write(
        data / "chat.jsonl",
        [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Yes."}]}],
    )
    (data / "faq.csv").write_text("Question,Answer\nwhy?,because\nwho?,me\n")
    (data / "notes.xyz").write_text("?")
    for style in ("plain", "epic"):
        for number in range(3):
            (data / f"books/{style}/{number}.txt").write_text(f"A text, number {number}, in the {style} style.")
    (data / "tools.yaml").write_text(
        "tools: {lamp.off: {description: Off., parameters: {type: object, properties: {}}}}"
    )
    told = write_starter_recipe(data, tmp_path / "recipe.yaml")
    assert "left out: 1 × .xyz" in told and "columns prompt: Question, completion: Answer" in told
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert recipe.data.tools and len(recipe.data.sources) == 4
    made = prepare(recipe, tmp_path / "run")
    assert made.metrics["rows_train"] + made.metrics["rows_validation"] == 9
    with pytest.raises(BadRequest, match="already exists"):
        write_starter_recipe(data, tmp_path / "recipe.yaml")


def test_where_nothing_is_left_validate_says_what_prepare_would_do(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [pair(i) for i in range(60)])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"data: {{sources: [{{path: {tmp_path / 'rows.jsonl'}}}], max_tokens: 2}}\n")
    done = validate([recipe], None, tmp_path / "out")
    assert not done.verdict["measures"]["errors"] and not done.passed and "no rows are left to train on" in done.summary
    with pytest.raises(BadData, match="no row fits in data.max_tokens: 2"):
        prepare(load_recipe(recipe), tmp_path / "run")


def test_init_on_calls_finds_the_catalogue_that_has_them(tmp_path: Path) -> None:
    """Otherwise none of these rows could be learned from; and none is longer than the limit that init writes."""
    called = '[CALL] whatsapp.send(to="Ana {}", message="I come") [RESULT] {{"ok": true}} [RESPONSE] Done, {}.'
    write(tmp_path / "old.jsonl", [{"prompt": f"tell Ana {i}", "completion": called.format(i, i)} for i in range(60)])
    assert "business.yaml: has the tools that" in write_starter_recipe(tmp_path / "old.jsonl", tmp_path / "recipe.yaml")
    found = validate([tmp_path / "recipe.yaml"], None, tmp_path / "out")
    assert found.passed and found.verdict["measures"]["rows"] == 60 and not found.verdict["measures"]["too_long"]
    write(tmp_path / "odd.jsonl", [{"prompt": "x", "completion": '[CALL] odd.one(a="b")'}])
    with pytest.raises(BadData, match=r"odd.jsonl:1: tool 'odd.one' is called but not in the catalogue"):
        write_starter_recipe(tmp_path / "odd.jsonl", tmp_path / "odd.yaml")
    assert not (tmp_path / "odd.yaml").exists()


def test_init_says_why_it_leaves_a_file_out(tmp_path: Path) -> None:
    write(tmp_path / "chat.jsonl", [pair(i) for i in range(3)])
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "perché"}\n'.encode("latin-1"))
    (tmp_path / "q.csv").write_text("q,a\n1,2\n")
    (tmp_path / "none.jsonl").write_text("")
    told = write_starter_recipe(tmp_path, tmp_path / "recipe.yaml")
    for why in ("latin.jsonl:1:18: not UTF-8", "as in `columns: {prompt: q, completion: a}`", "none.jsonl: empty"):
        assert why in told


def test_init_on_a_catalogue_makes_examples_from_it(tmp_path: Path) -> None:
    (tmp_path / "tools.yaml").write_text(
        "tools: {lamp.dim: {description: Dim it., parameters: {type: object, properties: {level: {type: integer}}}}}"
    )
    assert "50 examples per tool" in write_starter_recipe(tmp_path, tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml").data.sources[0].per_tool == 50
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadData, match="nothing to train on"):
        write_starter_recipe(tmp_path / "empty", tmp_path / "other.yaml")


def test_errors_stop_prepare_and_the_verdict_stays(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [pair(i) for i in range(20)] + [pair(21, " "), {"x": 1}])
    with pytest.raises(BadData) as error:
        prepare(recipe_of(Source(path=file)), tmp_path / "run")
    assert f"{file}:21: " in str(error.value) and f"{file}:22: " in str(error.value)
    assert json.loads((tmp_path / "run/prepare/validation.json").read_text())["measures"]["format_errors"] == 2
    assert not (tmp_path / "run/prepare/manifest.json").exists()


def test_a_requirement_that_is_not_met_stops_prepare(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [pair(i) for i in range(20)])
    with pytest.raises(BadData, match="data.require: rows: 20, required >= 30"):
        prepare(recipe_of(Source(path=file), require={"rows": 30}), tmp_path / "run")


def test_sources_are_merged_by_weight_and_validation_is_not_repeated(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}.jsonl", [pair(i + k) for i in range(100)]) for k, name in ((0, "a"), (500, "b"))]
    sources = (Source(path=files[0], weight=2.5), Source(path=files[1], weight=0.5))
    prepared = prepare(recipe_of(*sources), tmp_path / "run")
    train = [row.source for row in read_prepared(prepared.path / "train.jsonl")]
    held = [row.source for row in read_prepared(prepared.path / "validation.jsonl")]
    assert len(held) == len({row.model_dump_json() for row in read_prepared(prepared.path / "validation.jsonl")})
    kept = {name: 100 - held.count(f"{name}.jsonl") for name in "ab"}
    assert abs(train.count("a.jsonl") - 2.5 * kept["a"]) < 15 and abs(train.count("b.jsonl") - 0.5 * kept["b"]) < 15
    assert [part["share_of_rows"] for part in prepared.metrics["sources"]] == [0.8333, 0.1667]


@pytest.mark.parametrize("duplicates", ["keep", "drop"])
def test_doubles_are_never_on_both_sides_of_the_split(tmp_path: Path, duplicates: str) -> None:
    words = [f"word{i}" for i in range(40)]
    rows = []
    for i in range(150):
        text = " ".join([*words, f"x{i}", f"y{i}", f"z{i}"][i % 40 :] + [f"w{i}-{j}" for j in range(30)])
        rows += [
            pair(i, text),
            pair(i, text),
            {"prompt": f"{i}, say", "completion": text.replace(f"w{i}-7", "changed")},
        ]
    file = write(tmp_path / "rows.jsonl", rows)
    made = prepare(recipe_of(Source(path=file), duplicates=duplicates, validation_share=0.3), tmp_path / "run")
    asked = {
        side: {
            "".join(filter(str.isdigit, row.messages[0].content or ""))
            for row in read_prepared(made.path / f"{side}.jsonl")
        }
        for side in ("train", "validation")
    }
    assert asked["validation"] and not asked["train"] & asked["validation"]
    assert made.metrics["rows_train"] + made.metrics["rows_validation"] == (450 if duplicates == "keep" else 150)


def test_rows_bring_their_tools_into_the_runs_catalogue(tmp_path: Path) -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "lamp__dim",
            "description": "d",
            "parameters": {"type": "object", "properties": {"level": {"type": "integer"}}},
        },
    }
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "lamp__dim", "arguments": {"level": 3}}}]}
    rows = [{"messages": [{"role": "user", "content": f"dim {i}"}, call], "tools": [tool]} for i in range(20)]
    made = prepare(recipe_of(Source(path=write(tmp_path / "rows.jsonl", rows))), tmp_path / "run")
    tools = load_tools(made.path)
    assert tools and tools.names == ("lamp.dim",)
    assert Renderer(TINY, tools).text(read_prepared(made.path / "train.jsonl")[0])[0].count("lamp__dim(level)") == 1


def test_text_is_learned_whole_and_split_by_document(tmp_path: Path) -> None:
    source = Source(path=ROOT / "data/styles", style="folder", learn="continuation", passage_words=50)
    made = prepare(recipe_of(source, validation_share=0.3), tmp_path / "run")
    rows = {side: read_prepared(made.path / f"{side}.jsonl") for side in ("train", "validation")}
    documents = {side: {row.document for row in found} for side, found in rows.items()}
    assert documents["validation"] and not documents["train"] & documents["validation"]
    rendered = Renderer(TINY, None)(rows["train"][0])
    assert rendered.mask == [0] + [1] * (len(rendered.ids) - 1)


def test_training_phrasings_are_kept_so_that_any_overlap_can_be_told_later(tmp_path: Path) -> None:
    recipe = load_recipe(ROOT / "configs/recipes/micro.yaml")
    made = prepare(recipe, tmp_path / "run")
    phrasings = read_phrasings(made.path)
    assert 10 < len(phrasings) <= made.metrics["rows_train"] + made.metrics["rows_validation"]
    assert count_overlap(phrasings, phrasings[:5])["shared_phrasings"] == 5


def test_a_folder_is_part_of_the_fingerprint_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "books").mkdir()
    (tmp_path / "books/a.txt").write_text("one")
    recipe = recipe_of(Source(path=tmp_path / "books"))
    before = recipe.section("data")
    (tmp_path / "books/a.txt").write_text("two")
    assert recipe.section("data") != before
    (tmp_path / "books/a.txt").write_text("one")
    assert recipe.section("data") == before
    (tmp_path / "books/a.txt").rename(tmp_path / "books/b.txt")
    assert recipe.section("data") != before


def test_words_that_are_control_tokens_of_the_base_are_told(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    base = tmp_path / "base"
    shutil.copytree(TINY, base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<filename>"]})
    tokenizer.save_pretrained(base)
    rows = [pair(i) for i in range(5)] + [pair(9, "Type mv <filename> new.txt"), pair(10, "Type mv <file> new.txt")]
    file = write(tmp_path / "rows.jsonl", rows)
    examination = Examination(Data(sources=(Source(path=file),)), None, Renderer(base, None))
    assert len(list(examination.rows())) == 6
    (problem,) = examination.finish().examples["control_token"]
    assert problem.line == 6 and "<filename>" in problem.text


def test_control_tokens_in_what_is_said_of_a_tool_are_told(tmp_path: Path) -> None:
    def row(number: int, said: str) -> dict[str, Any]:
        schema = {"type": "object", "properties": {"city": {"type": "string", "description": said}}}
        tool = {"type": "function", "function": {"name": "weather", "description": "x", "parameters": schema}}
        return pair(number) | {"tools": [tool]}

    file = write(tmp_path / "rows.jsonl", [row(1, "a city"), row(2, "a city<|eot_id|>"), row(3, "a city")])
    examination = Examination(Data(sources=(Source(path=file),)), None, None)
    assert len(list(examination.rows())) == 2
    (problem,) = examination.finish().examples["control_token"]
    assert problem.line == 2 and "weather" in problem.text and "<|eot_id|>" in problem.text
    tools = tmp_path / "tools.yaml"
    tools.write_text("tools: {weather: {description: 'now<|eot_id|>', parameters: {type: object, properties: {}}}}")
    with pytest.raises(BadData, match=r"tools.yaml: tool 'weather'.*<\|eot_id\|>"):
        Examination(Data(sources=(Source(path=file),), tools=tools), load_catalogue(tools), None)


@pytest.mark.parametrize("rows", [1, 20])
def test_rows_that_leave_nothing_to_validate_with_are_refused_before_training(tmp_path: Path, rows: int) -> None:
    file = write(tmp_path / "rows.jsonl", [pair(1)] * rows)
    with pytest.raises(BadData, match="none is left for validation"):
        prepare(recipe_of(Source(path=file)), tmp_path / "run")
    assert not validate([file], None, tmp_path / "out").passed
    held = write(tmp_path / "held.jsonl", [pair(2)])
    made = prepare(recipe_of(Source(path=file), validation=Source(path=held)), tmp_path / "other")
    assert (made.metrics["rows_train"], made.metrics["rows_validation"]) == (rows, 1)


def test_a_cleaned_copy_of_splits_keeps_them_apart(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for split, numbers in (("train", range(8)), ("validation", range(10, 13)), ("test", range(20, 22))):
        write(tmp_path / f"data/{split}.jsonl", [pair(i) for i in numbers])
    validate([tmp_path / "data"], None, tmp_path / "out", fix=True)
    cleaned = {file.name: len(rows_of(file)) for file in (tmp_path / "out/cleaned").iterdir()}
    assert cleaned == {"1-data.jsonl": 8, "validation-splits.jsonl": 3}


def test_init_learns_the_chosen_answers_of_pairs_and_says_so(tmp_path: Path) -> None:
    pairs = [{"prompt": f"q {i}", "chosen": f"good {i}", "rejected": "bad"} for i in range(20)]
    told = write_starter_recipe(write(tmp_path / "dpo.jsonl", pairs), tmp_path / "recipe.yaml")
    assert "pairs for preference training" in told
    found = validate([tmp_path / "recipe.yaml"], None, tmp_path / "out")
    assert found.passed and found.verdict["measures"]["rows"] == 20


def test_init_writes_no_recipe_whose_every_row_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [pair(i, " ") for i in range(5)])
    with pytest.raises(BadData, match="rows.jsonl:1: messages.1: the assistant message is empty"):
        write_starter_recipe(tmp_path, tmp_path / "recipe.yaml")
    assert not (tmp_path / "recipe.yaml").exists()
