"""Which tools of a catalogue a request is shown where not all fit: the nearest by character n-grams.

Trained from the catalogue alone: each tool's name, description and arguments, and the phrases people train with. How
often the right tool is among the first k is measured on the phrases kept for tests (`ask`).
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
"""Characters of the shortest and the longest n-gram, inside of words."""
EXAMPLES = 60
"""Requests of a tool that are read; more of the same add time and no tool."""
RECALL_AT = (1, 4, 8, 16, 32)
FILE = "preselector.json"


class Preselector:
    """Tools by how near they are to a text; `documents` is what is known of each."""

    def __init__(self, documents: Mapping[str, Sequence[str]]) -> None:
        self.documents = {name: list(texts) for name, texts in documents.items()}

    @classmethod
    def of(cls, catalogue: Catalogue, examples: Iterable[tuple[str, str]] = ()) -> "Preselector":
        """From a catalogue, and from texts, each with the tool that answers it."""
        documents = {name: _said(name, catalogue) for name in catalogue.names}
        counted: Counter[str] = Counter()
        for text, tool in examples:
            if tool in documents and counted[tool] < EXAMPLES:
                documents[tool].append(text)
                counted[tool] += 1
        return cls(documents)

    @classmethod
    def read(cls, prepared: Path) -> "Preselector":
        """The one a run was prepared with."""
        return cls(json.loads((prepared / FILE).read_text("utf-8")))

    def nearest(self, text: str, most: int | None = None) -> list[str]:
        """Names of the tools nearest to a text, the nearest first; of all, if not told how many."""
        import numpy as np

        vectorizer, matrix, owners = self._trained
        likeness = (matrix @ vectorizer.transform([text]).T).toarray()[:, 0]
        best = np.zeros(len(self.documents))
        np.maximum.at(best, owners, likeness)
        names = list(self.documents)
        return [names[i] for i in np.argsort(-best, kind="stable")[:most]]

    def shown(self, text: str, most: int, among: Collection[str] | None = None) -> tuple[str, ...]:
        """The nearest (`among` these) in the order of the catalogue, so that like requests have like prompts."""
        chosen = set([name for name in self.nearest(text) if among is None or name in among][:most])
        return tuple(name for name in self.documents if name in chosen)

    @cached_property
    def _trained(self) -> tuple[Any, Any, Any]:
        import numpy as np
        from sklearn.feature_extraction.text import TfidfVectorizer

        texts = [text for said in self.documents.values() for text in said]
        owners = np.repeat(np.arange(len(self.documents)), [len(said) for said in self.documents.values()])
        vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=GRAMS, sublinear_tf=True)
        return vectorizer, vectorizer.fit_transform(texts), owners


def recall(selector: Preselector, catalogue: Catalogue) -> dict[str, float]:
    """Share of the test phrases whose tool is among the first k, by k, and how many phrases there are."""
    asked = [
        (name, phrase)
        for name, tool in catalogue.tools.items()
        for phrases in tool.phrases.values()
        for phrase in phrases.ask
    ]
    if not asked:
        return {}
    ranks = []
    for name, phrase in asked:
        order = selector.nearest(phrase, max(RECALL_AT))
        ranks.append(order.index(name) if name in order else len(catalogue.names))
    return {"phrases": len(asked)} | {
        f"at_{k}": round(sum(rank < k for rank in ranks) / len(ranks), 4) for k in RECALL_AT if k < len(catalogue.names)
    }


def shown_as(data: Data, catalogue: Catalogue | None, renderer: Renderer) -> str:
    """How this catalogue is shown to this model, whose renderer is set to it: schemas, signatures or nearest."""
    if catalogue is None or data.catalogue == "learned":
        return "schemas"
    if data.show == "signatures":
        renderer.show_signatures()
    if data.show != "auto":
        return data.show
    renderer.catalogue = catalogue
    if _tokens(catalogue, renderer) <= data.max_tokens // 2:
        return "schemas"
    renderer.show_signatures()
    return "signatures" if _tokens(catalogue, renderer) <= data.max_tokens // 2 else "nearest"


def _tokens(catalogue: Catalogue, renderer: Renderer) -> int:
    """Of a short conversation that lists the whole catalogue."""
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    return len(renderer(Row.model_validate({"messages": turns, "tools": list(catalogue.names)})).ids)


def _said(name: str, catalogue: Catalogue) -> list[str]:
    tool = catalogue.tools[name]
    about = f"{name.replace('.', ' ')} {tool.description} {' '.join(tool.properties)}"
    return [about, *(text for phrases in tool.phrases.values() for text in (phrases.what, *phrases.say))]
