"""The cheap baseline: TF-IDF and logistic regression trained on the same rows, asked the same items."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tuneline.stages.evaluate.statistics import interval
from tuneline.stages.evaluate.suites.item import Item, Suites
from tuneline.stages.evaluate.suites.training_pairs import training_pairs

Row = dict[str, Any]


def classifier_table(prepared: Path, suites: Suites, confidence: float) -> list[Row]:
    """Return the classifier's accuracy on the items of each suite that expect one call.

    Empty where the training rows have fewer than two tools, or there are no suites.
    """
    texts, tools = training_pairs(prepared / "train.jsonl")
    if len(set(tools)) < 2 or not suites:
        return []
    by_suite = {suite: [item for item in items if item.tool] for suite, items in suites.items()}
    predicted = iter(predict_tools(texts, tools, [item for items in by_suite.values() for item in items]))
    rows = []
    for suite, items in by_suite.items():
        correct = [next(predicted) == item.tool for item in items]
        if items:
            rows.append(_row(suite, correct, [item.phrasing for item in items], confidence))
    return rows


def _row(suite: str, correct: Sequence[bool], phrasings: Sequence[str], confidence: float) -> Row:
    n, (low, high) = len(correct), interval(correct, phrasings, confidence)
    return {
        "suite": suite,
        "n": n,
        "accuracy": round(sum(correct) / n if n else 0.0, 6),
        "low": round(low, 6),
        "high": round(high, 6),
    }


def predict_tools(texts: Sequence[str], tools: Sequence[str], items: Iterable[Item]) -> list[str]:
    """Return the tool that a classifier trained on `texts` and `tools` predicts for each item."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    # Words and pairs of words: character n-grams add little here and ten times the training time.
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=1000)
    )
    model.fit(list(texts), list(tools))
    return [str(tool) for tool in model.predict([item.text for item in items])]
