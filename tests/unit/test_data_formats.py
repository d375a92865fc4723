"""Every format people have becomes the same rows; what cannot be read is told with its place."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from tuneline.configs.catalogue import load_catalogue
from tuneline.configs.data import Source
from tuneline.core.paths import ROOT
from tuneline.stages.prepare.checks.problems import Problem
from tuneline.stages.prepare.checks.toolbox import Toolbox
from tuneline.stages.prepare.formats.reader import SourceRow, read_file, read_source

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
PAIRS = [(f"question, number {i}", f"answer {i}\non two lines, “quoted”") for i in range(3)]
SAID = [[("user", q), ("assistant", a)] for q, a in PAIRS]


def read(file: Path, **how: Any) -> tuple[list[SourceRow], list[Problem]]:
    catalogue = load_catalogue(ROOT / "configs/tools/handlers.yaml")
    found = list(read_source(Source(path=file, **how), Toolbox(catalogue)))
    return [one for one in found if isinstance(one, SourceRow)], [one for one in found if isinstance(one, Problem)]


def said(rows: list[SourceRow]) -> list[list[tuple[str, str | None]]]:
    return [[(m.role, m.content) for m in one.row.messages] for one in rows]


def lines(values: list[Any]) -> bytes:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()


def table(delimiter: str = ",") -> bytes:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows([("prompt", "completion"), *PAIRS])
    return out.getvalue().encode()


def parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"prompt": [q for q, _ in PAIRS], "completion": [a for _, a in PAIRS]}), out)
    return out.getvalue()


ROLES = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in PAIRS]
FORMATS: dict[str, bytes] = {
    "messages.jsonl": lines([{"messages": turns} for turns in ROLES]),
    "sharegpt.jsonl": lines(
        [{"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]} for q, a in PAIRS]
    ),
    "alpaca.json": json.dumps(
        [{"instruction": q, "input": "", "output": a} for q, a in PAIRS], indent=2, ensure_ascii=False
    ).encode(),
    "pairs.ndjson": lines([{"prompt": q, "completion": a} for q, a in PAIRS]),
    "conversational.jsonl": lines([{"prompt": turns[:1], "completion": turns[1:]} for turns in ROLES]),
    "table.csv": table(),
    "table.tsv": table("\t"),
    "rows.parquet": parquet(),
    "parts.jsonl": lines(
        [{"messages": [t[0] | {"content": [{"type": "text", "text": t[0]["content"]}]}, t[1]]} for t in ROLES]
    ),
}


@pytest.mark.parametrize("squeeze", [None, "gz", "zst"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_becomes_the_same_conversations(tmp_path: Path, name: str, squeeze: str | None) -> None:
    pack: dict[str | None, Callable[[bytes], bytes]] = {
        None: bytes,
        "gz": gzip.compress,
        "zst": zstandard.ZstdCompressor().compress,
    }
    if squeeze and name.endswith(".parquet"):
        pytest.skip("Parquet is compressed inside")
    file = tmp_path / (f"{name}.{squeeze}" if squeeze else name)
    file.write_bytes(pack[squeeze](FORMATS[name]))
    rows, problems = read(file)
    assert not problems and said(rows) == SAID


def test_the_line_of_a_row_is_the_one_it_begins_at(tmp_path: Path) -> None:
    for name, expected in (("table.csv", [2, 4, 6]), ("alpaca.json", [2, 7, 12]), ("rows.parquet", [1, 2, 3])):
        (tmp_path / name).write_bytes(FORMATS[name])
        assert [row.line for row in read(tmp_path / name)[0]] == expected, name


def test_columns_are_mapped_and_a_missing_one_is_named(tmp_path: Path) -> None:
    file = tmp_path / "faq.csv"
    file.write_text("Question,Answer,Note\nwhy?,because,x\n")
    rows, _ = read(file, columns={"prompt": "Question", "completion": "Answer"})
    assert said(rows) == [[("user", "why?"), ("assistant", "because")]]
    rows, problems = read(file, columns={"prompt": "Frage", "completion": "Answer"})
    assert not rows and "column 'Frage' is missing; the columns are Question, Answer, Note" in str(problems[0])


def test_the_format_of_each_file_is_told(tmp_path: Path) -> None:
    for name in ("sharegpt.jsonl", "alpaca.json"):
        (tmp_path / name).write_bytes(FORMATS[name])
    (tmp_path / "odd.xyz").write_text("?")
    told: dict[str, str] = {}
    found = list(
        read_source(
            Source(path=tmp_path), Toolbox(None), on_format=lambda file, form: told.__setitem__(file.name, form)
        )
    )
    assert told == {"sharegpt.jsonl": "sharegpt (json lines)", "alpaca.json": "alpaca (json array)"}
    assert [p.kind for p in found if isinstance(p, Problem)] == ["skipped_file"]


def test_tools_that_rows_bring_are_known_and_results_are_put_in_the_order_of_their_calls(tmp_path: Path) -> None:
    calls = [
        {"id": i, "type": "function", "function": {"name": "get_weather", "arguments": json.dumps({"city": c})}}
        for i, c in (("a", "Rome"), ("b", "Ubud"))
    ]
    turns = [
        {"role": "user", "content": "weather in Rome and Ubud?"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "b", "content": "hot"},
        {"role": "tool", "tool_call_id": "a", "content": "mild"},
        {"role": "assistant", "content": "Mild, and hot."},
    ]
    file = tmp_path / "tools.jsonl"
    file.write_bytes(lines([{"messages": turns, "tools": [WEATHER]}]))
    toolbox = Toolbox(None)
    (row,) = [one for one in read_file(file, toolbox) if isinstance(one, SourceRow)]
    assert list(toolbox.from_rows) == ["get_weather"] == row.row.tools
    assert [m.content for m in row.row.messages if m.role == "tool"] == ["mild", "hot"]


@pytest.mark.parametrize("keep", [False, True])
def test_an_older_transcript_becomes_real_calls(tmp_path: Path, keep: bool) -> None:
    answer = (
        '[THINK] two of them [CALL] docs.create(title="a, (b)") [CALL] drive.search({"query": "x"}) '
        "[RESULT] made [RESULT] none [THINK] tell [RESPONSE] It is there; nothing was found."
    )
    file = tmp_path / "old.jsonl"
    file.write_bytes(lines([{"instruction": "do it", "output": answer}]))
    toolbox = Toolbox(load_catalogue(ROOT / "configs/tools/handlers.yaml"))
    (row,) = [one for one in read_file(file, toolbox, keep_thinking=keep) if isinstance(one, SourceRow)]
    roles = [m.role for m in row.row.messages]
    assert roles == ["user", "assistant", "tool", "tool", "assistant"]
    assert [call.function.arguments for call in row.row.messages[1].tool_calls or ()] == [
        {"title": "a, (b)"},
        {"query": "x"},
    ]
    thought = "<think>two of them\ntell</think>\n" if keep else ""
    assert row.row.messages[-1].content == f"{thought}It is there; nothing was found."


@pytest.mark.parametrize(
    "call", ["docs.create(plan)", "docs.create title", "docs.create(**x)", "docs.create(title=f())"]
)
def test_a_call_that_cannot_be_read_is_told(tmp_path: Path, call: str) -> None:
    (tmp_path / "old.jsonl").write_bytes(lines([{"prompt": "x", "completion": f"[CALL] {call} [RESPONSE] ok"}]))
    rows, problems = read(tmp_path / "old.jsonl")
    assert not rows and [p.kind for p in problems] == ["broken_transcript"]


def test_a_damaged_archive_and_a_cut_array_are_told_and_what_came_before_is_read(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(FORMATS["messages.jsonl"].replace(b"number", b"%d" % i) for i in range(5000)))
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) - 40])
    rows, problems = read(tmp_path / "cut.jsonl.gz")
    assert rows and "cut or damaged" in problems[-1].text
    (tmp_path / "cut.json").write_bytes(FORMATS["alpaca.json"][:-2])
    rows, problems = read(tmp_path / "cut.json")
    assert len(rows) == 3 and "the array is not closed" in problems[0].text


def test_bytes_that_are_no_text_are_told_in_every_kind_of_file(tmp_path: Path) -> None:
    for name in ("table.csv", "alpaca.json", "messages.jsonl"):
        (tmp_path / name).write_bytes(FORMATS[name].replace(b"answer 1", b"answer \xe9"))
        rows, problems = read(tmp_path / name)
        assert [p.kind for p in problems] == ["not_utf8"] and len(rows) == 2, name
    (tmp_path / "book.txt").write_bytes(b"first line\nsecond caf\xe9 line")
    rows, problems = read(tmp_path / "book.txt")
    assert (problems[0].kind, problems[0].line, problems[0].column) == ("not_utf8", 2, 11)
