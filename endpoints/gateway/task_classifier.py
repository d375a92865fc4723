"""The task of a request that names none, by its words: a small classifier of the examples in `gateway.yaml`."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from tuneline.configs.evaluation import Evaluate
from tuneline.configs.gateway import OTHER, Recognition
from tuneline.configs.section import explain_first
from tuneline.core.errors import BadRecipe, TunelineError
from tuneline.core.paths import resolve
from tuneline.endpoints.gateway.catalogue_examples import Example, read_catalogue_examples
from tuneline.stages.evaluate.suites.suite_items import make_items
from tuneline.stages.prepare.checks.toolbox import Toolbox
from tuneline.stages.prepare.formats.reader import SourceRow, read_file

FOLDS = 5
FEWEST = 20
"""Examples of a task without which it is not learned."""
MAX_CHARACTERS = 2000
"""Of a request's text that are looked at."""


@dataclass(frozen=True)
class Quality:
    """How a task's examples were recognised by classifiers that had not learned them."""

    task: str
    examples: int
    recognized: int
    """Those that were given a task at all; the others are `other`."""
    right: int


class TaskClassifier:
    """Character n-grams and logistic regression; requests it is unsure of are `other`."""

    def __init__(self, recognition: Recognition) -> None:
        """Raises BadRecipe if there are too few examples, or a file of them cannot be read."""
        self.examples = [*read_examples(recognition)]
        self._least = recognition.least_confidence
        self._model = _make_model().fit(*_columns(self.examples))

    def recognize(self, text: str) -> str:
        """Return the task of a text, or `other`."""
        if not text.strip():
            return OTHER
        [chances] = self._model.predict_proba([text[:MAX_CHARACTERS]])
        best = int(chances.argmax())
        return str(self._model.classes_[best]) if chances[best] >= self._least else OTHER

    def measure(self) -> list[Quality]:
        """Return the quality of each task, by cross-validation in which variants of one request stay together."""
        from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

        texts, tasks = _columns(self.examples)
        groups, folds = [example.group for example in self.examples], StratifiedGroupKFold(FOLDS)
        chances = cross_val_predict(_make_model(), texts, tasks, groups=groups, cv=folds, method="predict_proba")
        names, sure = np.unique(tasks), chances.max(axis=1) >= self._least
        said, right = names[chances.argmax(axis=1)], np.array(tasks)
        return [
            Quality(
                str(name),
                examples=int((right == name).sum()),
                recognized=int(((right == name) & sure).sum()),
                right=int(((right == name) & sure & (said == name)).sum()),
            )
            for name in names
        ]


def read_examples(recognition: Recognition) -> Iterator[Example]:
    """Yield the examples of all tasks, from files and from the catalogue.

    Raises:
        BadRecipe: a file cannot be read, or a task has too few examples.
    """
    files: Mapping[str, Sequence[Path]] = recognition.examples
    examples = [example for task, paths in files.items() for path in paths for example in _read_checked(task, path)]
    examples += read_catalogue_examples(recognition)
    counts = Counter(example.task for example in examples)
    for task in sorted(recognition.tasks):
        if counts[task] < FEWEST:
            raise BadRecipe(f"recognition: {task}: {counts[task]} requests; {FEWEST} are the fewest")
    yield from examples


def _read_checked(task: str, path: Path) -> list[Example]:
    try:
        return list(_read(task, path))
    except (TunelineError, ValidationError) as error:
        reason = explain_first(error) if isinstance(error, ValidationError) else str(error)
        raise BadRecipe(f"recognition.examples.{task}: {reason}") from None


def _read(task: str, path: Path) -> Iterator[Example]:
    """Yield the requests of a suite (YAML), or the first user messages of a file of rows."""
    if path.suffix in (".yaml", ".yml"):
        [suite] = Evaluate.model_validate({"suites": [str(path)]}).suites
        for item in make_items(suite):
            yield Example(item.text, task, item.phrasing or item.text)
        return
    results = list(read_file(resolve(path), Toolbox(None)))
    rows = [result.row for result in results if isinstance(result, SourceRow)]
    if not rows and results:
        raise BadRecipe(str(results[0]))
    for row in rows:
        if text := next((m.content for m in row.messages if m.role == "user" and m.content), None):
            yield Example(text, task, text)


def _columns(examples: Sequence[Example]) -> tuple[list[str], list[str]]:
    return [example.text[:MAX_CHARACTERS] for example in examples], [example.task for example in examples]


def _make_model() -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    grams = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=2)
    return make_pipeline(grams, LogisticRegression(C=10, max_iter=1000, class_weight="balanced"))
