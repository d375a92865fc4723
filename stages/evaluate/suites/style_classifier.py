"""Which style a text is in, told by passages of documents that no model was trained on, and how near it comes."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tuneline.core.errors import BadRecipe

FEWEST = 2
"""Passages of a style, under which nothing is known about how much its own passages differ."""


def held_out_passages(rows: Path) -> list[tuple[str, str]]:
    """(style, text) of each validation row that has a style; documents are split whole."""
    found = []
    for line in rows.open(encoding="utf-8"):
        row = json.loads(line)
        if row.get("style"):
            text = row.get("text") or row["messages"][-1].get("content")
            found += [(str(row["style"]), str(text))]
    return found


class Styles:
    """Character n-grams (TF-IDF) and logistic regression, and the centre of each style.

    Raises:
        BadRecipe: fewer than two styles, or a style with too few passages.
    """

    def __init__(self, passages: Sequence[tuple[str, str]]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        self.names = sorted({style for style, _ in passages})
        counts = {name: sum(style == name for style, _ in passages) for name in self.names}
        if len(self.names) < 2 or min(counts.values()) < FEWEST:
            had = ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
            raise BadRecipe(
                f"evaluate.suites: style: needs {FEWEST} held-out passages of two styles; there are {had}; "
                "raise data.validation_share, or give each style several documents"
            )
        self._labels, texts = [style for style, _ in passages], [text for _, text in passages]
        self._vectorizer: Any = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
        self._vectors = self._vectorizer.fit_transform(texts)
        self._model: Any = LogisticRegression(C=10, max_iter=1000, class_weight="balanced")
        self._model.fit(self._vectors, self._labels)

    def told(self, text: str) -> str:
        """The style a text is taken to be in."""
        return str(self._model.predict(self._vectorizer.transform([text]))[0])

    def distance(self, text: str, style: str) -> float:
        """From the style's centre, 1 being as far as its own held-out passages are on average."""
        return float(self._from(self._vectorizer.transform([text]), self._centres[style])[0] / self._own[style])

    @cached_property
    def _centres(self) -> dict[str, Any]:
        return {name: self._mean([i for i, label in enumerate(self._labels) if label == name]) for name in self.names}

    @cached_property
    def _own(self) -> dict[str, float]:
        """The mean distance of a style's passages from the centre of the others, each left out in turn."""
        found = {}
        for name in self.names:
            places = [i for i, label in enumerate(self._labels) if label == name]
            away = [self._from(self._vectors[i], self._mean([j for j in places if j != i]))[0] for i in places]
            found[name] = max(float(sum(away) / len(away)), 1e-9)
        return found

    def _mean(self, places: Sequence[int]) -> Any:
        import numpy as np

        return np.asarray(self._vectors[list(places)].mean(axis=0)).ravel()

    def _from(self, vectors: Any, centre: Any) -> Any:
        """Cosine distance."""
        import numpy as np

        lengths = np.sqrt(vectors.multiply(vectors).sum(axis=1)).A1 * np.linalg.norm(centre)
        return 1 - (vectors @ centre) / np.maximum(lengths, 1e-12)
