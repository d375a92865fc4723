"""Selects the tools that a row shows to the model, besides those it calls."""

import random
from collections.abc import Iterable

from tuneline.configs.catalogue import Catalogue
from tuneline.stages.prepare.rendering.tool_preselector import Preselector
from tuneline.stages.prepare.rows import Row


def add_distractors(
    row: Row, catalogue: Catalogue, distractors: tuple[int, int], whole_share: float, rng: random.Random
) -> Row:
    """Return the row with the tools it calls among random other tools, in random order.

    `distractors` are the fewest and the most other tools. With probability `whole_share` the row shows the whole
    catalogue, in its order, instead.
    """
    called = list(dict.fromkeys(row.called))
    if rng.random() < whole_share:
        return row.model_copy(update={"tools": list(catalogue.names)})
    others = [name for name in catalogue.names if name not in called]
    count = min(len(others), rng.randint(*distractors))
    tools = called + rng.sample(others, count)
    rng.shuffle(tools)
    return row.model_copy(update={"tools": tools})


def add_nearest(row: Row, preselector: Preselector, count: int, tools: Iterable[str]) -> Row:
    """Return the row with the `count` tools nearest to its first request, the tools it calls always among them.

    They are in the order of `tools`, the names of the whole catalogue. A row with at most `count` tools keeps them.
    """
    if row.tools and len(row.tools) <= count:
        return row
    request = next((message.content or "" for message in row.messages if message.role == "user"), "")
    called = list(dict.fromkeys(row.called))
    others = [name for name in preselector.nearest(request, count) if name not in called]
    selected = {*called, *others[: max(0, count - len(called))]}
    return row.model_copy(update={"tools": [name for name in tools if name in selected]})
