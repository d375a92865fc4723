"""Cleans books and other plain text, splits them into passages, and turns passages into instructions.

Removed are page headers and numbers, hyphens at line ends, licences and imprints, and front matter of Markdown.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

PASSAGE_WORDS = 180
LONGEST_HEADER, HEADER_REPEATS = 70, 3
PARAGRAPH_ENDS = (".", "!", "?", "»", '"', "”", "…", ":", "’", ")")
"""The last line of a paragraph ends so. After any other line a page break is inside a paragraph."""

_NUMBER = re.compile(r"\W*(?:(?:p|pag|page|pagina|hal|halaman)\.?\s*)?(?:\d{1,4}|[ivxlc]{1,7})\W*", re.I)
_GUTENBERG = re.compile(r"^\s*\*\*\*\s*(START|END) OF (?:THE|THIS) PROJECT GUTENBERG.*$", re.I | re.M)
_IMPRINT = re.compile(
    r"\bISBN\b|all rights reserved|tutti i diritti riservati|proprietà letteraria riservata|hak cipta dilindungi|"
    r"project gutenberg|liber liber|creative commons|^\s*(?:copyright|©|\(c\)) |printed in |finito di stampare",
    re.I,
)
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.S)
_NO_LETTERS = re.compile(r"[\W\d]+")
_HYPHENATED = re.compile(r"[^\W\d_]-\Z")
_SENTENCE_END = re.compile(r"(?<=[.!?…»”])\s+")


@dataclass(frozen=True)
class Passage:
    """Consecutive paragraphs of a text, and the line at which the first begins."""

    line: int
    text: str


def split_passages(
    text: str, *, words: int = PASSAGE_WORDS, markdown: bool = False, verse: bool = False
) -> Iterator[Passage]:
    """Yield a text, cleaned, in passages of about `words` words. A paragraph is only cut if it is twice as long.

    Of `verse`, paragraphs are stanzas: their line breaks are kept, and they are cut between lines.
    """
    pieces: list[str] = []
    start = count = 0
    for line, paragraph in split_paragraphs(text, markdown=markdown, verse=verse):
        for piece in _split_long(paragraph, words, "\n" if verse else " "):
            start = line if not pieces else start
            pieces.append(piece)
            count += len(piece.split())
            if count >= words:
                yield Passage(start, "\n\n".join(pieces))
                pieces, count = [], 0
    if pieces:
        yield Passage(start, "\n\n".join(pieces))


def split_paragraphs(text: str, *, markdown: bool = False, verse: bool = False) -> Iterator[tuple[int, str]]:
    """Yield (first line, text) of each paragraph of the cleaned text. Line breaks are kept in Markdown and verse."""
    keeps_lines = markdown or verse
    lines = _without_page_furniture(_body_lines(text, markdown), keeps_repeated=verse)
    indented = not verse and sum(not line for _, line in lines) < len(lines) / 40
    pending: list[tuple[int, str]] = []
    for number, line in [*lines, (0, "")]:
        begins = indented and line.startswith(("  ", "\t"))
        if pending and (not line.strip() or begins):
            texts = [pending_line for _, pending_line in pending]
            paragraph = "\n".join(texts) if keeps_lines else _join_lines(texts)
            if not _IMPRINT.search(paragraph):
                yield pending[0][0], paragraph
            pending = []
        if line.strip():
            pending.append((number, line if keeps_lines else line.strip()))


def _body_lines(text: str, markdown: bool) -> list[tuple[int, str]]:
    """Return the numbered lines, those between the marks of Project Gutenberg if there are any."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\xad", "")
    marks = {match[1].upper(): match for match in _GUTENBERG.finditer(text)}
    first = marks["START"].end() if "START" in marks else 0
    last = marks["END"].start() if "END" in marks else len(text)
    if markdown and (front := _FRONT_MATTER.match(text)):
        first = max(first, front.end())
    offset = text.count("\n", 0, first) + 1
    return [(offset + i, line.rstrip()) for i, line in enumerate(text[first:last].split("\n"))]


def _without_page_furniture(lines: list[tuple[int, str]], *, keeps_repeated: bool) -> list[tuple[int, str]]:
    """Return the lines without page numbers and running headers, joining a paragraph they were in.

    `keeps_repeated`: what repeats is a refrain and no header.
    """
    plain = [line.replace("\f", "").strip() for _, line in lines]
    keys = [_header_key(line) for line in plain]
    counted = {} if keeps_repeated else Counter(filter(None, keys))
    repeated = {key for key, n in counted.items() if n >= HEADER_REPEATS}
    numbers = [_is_number(line) for line in plain]
    is_gap = [not line or number for line, number in zip(plain, numbers, strict=True)]
    removed = [
        bool(line) and (numbers[i] or (keys[i] in repeated and _stands_alone(is_gap, i)))
        for i, line in enumerate(plain)
    ]
    cleaned: list[tuple[int, str]] = []
    after_page = False
    for (number, line), is_removed in zip(lines, removed, strict=True):
        line = line.replace("\f", "")
        if is_removed:
            after_page = True
            while cleaned and not cleaned[-1][1].strip():
                cleaned.pop()
            if cleaned and cleaned[-1][1].rstrip().endswith(PARAGRAPH_ENDS):
                cleaned.append((number, ""))
        elif line.strip() or not after_page:
            cleaned.append((number, line))
            after_page = False
    return cleaned


def _header_key(line: str) -> str:
    """Return what repeats of a running header, without its page number, or an empty string for any other line."""
    if not line or len(line) > LONGEST_HEADER or line.endswith((".", "!", "?", ",", ";", "»", "”")):
        return ""
    return _NO_LETTERS.sub(" ", line).strip().lower()


def _is_number(line: str) -> bool:
    return len(line) < 16 and _NUMBER.fullmatch(line) is not None and line.lower() not in ("i", "c", "l", "d")


def _stands_alone(is_gap: list[bool], i: int) -> bool:
    """Return whether line `i` has an empty line, a page number, or the end of the text before or after it."""
    return i == 0 or i == len(is_gap) - 1 or is_gap[i - 1] or is_gap[i + 1]


def _join_lines(lines: list[str]) -> str:
    """Return the lines as one paragraph, joining words hyphenated at the end of a line."""
    pieces = [lines[0]]
    for previous, line in pairwise(lines):
        if _HYPHENATED.search(previous) and line[:1].islower():
            pieces[-1] = pieces[-1][:-1]
        else:
            pieces.append(" ")
        pieces.append(line)
    return "".join(pieces)


def _split_long(paragraph: str, words: int, joint: str) -> Iterator[str]:
    """Yield a paragraph whole, or cut if it has twice as many words or more: between sentences, or at line breaks if
    these are the `joint`."""
    if len(paragraph.split()) < 2 * words:
        yield paragraph
        return
    pending: list[str] = []
    count = 0
    for sentence in paragraph.split("\n") if joint == "\n" else _SENTENCE_END.split(paragraph):
        pending.append(sentence)
        count += len(sentence.split())
        if count >= words:
            yield joint.join(pending)
            pending, count = [], 0
    if pending:
        yield joint.join(pending)


INSTRUCTIONS = {
    "en": (
        "Write a passage in the {style} style.",
        "Write something in the style of “{style}”.",
        "In the {style} style, please: one passage.",
        "Continue this in the {style} style: {start}",
        "Style: {style}. Go on from here: {start}",
    ),
    "it": (
        "Scrivi un brano in stile {style}.",
        "Scrivi qualcosa nello stile «{style}».",
        "Stile: {style}. Un brano, per favore.",
        "Continua in stile {style}: {start}",
        "Stile: {style}. Vai avanti da qui: {start}",
    ),
    "id": (
        "Tulislah satu bagian dengan gaya {style}.",
        "Tulis sesuatu dalam gaya “{style}”.",
        "Gaya: {style}. Satu bagian saja.",
        "Lanjutkan dengan gaya {style}: {start}",
        "Gaya: {style}. Teruskan dari sini: {start}",
    ),
}


def to_instruction(passage: Passage, style: str, language: str) -> list[dict[str, Any]]:
    """Return two messages: an instruction to write in a style, and the passage. The text decides which instruction."""
    templates = INSTRUCTIONS.get(language, INSTRUCTIONS["en"])
    number = int.from_bytes(hashlib.blake2b(passage.text.encode(), digest_size=4).digest())
    template = templates[number % len(templates)]
    start, _, rest = passage.text.partition(" ") if "{start}" not in template else _split_first_sentence(passage.text)
    if "{start}" in template and not rest:
        template = templates[0]
    answer = rest if "{start}" in template else passage.text
    instruction = template.format(style=style, start=start)
    return [{"role": "user", "content": instruction}, {"role": "assistant", "content": answer}]


def _split_first_sentence(text: str) -> tuple[str, str, str]:
    """Return (first sentence, separator, rest), as `str.partition` does."""
    end = _SENTENCE_END.search(text)
    return (text[: end.start()], " ", text[end.end() :]) if end else (text, "", "")
