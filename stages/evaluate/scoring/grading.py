"""Grades a reply: whether exactly the expected calls were made, or the text has what was asked for."""

from collections import Counter
from typing import Any

from tuneline.engines.tool_calls import MISTRAL, TAG
from tuneline.stages.evaluate.answers import IN_WORDS, PARALLEL, Answer, Reply
from tuneline.stages.evaluate.scoring.answer_checks import find_fault
from tuneline.stages.evaluate.scoring.arguments import same_calls
from tuneline.stages.evaluate.suites.item import Item
from tuneline.stages.evaluate.suites.run_context import NO_RUN, RunContext

LOGGED_SHOWN = 120
"""Characters of a logged answer that stand for it in tables."""


def grade(item: Item, reply: Reply, run_context: RunContext = NO_RUN) -> Answer:
    """Return the reply as a graded answer.

    `name_correct`: exactly the expected calls were made, by name; where text is expected, no call was made and the
    checks find no fault; where no tool fits, no call was made and the text says something of its own. `exact`: the
    arguments are equal too.
    """
    calls, expected_calls, fault = reply.calls, item.expected_calls, None
    if expected_calls:
        name_correct = Counter(call["name"] for call in calls) == Counter(call["name"] for call in expected_calls)
    else:
        # Where no tools are sent, the server parses no calls.
        is_call = calls or reply.text.lstrip().startswith((TAG, MISTRAL))
        fault = "a call" if is_call else find_fault(item, reply, run_context)
        name_correct = reply.error is None and fault is None
    return Answer(
        id=item.id,
        prompt=item.text,
        expected=_expected(item),
        phrasing=item.phrasing,
        calls=calls,
        text=reply.text,
        name_correct=name_correct,
        exact=name_correct and same_calls(expected_calls, calls, run_context.schemas),
        json_valid=bool(calls) and all(isinstance(call["arguments"], dict) for call in calls),
        tokens=reply.tokens,
        latency_s=round(reply.latency_s, 4),
        error=reply.error,
        fault=fault,
        prompt_tokens=reply.prompt_tokens,
        cost_usd=reply.cost_usd,
        language=item.language,
        about=item.about | ({"turn": item.turn, "talk": item.conversation} if item.turn else {}),
        measures=_style_measures(item, reply, run_context),
    )


def _expected(item: Item) -> dict[str, Any]:
    """Return the answer's `expected`: name and arguments; where they do not say all, also `kind` and `words`."""
    expected = {"name": item.tool, "arguments": item.arguments}
    if item.calls:
        words = [_call_text(call) for call in item.calls]
        return expected | {"kind": PARALLEL, "calls": list(item.calls), "words": words}
    if not item.expects_text:
        return expected
    words = [*item.says, *(f"not {word}" for word in item.never), *([item.price] if item.price else [])]
    words += [f"in {item.language}"] if item.in_language else []
    words += [f"in the style {item.style}"] if item.style else []
    words += [f"as logged: {item.reference[:LOGGED_SHOWN]}"] if item.repeats_log and item.reference else []
    expected |= {"reference": item.reference} if item.reference else {}
    return expected | {"kind": IN_WORDS, "words": words}


def _call_text(call: dict[str, Any]) -> str:
    return f"{call['name']}({', '.join(f'{k}={v!r}' for k, v in (call['arguments'] or {}).items())})"


def _style_measures(item: Item, reply: Reply, run_context: RunContext) -> dict[str, Any]:
    if not item.style or not reply.text.strip():
        return {}
    styles = run_context.styles
    return {
        "style": item.style,
        "told": styles.predict(reply.text),
        "distance": styles.distance(reply.text, item.style),
    }
