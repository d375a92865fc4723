"""Lines that were written whole are read again; a line cut by a crash is not believed, and spoils no other."""

from pathlib import Path

import pytest

from tuneline.core import jsonl


@pytest.fixture
def file(tmp_path: Path) -> Path:
    for number in range(2):
        jsonl.append(tmp_path / "lines", {"number": number, "text": "ü\u2028\n"})
    return tmp_path / "lines"


def test_records_come_back_in_order(file: Path) -> None:
    assert jsonl.read(file) == [{"number": number, "text": "ü\u2028\n"} for number in range(2)]
    assert file.read_bytes().count(b"\n") == 2
    assert jsonl.read(file.with_name("none")) == []


def test_a_cut_line_is_left_out_and_removed(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"number": 2, "te')
    assert len(jsonl.read(file)) == 2
    jsonl.remove_cut_line(file)
    assert file.read_bytes() == whole
    file.write_bytes(b'{"num')
    jsonl.remove_cut_line(file)
    assert file.read_bytes() == b""


def test_a_cut_line_can_be_ended_and_skipped(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])
    jsonl.end_cut_line(file)
    jsonl.append(file, {"number": 2})
    with pytest.raises(ValueError):
        jsonl.read(file)
    assert [record["number"] for record in jsonl.read(file, skip_broken=True)] == [0, 2]


def test_only_lines_beyond_an_offset_are_read(file: Path) -> None:
    first, second = jsonl.whole_lines(file)
    assert list(jsonl.whole_lines(file, len(first))) == [second]
