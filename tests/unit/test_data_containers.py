"""Files of every kind: the same rows in each, numbers exact, and what cannot be read is told with its line."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tuneline.configs.data import Data, Source
from tuneline.core.errors import BadData
from tuneline.stages.prepare.checks.problems import Problem
from tuneline.stages.prepare.checks.toolbox import Toolbox
from tuneline.stages.prepare.data_survey import survey_data
from tuneline.stages.prepare.examination import Examination
from tuneline.stages.prepare.formats.reader import SourceRow, read_file

ROWS = [
    {"messages": [{"role": "user", "content": f"Perché {i}?"}, {"role": "assistant", "content": f"È {i}."}]}
    for i in range(3)
]
SAID = [(f"Perché {i}?", f"È {i}.") for i in range(3)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def read(file: Path, **source: Any) -> tuple[list[tuple[str, str]], list[Problem]]:
    results = list(read_file(file, Toolbox(None), Source(path=file, **source)))
    rows = [result.row for result in results if isinstance(result, SourceRow)]
    return (
        [(row.messages[0].content or "", row.messages[1].content or "") for row in rows],
        [result for result in results if isinstance(result, Problem)],
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("array.jsonl", json.dumps(ROWS)),
        ("pretty array.jsonl", json.dumps(ROWS, indent=2)),
        ("pretty.jsonl", "\n".join(json.dumps(row, indent=1) for row in ROWS)),
        ("pretty.json", "\n".join(json.dumps(row, indent=1) for row in ROWS)),
        ("lines.json", LINES),
        ("UPPER.JSONL", LINES),
        ("crlf.jsonl", LINES.replace("\n", "\r\n")),
        ("cr.jsonl", LINES.replace("\n", "\r")),
        ("joined.jsonl", LINES.replace("\n", "")),
        ("data.json", json.dumps({"data": ROWS})),
        ("train.json", json.dumps({"version": "1", "meta": {"a": 1}, "train": ROWS}, indent=2)),
        ("named.json", json.dumps({"my_rows": ROWS})),
        ("turns.jsonl", "".join(json.dumps(row["messages"]) + "\n" for row in ROWS)),
        ("lists.json", json.dumps([row["messages"] for row in ROWS])),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_json_is_read_however_it_is_laid_out(tmp_path: Path, name: str, content: str, encoding: str) -> None:
    file = tmp_path / name
    file.write_bytes(content.encode(encoding))
    assert read(file) == (SAID, [])


def test_a_long_array_is_read_across_pieces(tmp_path: Path) -> None:
    rows = [
        ROWS[0],
        {"messages": [{"role": "user", "content": "x" * 1_500_000}, {"role": "assistant", "content": "y"}]},
        ROWS[1],
    ]
    for name, content in (("a.json", json.dumps(rows)), ("b.json", json.dumps({"data": rows}))):
        (tmp_path / name).write_text(content)
        said, problems = read(tmp_path / name)
        assert [len(question) for question, _ in said] == [9, 1_500_000, 9] and not problems


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("// a comment\n" + LINES, "1: a comment"),
        (LINES.replace("\n", ",\n"), "1: a comma after the value"),
        ('{"messages":[{"role":"user","content":"a","content":"b"}]}\n', "the key 'content' occurs twice"),
        ('{"prompt":"a","prompt":"c","completion":"b"}\n', "the key 'prompt' occurs twice"),
        ('{"prompt": "half \\ud83d", "completion": "b"}\n', "1: \\ud83d is half of a character"),
        ('[{"prompt": "half \\ud83d", "completion": "b"}]\n', "1: \\ud83d is half of a character"),
        ('[{"prompt": "a", "completion": "b", "score": NaN}]', "NaN is not JSON"),
        ('{"prompt": "a", "completion": "b", "score": NaN}\n', "NaN is not JSON"),
        ('{"prompt": "a", "completion": "b"}\n{"prompt": Infinity}\n', "2: Infinity is not JSON"),
        ('[{"prompt": "a", "completion": "b", "completion": "c"}]', "the key 'completion' occurs twice"),
        ('{"data": [{"prompt": "a", "completion": "b"}], "test": [{"prompt": "c"}]}', "which is not read"),
    ],
)
def test_what_is_lost_in_json_is_told(tmp_path: Path, content: str, problem: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(content)
    assert problem in str(read(file)[1][0]).removeprefix(f"{file}:")


def table(delimiter: str, header: str = "question,answer") -> str:
    rows = [header.replace(",", delimiter), *(f'{q}{delimiter}"{a}"' for q, a in SAID)]
    return "\n".join(rows) + "\n"


@pytest.mark.parametrize(
    ("name", "content", "encoding"),
    [
        ("comma.csv", table(","), "utf-8-sig"),
        ("semicolon.csv", table(";"), "utf-8"),
        ("tabs.csv", table("\t"), "utf-8"),
        ("pipe.csv", table("|"), "utf-8"),
        ("tabs.tsv", table("\t"), "utf-8"),
        ("comma.tsv", table(","), "utf-8"),
        ("sep.csv", "sep=;\n" + table(";"), "utf-8"),
        ("excel.csv", table("\t"), "utf-16"),
        ("spaces.csv", table(",", " question , answer "), "utf-8"),
        ("trailing.csv", table(",").replace("\n", ",,\n"), "utf-8"),
    ],
)
def test_a_table_is_read_whatever_stands_between_its_cells(
    tmp_path: Path, name: str, content: str, encoding: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content.encode(encoding))
    assert read(file) == (SAID, [])


def test_a_comma_in_a_semicolon_table_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question;answer\nOne, two?;Yes, both.\nThree, four?;No, none.\n")
    assert read(tmp_path / "a.csv")[0] == [("One, two?", "Yes, both."), ("Three, four?", "No, none.")]


def test_two_columns_of_one_name_are_told_and_none_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer,answer\na,b,c\n")
    said, (problem,) = read(tmp_path / "a.csv")
    assert not said and "two columns are called 'answer'" in problem.text and problem.line == 1


def test_a_column_without_a_name_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",question,answer\n0,a,b\n")
    said, (problem,) = read(tmp_path / "a.csv")
    assert said == [("a", "b")] and problem.kind == "unused_key"


def test_lists_that_python_wrote_are_read_and_told(tmp_path: Path) -> None:
    frame = [{"messages": str(row["messages"])} for row in ROWS]
    table_of = "messages\n" + "".join('"' + row["messages"].replace('"', '""') + '"\n' for row in frame)
    (tmp_path / "a.csv").write_text(table_of)
    said, problems = read(tmp_path / "a.csv")
    assert said == SAID and [problem.kind for problem in problems] == ["python_text"]
    (tmp_path / "numpy.csv").write_text("messages\n\"[{'role': 'user', 'content': array([1])}]\"\n")
    said, (problem,) = read(tmp_path / "numpy.csv")
    assert not said and "a Python literal, not JSON" in problem.text


def test_another_encoding_is_named_as_it_would_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(table(",").encode("cp1252"))
    said, problems = read(tmp_path / "a.csv")
    assert not said and {problem.kind for problem in problems} == {"not_utf8"} and "Perché" in problems[0].text


NUMBER = {
    "type": "function",
    "function": {
        "name": "track",
        "description": "d",
        "parameters": {"type": "object", "properties": {"n": {"type": "number"}}},
    },
}
BIG = 9400111899223197428001


def numbered(value: Any) -> dict[str, Any]:
    call = {"function": {"name": "track", "arguments": value}}
    return {
        "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": [call]}],
        "tools": [NUMBER],
    }


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "text.jsonl", "cell.csv", "rows.parquet"])
def test_a_large_integer_is_the_same_in_every_container(tmp_path: Path, name: str) -> None:
    file, row = tmp_path / name, numbered({"n": BIG})
    if name == "rows.parquet":
        pq.write_table(pa.table({key: [json.dumps(value)] for key, value in row.items()}), file)
    elif name == "cell.csv":
        cells = ['"' + json.dumps(value).replace('"', '""') + '"' for value in row.values()]
        file.write_text("messages,tools\n" + ",".join(cells) + "\n")
    else:
        row = numbered(json.dumps({"n": BIG})) if name == "text.jsonl" else row
        file.write_text(json.dumps([row]) if name == "rows.json" else json.dumps(row) + "\n")
    (result,) = read_file(file, Toolbox(None))
    assert isinstance(result, SourceRow) and result.row.messages[1].tool_calls
    assert result.row.messages[1].tool_calls[0].function.arguments == {"n": BIG}
    assert str(BIG) in result.row.model_dump_json()


@pytest.mark.parametrize("value", ['{"n": NaN}', '{"n": 1e999}', {"n": float("inf")}])
def test_what_is_no_number_is_refused_in_every_container(tmp_path: Path, value: Any) -> None:
    for name in ("rows.jsonl", "rows.json"):
        text = json.dumps(numbered(value))
        (tmp_path / name).write_text(f"[{text}]" if name.endswith("json") else text + "\n")
        results = list(read_file(tmp_path / name, Toolbox(None)))
        assert [type(result) for result in results] == [Problem], name


def as_arrow(folder: Path, file_format: str) -> Path:
    rows = pa.table({"messages": [row["messages"] for row in ROWS]})
    file = folder / f"data.{file_format}"
    if file_format == "parquet":
        pq.write_table(rows, file)
    else:
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows)
    return file


@pytest.mark.parametrize("file_format", ["parquet", "arrow"])
def test_arrows_files_are_read(tmp_path: Path, file_format: str) -> None:
    assert read(as_arrow(tmp_path, file_format)) == (SAID, [])


def test_a_folder_that_datasets_saved_is_read(tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(str(tmp_path / "ds"))
    (tmp_path / "ds/train/cache-1.arrow").write_bytes(b"no data")
    examination = Examination(Data(sources=(Source(path=tmp_path / "ds"),)), None, None)
    accepted = [examined.row.messages[0].content for examined in examination.rows()]
    findings = examination.finish()
    assert accepted == ["Perché 1?", "Perché 2?"] and findings.counts["in_test"] == 1  # row 0 is held out
    assert [problem.text for problem in findings.examples["skipped_file"]] == [
        "the state.json beside it does not name it"
    ]


def test_the_splits_of_a_cloned_repository_are_what_they_are_called(tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    (repository / "data").mkdir(parents=True)
    (repository / ".git/objects/ab").mkdir(parents=True)
    (repository / ".git/objects/ab/cd").write_bytes(b"x")
    for name in ("README.md", "LICENSE", "LICENSE.md"):
        (repository / name).write_text("Permission is hereby granted, free of charge, to any person. " * 20)
    for split, numbers in (("train", range(60)), ("validation", range(60, 70)), ("test", range(65, 80))):
        pairs = [{"prompt": f"What is {split} {i}?", "completion": f"It is {i * 37} of {split}."} for i in numbers]
        pq.write_table(pa.Table.from_pylist(pairs), repository / f"data/{split}-00000-of-00001.parquet")
    examination = Examination(Data(sources=(Source(path=repository),)), None, None)
    accepted = list(examination.rows())
    findings = examination.finish()
    assert [sum(examined.source == source for examined in accepted) for source in (0, 1)] == [60, 10]
    assert not any("test" in (examined.row.messages[0].content or "") for examined in accepted)
    assert findings.counts["split_file"] == 2 and findings.counts["skipped_file"] == 3
    survey = survey_data(repository)
    assert survey.sources == [{"path": str(repository)}] and any("held out" in note for note in survey.notes)


def test_an_excel_sheet_is_read_as_a_table(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(["question", "answer"])
    for question, answer in SAID:
        book.active.append([question, answer])
    book.active.append(["How many?", 5])
    book.create_sheet("more").append(["question"])
    book.save(tmp_path / "rows.xlsx")
    said, problems = read(tmp_path / "rows.xlsx")
    assert said == [*SAID, ("How many?", "5")] and "sheet 'more' is not read" in problems[0].text


def test_nothing_found_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_text("{broken\n")
    (tmp_path / "calls.jsonl").write_text(json.dumps(numbered({"wrong": 1})) + "\n")
    (tmp_path / "qa.jsonl").write_text(json.dumps({"question": "q", "answers": ["a", "b"]}) + "\n")
    with pytest.raises(BadData) as error:
        survey_data(tmp_path)
    for cause in ("broken.jsonl:1", "calls.jsonl:1: messages.1.tool_calls.0: track: arguments", "question, answers"):
        assert cause in str(error.value)


def test_a_compressed_file_is_looked_into(tmp_path: Path) -> None:
    out = io.BytesIO()
    out.write(gzip.compress(json.dumps({"data": ROWS}).encode()))
    (tmp_path / "rows.json.gz").write_bytes(out.getvalue())
    assert read(tmp_path / "rows.json.gz") == (SAID, [])
