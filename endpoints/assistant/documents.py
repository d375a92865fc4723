"""Documents: a folder of text, indexed by SQLite's FTS5; the passages that are nearest to a question, with sources."""

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tuneline.core.errors import BadData, BadRequest
from tuneline.core.user_files import read_text
from tuneline.endpoints.assistant.history import CHARACTERS_PER_TOKEN

ENDINGS = (".md", ".txt", ".rst")
PASSAGE_CHARACTERS = 1_000
"""Of a passage at most, unless one paragraph is longer: about 300 tokens."""
MAX_WORDS = 40
"""Of a question that are looked for."""


@dataclass(frozen=True)
class Passage:
    """A part of a document; `source` is its file in the folder and the line where it begins."""

    source: str
    text: str


class Documents:
    """The passages of a folder's files, in memory."""

    def __init__(self, folder: Path) -> None:
        """Read and index a folder.

        Raises:
            BadRequest: no such folder, or nothing to read in it. BadData: a file is no text.
        """
        if not folder.is_dir():
            raise BadRequest(f"--knowledge {folder}: no such folder")
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        columns = "source UNINDEXED, text, tokenize = 'unicode61 remove_diacritics 2'"
        self._database.execute(f"CREATE VIRTUAL TABLE passages USING fts5({columns})")
        files = [file for file in sorted(folder.rglob("*")) if file.suffix in ENDINGS and file.is_file()]
        rows = [(p.source, p.text) for file in files for p in _split(file, file.relative_to(folder).as_posix())]
        if not rows:
            raise BadRequest(f"--knowledge {folder}: no text in {', '.join(ENDINGS)} files")
        self._database.executemany("INSERT INTO passages VALUES (?, ?)", rows)
        self.count = len(rows)

    def nearest(self, question: str, limit_tokens: int) -> list[Passage]:
        """Return the passages that share the rarest words with a question (BM25), the best first, within a budget."""
        words = list(dict.fromkeys(re.findall(r"\w+", question.lower())))[:MAX_WORDS]
        if not words:
            return []
        query = " OR ".join(f'"{word}"' for word in words)
        rows = self._database.execute(
            "SELECT source, text FROM passages WHERE passages MATCH ? ORDER BY rank", (query,)
        )
        chosen: list[Passage] = []
        left = limit_tokens * CHARACTERS_PER_TOKEN
        for source, text in rows:
            left -= len(text) + len(source)
            if left < 0:
                break
            chosen.append(Passage(source, text))
        return chosen


def _split(file: Path, name: str) -> Iterator[Passage]:
    """Yield a file's passages: paragraphs together, as many as fit."""
    gathered, start = "", 1
    for line, paragraph in _paragraphs(read_text(file, BadData)):
        if gathered and len(gathered) + len(paragraph) > PASSAGE_CHARACTERS:
            yield Passage(f"{name}:{start}", gathered)
            gathered = ""
        if not gathered:
            start = line
        gathered = f"{gathered}\n\n{paragraph}" if gathered else paragraph
    if gathered:
        yield Passage(f"{name}:{start}", gathered)


def _paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Yield (number of the first line, text) of what is between empty lines."""
    for match in re.finditer(r"[^\n]*\S[^\n]*(?:\n[^\n]*\S[^\n]*)*", text):
        yield text.count("\n", 0, match.start()) + 1, match[0].strip()
