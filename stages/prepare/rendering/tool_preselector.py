"""Preselects the tools of a large catalogue that a request is shown: the nearest ones by character n-grams.

The preselector is trained on the catalogue alone: each tool's name, description, arguments and training phrases.
Its recall at k is measured on the phrases for tests (`ask`).
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tuneline.configs.catalogue import Catalogue
from tuneline.configs.data import Data
from tuneline.stages.prepare.rendering.renderer import Renderer
from tuneline.stages.prepare.rows import Row

GRAMS = (2, 5)
"""Lengths of the shortest and the longest n-gram, in characters, within words."""
MAX_EXAMPLES = 60
"""Most example requests of a tool. More of them add time and no recall."""
RECALL_AT = (1, 4, 8, 16, 32)
PRESELECTOR_FILE = "preselector.json"


class Preselector:
    """Ranks tools by their similarity to a text (cosine of TF-IDF vectors); `documents` has the texts of each tool."""

    def __init__(self, documents: Mapping[str, Sequence[str]]) -> None:
        self.documents = {name: list(texts) for name, texts in documents.items()}

    @classmethod
    def from_catalogue(cls, catalogue: Catalogue, examples: Iterable[tuple[str, str]] = ()) -> "Preselector":
        """Return a preselector for a catalogue; `examples` are (text, tool that answers it)."""
        documents = {name: _tool_texts(name, catalogue) for name in catalogue.names}
        counts: Counter[str] = Counter()
        for text, tool in examples:
            if tool in documents and counts[tool] < MAX_EXAMPLES:
                documents[tool].append(text)
                counts[tool] += 1
        return cls(documents)

    @classmethod
    def load(cls, prepared: Path) -> "Preselector":
        """Return the preselector of the run prepared in this directory."""
        return cls(json.loads((prepared / PRESELECTOR_FILE).read_text("utf-8")))

    def nearest(self, text: str, count: int | None = None) -> list[str]:
        """Return the names of the `count` tools nearest to a text (default: all), the nearest first."""
        import numpy as np

        vectorizer, matrix, owners = self._index
        similarity = (matrix @ vectorizer.transform([text]).T).toarray()[:, 0]
        best = np.zeros(len(self.documents))
        np.maximum.at(best, owners, similarity)
        names = list(self.documents)
        return [names[i] for i in np.argsort(-best, kind="stable")[:count]]

    def select(self, text: str, count: int, among: Collection[str] | None = None) -> tuple[str, ...]:
        """Return the `count` nearest tools (of those `among`) in the catalogue's order.

        Similar requests therefore have the same prompt.
        """
        selected = set([name for name in self.nearest(text) if among is None or name in among][:count])
        return tuple(name for name in self.documents if name in selected)

    @cached_property
    def _index(self) -> tuple[Any, Any, Any]:
        """(vectorizer, matrix with a row for each text, the number of the tool that each text is of)."""
        import numpy as np
        from sklearn.feature_extraction.text import TfidfVectorizer

        documents = list(self.documents.values())
        texts = [text for document in documents for text in document]
        owners = np.repeat(np.arange(len(documents)), [len(document) for document in documents])
        vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=GRAMS, sublinear_tf=True)
        return vectorizer, vectorizer.fit_transform(texts), owners


def measure_recall(preselector: Preselector, catalogue: Catalogue) -> dict[str, float]:
    """Return the number of test phrases and, for each k, the share whose tool is among the k nearest."""
    queries = [
        (name, phrase)
        for name, tool in catalogue.tools.items()
        for phrases in tool.phrases.values()
        for phrase in phrases.ask
    ]
    if not queries:
        return {}
    ranks = []
    for name, phrase in queries:
        order = preselector.nearest(phrase, max(RECALL_AT))
        ranks.append(order.index(name) if name in order else len(catalogue.names))
    return {"phrases": len(queries)} | {
        f"at_{k}": round(sum(rank < k for rank in ranks) / len(ranks), 4) for k in RECALL_AT if k < len(catalogue.names)
    }


def choose_tool_display(data: Data, catalogue: Catalogue | None, renderer: Renderer) -> str:
    """Return how the model is shown the catalogue: "schemas", "signatures" or "nearest". Sets the renderer to it."""
    if catalogue is None or data.catalogue == "learned":
        return "schemas"
    if data.show == "signatures":
        renderer.show_signatures()
    if data.show != "auto":
        return data.show
    renderer.catalogue = catalogue
    if _catalogue_tokens(catalogue, renderer) <= data.max_tokens // 2:
        return "schemas"
    renderer.show_signatures()
    return "signatures" if _catalogue_tokens(catalogue, renderer) <= data.max_tokens // 2 else "nearest"


def _catalogue_tokens(catalogue: Catalogue, renderer: Renderer) -> int:
    """Return the tokens of a short conversation that shows the whole catalogue."""
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    return len(renderer(Row.model_validate({"messages": turns, "tools": list(catalogue.names)})).ids)


def _tool_texts(name: str, catalogue: Catalogue) -> list[str]:
    tool = catalogue.tools[name]
    summary = f"{name.replace('.', ' ')} {tool.description} {' '.join(tool.properties)}"
    return [summary, *(text for phrases in tool.phrases.values() for text in (phrases.what, *phrases.say))]
