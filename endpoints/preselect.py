"""The preselector: of a long catalogue, the few tools a request may be for, by its character n-grams.

All 104 schemas of a business are 10,000 tokens in every prompt; 16 of them are 1,500.
"""

import re
from collections.abc import Sequence
from typing import Any

from configs.catalogue import Catalogue

EXAMPLES = 60
"""Requests of a tool that are read; more of the same add time and no tool."""


class Preselector:
    """Ranks the tools of a catalogue for a request. `examples`: texts, and the tool that answers each."""

    def __init__(self, catalogue: Catalogue, examples: tuple[Sequence[str], Sequence[str]] = ((), ())) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.names = catalogue.names
        known: dict[str, list[str]] = {name: [_described(name, catalogue)] for name in self.names}
        for text, tool in zip(*examples, strict=True):
            if tool in known and len(known[tool]) <= EXAMPLES:
                known[tool].append(text)
        texts = [text for name in self.names for text in known[name]]
        self._owner = [place for place, name in enumerate(self.names) for _ in known[name]]
        self._vectorizer: Any = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
        self._vectors = self._vectorizer.fit_transform(texts)

    def ranked(self, text: str) -> list[str]:
        """All tools, the likeliest first: each by the nearest thing known of it."""
        import numpy as np

        likeness = np.asarray((self._vectors @ self._vectorizer.transform([text]).T).todense()).ravel()
        best = np.zeros(len(self.names))
        np.maximum.at(best, self._owner, likeness)
        return [self.names[place] for place in np.argsort(-best, kind="stable")]

    def top(self, text: str, k: int) -> tuple[str, ...]:
        """The `k` likeliest, in the order of the catalogue, so that like requests have like prompts."""
        chosen = set(self.ranked(text)[:k])
        return tuple(name for name in self.names if name in chosen)


def _described(name: str, catalogue: Catalogue) -> str:
    tool = catalogue.tools[name]
    return " ".join([*re.split(r"[._]", name), tool.description, *tool.properties])
