"""A classifier of writing styles, trained on passages of documents that the tuned model has not seen."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tuneline.core.errors import BadRecipe
from tuneline.stages.prepare.checks.style_passages import find_few_passages


def held_out_passages(rows: Path) -> list[tuple[str, str]]:
    """Return (style, text) of each row in a validation file that has a style; documents are split whole."""
    passages = []
    for line in rows.open(encoding="utf-8"):
        row = json.loads(line)
        if row.get("style"):
            text = row.get("text") or row["messages"][-1].get("content")
            passages += [(str(row["style"]), str(text))]
    return passages


class StyleClassifier:
    """Logistic regression on character n-grams (TF-IDF), and the centroid of each style.

    Raises:
        BadRecipe: there are fewer than two styles, or a style has too few passages.
    """

    def __init__(self, passages: Sequence[tuple[str, str]]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        self.names = sorted({style for style, _ in passages})
        counts = {name: sum(style == name for style, _ in passages) for name in self.names}
        if fault := find_few_passages(self.names, counts):
            raise BadRecipe(
                f"evaluate.suites: style: {fault}; raise data.validation_share, or give each style several documents"
            )
        self._labels, texts = [style for style, _ in passages], [text for _, text in passages]
        self._vectorizer: Any = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
        self._vectors = self._vectorizer.fit_transform(texts)
        self._model: Any = LogisticRegression(C=10, max_iter=1000, class_weight="balanced")
        self._model.fit(self._vectors, self._labels)

    def predict(self, text: str) -> str:
        """Return the style a text is classified as."""
        return str(self._model.predict(self._vectorizer.transform([text]))[0])

    def distance(self, text: str, style: str) -> float:
        """Return a text's cosine distance from a style's centroid; 1 is the mean of the style's own passages."""
        vectors = self._vectorizer.transform([text])
        return float(_cosine_distance(vectors, self._centroids[style])[0] / self._mean_distances[style])

    @cached_property
    def _centroids(self) -> dict[str, Any]:
        return {name: self._mean(self._rows_of(name)) for name in self.names}

    @cached_property
    def _mean_distances(self) -> dict[str, float]:
        """The mean distance of a style's passages from the centroid of its others, each left out in turn."""
        means = {}
        for name in self.names:
            rows = self._rows_of(name)
            distances = [_cosine_distance(self._vectors[i], self._mean([j for j in rows if j != i]))[0] for i in rows]
            means[name] = max(float(sum(distances) / len(distances)), 1e-9)
        return means

    def _rows_of(self, style: str) -> list[int]:
        return [i for i, label in enumerate(self._labels) if label == style]

    def _mean(self, rows: Sequence[int]) -> Any:
        import numpy as np

        return np.asarray(self._vectors[list(rows)].mean(axis=0)).ravel()


def _cosine_distance(vectors: Any, centroid: Any) -> Any:
    import numpy as np

    lengths = np.sqrt(vectors.multiply(vectors).sum(axis=1)).A1 * np.linalg.norm(centroid)
    return 1 - (vectors @ centroid) / np.maximum(lengths, 1e-12)
