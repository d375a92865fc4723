"""Books lose what a printer added and nothing else; styles become instructions; no page is on both sides of a split."""

from collections import defaultdict
from pathlib import Path

import pytest

from tuneline.configs.data import Source
from tuneline.core.paths import ROOT
from tuneline.stages.prepare.checks.language import detect_language
from tuneline.stages.prepare.checks.toolbox import Toolbox
from tuneline.stages.prepare.formats.books import split_paragraphs, split_passages
from tuneline.stages.prepare.formats.reader import SourceRow, read_source
from tuneline.stages.prepare.rows import Row
from tuneline.stages.prepare.validation_split import SplitKeys, choose_validation_rows, single_document_labels

PAGE = """THE LONG WAY HOME{number}

{text}

{number}
\f"""
BOOK = (
    "Project Gutenberg License: do what you like\n*** START OF THE PROJECT GUTENBERG EBOOK THE LONG WAY HOME ***\n\n"
    + "Copyright 1911 by nobody.\nAll rights reserved.\n\n"
    + PAGE.format(number=12, text="He went out early, be-\nfore the others had woken, and the road was long and")
    + PAGE.format(number=13, text="white before him.\n\n“Where to?” she asked. It was a well-\nKnown question.")
    + PAGE.format(number=14, text="He did not answer.\n\nXIV\n\nThe end came soon.")
    + "*** END OF THE PROJECT GUTENBERG EBOOK THE LONG WAY HOME ***\nLicense again\n"
)


def test_a_book_is_cleaned_of_headers_numbers_hyphens_and_licences() -> None:
    assert [text for _, text in split_paragraphs(BOOK)] == [
        "He went out early, before the others had woken, and the road was long and white before him.",
        "“Where to?” she asked. It was a well- Known question.",
        "He did not answer.",
        "The end came soon.",
    ]


def test_a_text_without_furniture_is_not_changed() -> None:
    text = "He said: no.\n\nNo.\n\nShe said: yes.\n\nIt was 1911, and 12 men stood there.\n\nA well-known end."
    assert "\n\n".join(paragraph for _, paragraph in split_paragraphs(text)) == text


def test_passages_keep_paragraphs_whole_and_know_their_line() -> None:
    text = "\n\n".join(f"Paragraph {i} has exactly six words." for i in range(20))
    found = list(split_passages(text, words=30))
    assert "\n\n".join(passage.text for passage in found) == text
    assert [passage.line for passage in found] == [1, 11, 21, 31]
    long = " ".join(f"Sentence number {i} is here." for i in range(100))
    assert all(30 <= len(p.text.split()) <= 35 for p in list(split_passages(long, words=30))[:-1])


@pytest.fixture(scope="module")
def styles() -> list[Row]:
    source = Source(path=ROOT / "data/styles", style="folder", passage_words=60)
    return [
        one.row
        for one in read_source(source, Toolbox(None))
        if isinstance(one, SourceRow) and one.row.style != "styles"
    ]


def test_the_samples_are_three_italian_registers_and_become_instructions(styles: list[Row]) -> None:
    by_style = defaultdict(list)
    for row in styles:
        by_style[row.style].append(row)
        assert [m.role for m in row.messages] == ["user", "assistant"]
        assert str(row.style) in str(row.messages[0].content)
        assert detect_language(str(row.messages[1].content)) == "it"
    assert set(by_style) == {"epico", "straniato", "piano"}
    assert all(len({row.document for row in rows}) == 3 and len(rows) >= 6 for rows in by_style.values())


def test_raw_continuation_is_text_and_no_conversation() -> None:
    source = Source(path=ROOT / "data/styles/piano", style="piano", learn="continuation")
    rows = [one.row for one in read_source(source, Toolbox(None)) if isinstance(one, SourceRow)]
    assert rows and all(row.text and not row.messages and row.style == "piano" for row in rows)


def test_no_page_of_a_document_is_on_both_sides(styles: list[Row]) -> None:
    for seed in range(20):
        places = SplitKeys(seed)
        for row in styles:
            places.add(row, str(row.style))
        chosen = choose_validation_rows(places, 0.3, 500)
        held = {row.document for row, one in zip(styles, chosen, strict=True) if one}
        assert held and not held & {row.document for row, one in zip(styles, chosen, strict=True) if not one}


def test_a_style_with_a_single_document_is_told_and_split_all_the_same(styles: list[Row]) -> None:
    rows = [row.model_copy(update={"document": "one"}) for row in styles] * 5
    rows = [row.model_copy(update={"text": str(i), "messages": []}) for i, row in enumerate(rows)]
    places = SplitKeys(0)
    for row in rows:
        places.add(row, "epico")
    assert single_document_labels(places) == ["epico"]
    assert 0 < sum(choose_validation_rows(places, 0.2, 500)) < len(rows)


def test_a_markdown_file_keeps_its_lines_and_loses_its_front_matter(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("---\ntitle: x\n---\n# Head\n\n- one\n- two\n")
    (found,) = [one for one in read_source(Source(path=tmp_path), Toolbox(None)) if isinstance(one, SourceRow)]
    assert found.row.text == "# Head\n\n- one\n- two" and found.row.document == "a.md"
