"""The cheap peer: TF-IDF and logistic regression on the same training rows, asked the same items."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tuneline.engines.tool_calls import ToolCall
from tuneline.stages.evaluate.suites.items import Item


def training_pairs(rows: Path) -> tuple[list[str], list[str]]:
    """Texts of users and the tool that answers each; rows with no call or with several are left out."""
    pairs = [pair for line in rows.open(encoding="utf-8") if (pair := _pair(json.loads(line)["messages"]))]
    return [text for text, _ in pairs], [tool for _, tool in pairs]


def predict(texts: Sequence[str], tools: Sequence[str], items: Iterable[Item]) -> list[str]:
    """The tool a classifier trained on `texts` and `tools` names for each item."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    # Words and pairs of words: character n-grams add little here and ten times the training time.
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=1000)
    )
    model.fit(list(texts), list(tools))
    return [str(tool) for tool in model.predict([item.text for item in items])]


def _pair(messages: list[dict[str, Any]]) -> tuple[str, str] | None:
    users = [m["content"] for m in messages if m["role"] == "user"]
    calls = [call for m in messages if m["role"] == "assistant" for call in m.get("tool_calls") or ()]
    if len(users) != 1 or len(calls) != 1:
        return None
    return users[0], ToolCall.from_openai(calls[0]).name
