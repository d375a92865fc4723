"""Books and other plain text: cleaned of what a printer added, cut into passages, and made into rows.

Removed: page headers and numbers, hyphens at line ends, licences and imprints, front matter of Markdown.
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
ENDS = (".", "!", "?", "»", '"', "”", "…", ":", "’", ")")
"""How the last line of a paragraph ends; a page that breaks elsewhere breaks a paragraph in two."""

_NUMBER = re.compile(r"\W*(?:(?:p|pag|page|pagina|hal|halaman)\.?\s*)?(?:\d{1,4}|[ivxlc]{1,7})\W*", re.I)
_GUTENBERG = re.compile(r"^\s*\*\*\*\s*(START|END) OF (?:THE|THIS) PROJECT GUTENBERG.*$", re.I | re.M)
_IMPRINT = re.compile(
    r"\bISBN\b|all rights reserved|tutti i diritti riservati|proprietà letteraria riservata|hak cipta dilindungi|"
    r"project gutenberg|liber liber|creative commons|^\s*(?:copyright|©|\(c\)) |printed in |finito di stampare",
    re.I,
)
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.S)
_SENTENCE_END = re.compile(r"(?<=[.!?…»”])\s+")


@dataclass(frozen=True)
class Passage:
    """Some paragraphs that follow each other, and the line the first begins at."""

    line: int
    text: str


def passages(text: str, *, words: int = PASSAGE_WORDS, markdown: bool = False) -> Iterator[Passage]:
    """A cleaned text in passages of about so many words; a paragraph is only cut if it is twice as long."""
    held: list[str] = []
    start = count = 0
    for line, paragraph in paragraphs(text, markdown=markdown):
        for piece in _pieces(paragraph, words):
            start = line if not held else start
            held.append(piece)
            count += len(piece.split())
            if count >= words:
                yield Passage(start, "\n\n".join(held))
                held, count = [], 0
    if held:
        yield Passage(start, "\n\n".join(held))


def paragraphs(text: str, *, markdown: bool = False) -> Iterator[tuple[int, str]]:
    """(first line, text) of each paragraph of a cleaned text; line breaks stay only in Markdown."""
    lines = _without_furniture(_body(text, markdown))
    indented = sum(not line for _, line in lines) < len(lines) / 40
    held: list[tuple[int, str]] = []
    for number, line in [*lines, (0, "")]:
        begins = indented and line.startswith(("  ", "\t"))
        if held and (not line.strip() or begins):
            whole = "\n".join(one for _, one in held) if markdown else _joined([one for _, one in held])
            if not _IMPRINT.search(whole):
                yield held[0][0], whole
            held = []
        if line.strip():
            held.append((number, line if markdown else line.strip()))


def _body(text: str, markdown: bool) -> list[tuple[int, str]]:
    """Numbered lines between the marks of Project Gutenberg, if there are any."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\xad", "")
    marks = {match[1].upper(): match for match in _GUTENBERG.finditer(text)}
    first = marks["START"].end() if "START" in marks else 0
    last = marks["END"].start() if "END" in marks else len(text)
    if markdown and (front := _FRONT_MATTER.match(text)):
        first = max(first, front.end())
    offset = text.count("\n", 0, first) + 1
    return [(offset + i, line.rstrip()) for i, line in enumerate(text[first:last].split("\n"))]


def _without_furniture(lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Lines without page numbers and running headers; a paragraph they stood in is whole again."""
    plain = [line.replace("\f", "").strip() for _, line in lines]
    keys = [_header_key(line) for line in plain]
    repeated = {key for key, n in Counter(filter(None, keys)).items() if n >= HEADER_REPEATS}
    removed = [
        bool(line) and (_is_number(line) or (key in repeated and _stands_alone(plain, i)))
        for i, (line, key) in enumerate(zip(plain, keys, strict=True))
    ]
    kept: list[tuple[int, str]] = []
    after_page = False
    for (number, line), gone in zip(lines, removed, strict=True):
        line = line.replace("\f", "")
        if gone:
            after_page = True
            while kept and not kept[-1][1].strip():
                kept.pop()
            if kept and kept[-1][1].rstrip().endswith(ENDS):
                kept.append((number, ""))
        elif line.strip() or not after_page:
            kept.append((number, line))
            after_page = False
    return kept


def _header_key(line: str) -> str:
    """A line as it repeats from page to page, without its number; empty where it is no header."""
    if not line or len(line) > LONGEST_HEADER or line.endswith((".", "!", "?", ",", ";", "»", "”")):
        return ""
    return re.sub(r"[\W\d]+", " ", line).strip().lower()


def _is_number(line: str) -> bool:
    return len(line) < 16 and _NUMBER.fullmatch(line) is not None and line.lower() not in ("i", "c", "l", "d")


def _stands_alone(plain: list[str], i: int) -> bool:
    around = [plain[j] for j in (i - 1, i + 1) if 0 <= j < len(plain)]
    return len(around) < 2 or any(not line or _is_number(line) for line in around)


def _joined(lines: list[str]) -> str:
    """Lines as one paragraph; a word parted at a line's end is whole again."""
    text = lines[0]
    for before, line in pairwise(lines):
        parted = re.search(r"[^\W\d_]-$", before) and line[:1].islower()
        text = text[:-1] + line if parted else f"{text} {line}"
    return text


def _pieces(paragraph: str, words: int) -> Iterator[str]:
    if len(paragraph.split()) < 2 * words:
        yield paragraph
        return
    held: list[str] = []
    for sentence in _SENTENCE_END.split(paragraph):
        held.append(sentence)
        if sum(len(one.split()) for one in held) >= words:
            yield " ".join(held)
            held = []
    if held:
        yield " ".join(held)


ASKED = {
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


def styled(passage: Passage, style: str, language: str) -> list[dict[str, Any]]:
    """An instruction to write in a style, and the passage as its answer; the same passage is always asked alike."""
    asked = ASKED.get(language, ASKED["en"])
    way = asked[int.from_bytes(hashlib.blake2b(passage.text.encode(), digest_size=4).digest()) % len(asked)]
    start, _, rest = passage.text.partition(" ") if "{start}" not in way else _first_sentence(passage.text)
    if "{start}" in way and not rest:
        way = asked[0]
    answer = rest if "{start}" in way else passage.text
    question = way.format(style=style, start=start)
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _first_sentence(text: str) -> tuple[str, str, str]:
    end = _SENTENCE_END.search(text)
    return (text[: end.start()], " ", text[end.end() :]) if end else (text, "", "")
