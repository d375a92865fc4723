"""Selects the tools that a row shows to the model, besides those it calls."""

import random
from collections.abc import Iterable, Sequence

from tuneline.configs.catalogue import Catalogue, dotted_name
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

    They are in the order of `tools`, the names of the whole catalogue. Of its own tools, if it has more than `count`, a
    row keeps those that it calls, those that the preselector does not know, and the nearest.
    """
    request = next((message.content or "" for message in row.messages if message.role == "user"), "")
    called = list(dict.fromkeys(row.called))
    if "tools" in row.model_fields_set:
        return _keep_nearest(row, preselector, count, request, called)
    others = [name for name in preselector.nearest(request, count) if name not in called]
    selected = {*called, *others[: max(0, count - len(called))]}
    return row.model_copy(update={"tools": [name for name in tools if name in selected]})


def _keep_nearest(row: Row, preselector: Preselector, count: int, request: str, called: Sequence[str]) -> Row:
    if len(row.tools) <= count:
        return row
    own = {tool if isinstance(tool, str) else dotted_name(tool["function"]["name"]): tool for tool in row.tools}
    always = {name for name in own if name in called or name not in preselector.documents}
    nearest = preselector.select(request, max(0, count - len(always)), own.keys() - always)
    return row.model_copy(update={"tools": [tool for name, tool in own.items() if name in always or name in nearest]})
