"""The parts of converting that need no llama.cpp: blocks, rows that move, the journal, Modelfiles."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.recipe import ROOT
from stages.convert import modelfile, stream
from stages.convert.shards import Stored
from stages.convert.stream import SAME, Journal, Place, Target, block_ranges

TINY = ROOT / "data/tiny"


def tensor(rows: int, columns: int) -> Stored:
    return Stored("w", Path("f"), "BF16", (rows, columns), 0, rows * columns * 2)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (7, 5_000_000), (128256, 4096), (33, 64), (100_000, 3)])
def test_blocks_cover_every_row_once_and_stay_small(rows: int, columns: int) -> None:
    ranges = list(block_ranges(tensor(rows, columns)))
    assert [row for first, last in ranges for row in range(first, last)] == list(range(rows))
    assert all((last - first) * columns * 2 <= stream.BLOCK_BYTES or last - first == 1 for first, last in ranges)


@pytest.mark.parametrize("seed", range(5))
def test_rows_lie_where_they_belong(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    order, data = rng.permutation(64), rng.integers(0, 255, (64, 6), dtype=np.uint8)
    if seed == 0:
        order = np.arange(64)[::-1].copy()
    file = tmp_path / "f"
    file.write_bytes(bytes(10 + 64 * 6))
    descriptor = os.open(file, os.O_WRONLY)
    for first in range(0, 64, 16):
        stream._write(descriptor, Place(0, True, SAME, 10, 6, order=order), first, data[first : first + 16])
    os.close(descriptor)
    found = np.frombuffer(file.read_bytes()[10:], np.uint8).reshape(64, 6)
    assert (found[order] == data).all()


def test_a_journal_counts_only_for_the_same_files(tmp_path: Path) -> None:
    target = Target(tmp_path / "a", 3, b"abc")
    journal = Journal(tmp_path / "journal", [target], durable=True)
    journal.begin()
    journal.add(["x", "y"])
    assert Journal(journal.path, [target], durable=True).done == set()  # the file itself is not there
    target.path.write_bytes(b"abc")
    assert Journal(journal.path, [target], durable=True).done == {"x", "y"}
    assert Journal(journal.path, [Target(tmp_path / "a", 3, b"abd")], durable=True).done == set()
    with journal.path.open("a") as file:
        file.write("half of a na")
    assert Journal(journal.path, [target], durable=True).done == {"x", "y"}


def test_what_is_not_brought_to_the_disk_counts_until_the_machine_starts_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target(tmp_path / "a", 3, b"abc")
    target.path.write_bytes(b"abc")
    monkeypatch.setattr(stream, "_boot", lambda: "today")
    journal = Journal(tmp_path / "journal", [target], durable=False)
    journal.begin()
    journal.add(["x"])
    assert Journal(journal.path, [target], durable=False).done == {"x"}
    monkeypatch.setattr(stream, "_boot", lambda: "tomorrow")
    assert Journal(journal.path, [target], durable=False).done == set()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TINY)


def test_a_modelfile_says_what_the_chat_template_says(tokenizer: Any) -> None:
    turns = modelfile.turns_of(tokenizer)
    assert turns
    text = modelfile.written("m.gguf", turns, ["<|eot_id|>", 'a "quoted" \\ one'], context=512)
    found = modelfile.read(text)
    assert found["FROM"] == ["./m.gguf"] and found["PARAMETER num_ctx"] == ["512"]
    assert found["PARAMETER stop"] == ["<|eot_id|>", 'a "quoted" \\ one']
    talk = [{"role": "system", "content": "s"}, {"role": "user", "content": "{{ .Content }}"}]
    talk += [{"role": "assistant", "content": "x\ny"}, {"role": "user", "content": "end"}]
    learned = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    assert tokenizer.bos_token + modelfile.rendered(found["TEMPLATE"][0], talk) == learned


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}[{{ loop.index }}] {{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.role }}: {{ m.content | upper }}\n{% endfor %}",
        "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ messages[0].content }}",
        "{% for m in messages %}{{ m.content }}{% if not loop.last %}{{ '{{ x }}' }}{% endif %}{% endfor %}",
    ],
    ids=["counted", "changed", "refusing", "Go in it"],
)
def test_a_template_that_is_more_than_turns_makes_no_modelfile(tokenizer: Any, template: str) -> None:
    before = tokenizer.chat_template
    tokenizer.chat_template = template
    try:
        assert modelfile.turns_of(tokenizer) is None
    finally:
        tokenizer.chat_template = before


@pytest.mark.parametrize("text", ["FROM ./a\nTEMPLATE x", "FROM ./a\nSAY hello\n", 'FROM ./a\nTEMPLATE """x\n'])
def test_what_is_no_modelfile_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(ValueError, match="line 2"):
        modelfile.read(text)
