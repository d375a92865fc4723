"""Line breaks that are meant are kept, those of a page are not."""

import textwrap
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tuneline.cli import app
from tuneline.configs.data import Source
from tuneline.core.paths import ROOT
from tuneline.stages.prepare.checks.problems import Problem
from tuneline.stages.prepare.checks.toolbox import Toolbox
from tuneline.stages.prepare.formats.books import split_passages
from tuneline.stages.prepare.formats.reader import read_file
from tuneline.stages.prepare.formats.verse import is_verse

TERCETS = """Nel mezzo del cammin di nostra vita
mi ritrovai per una selva oscura,
ché la diritta via era smarrita.

Ahi quanto a dir qual era è cosa dura
esta selva selvaggia e aspra e forte
che nel pensier rinova la paura!

Tant' è amara che poco è più morte;
ma per trattar del ben ch'i' vi trovai,
dirò de l'altre cose ch'i' v'ho scorte.
"""
HAIKU = """old pond
a frog leaps in
water's sound

first cold rain
even the monkey seems to want
a little straw coat
"""
STANZA = "Verse {} comes in,\nit says a thing or two,\n\nRow, row the boat\n\n"
REFRAIN = "".join(map(STANZA.format, ("one", "two", "three", "four")))
PROSE = [
    "\n\n".join(" ".join(paragraph.split()) for paragraph in file.read_text("utf-8").split("\n\n"))
    for file in sorted((ROOT / "data/styles").rglob("*.txt"))
]


def wrap(text: str, width: int, joint: str = "\n\n", indent: str = "") -> str:
    paragraphs = (textwrap.fill(part, width, initial_indent=indent) for part in text.split("\n\n"))
    return joint.join(paragraphs)


@pytest.mark.parametrize("text", [TERCETS, HAIKU, REFRAIN], ids=["tercets", "haiku", "refrain"])
def test_verse_is_verse_and_keeps_every_line(text: str) -> None:
    assert is_verse(text)
    [passage] = split_passages(text, verse=True)
    assert passage.text.split() == text.split()
    assert [line for line in passage.text.split("\n") if line] == [line for line in text.split("\n") if line]


@pytest.mark.parametrize("width", range(30, 111, 10))
def test_prose_is_not_however_wide_its_page_is(width: int) -> None:
    assert len(PROSE) > 5
    for text in PROSE:
        assert not is_verse(wrap(text, width)) and not is_verse(wrap(text, width, "\n", "    ")) and not is_verse(text)


def test_long_verse_is_cut_between_lines() -> None:
    text = "\n".join(TERCETS.split("\n\n")).replace("\n\n", "\n") * 4
    passages = list(split_passages(text, words=30, verse=True))
    lines = {line for line in text.split("\n") if line}
    assert len(passages) > 3 and all(line in lines for p in passages for line in p.text.split("\n") if line)


def test_the_reader_and_init_say_so(tmp_path: Path) -> None:
    folder = tmp_path / "poems"
    folder.mkdir()
    (folder / "canto.txt").write_text(TERCETS, encoding="utf-8")
    (folder / "pages.txt").write_text(wrap(PROSE[0], 60), encoding="utf-8")
    source = Source(path=folder, style="poems", learn="continuation")
    files = sorted(folder.iterdir())
    found: list[Any] = [item for file in files for item in read_file(file, Toolbox(None), source)]
    notes = [(Path(item.file).name, item.kind) for item in found if isinstance(item, Problem)]
    assert notes == [("canto.txt", "verse")]
    texts = [item.row.text for item in found if not isinstance(item, Problem)]
    assert "nostra vita\nmi ritrovai" in texts[0] and "\n" not in texts[1].split("\n\n")[0]
    done = CliRunner().invoke(app, ["init", str(folder), "--to", str(tmp_path / "r.yaml")])
    assert "1 of them read as verse: line breaks are kept" in done.output
