"""A conversation's steps as a tree."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text
from rich.tree import Tree

SHOWN = 120
"""Characters of a text in a line."""


def render_trace(conversation: str, steps: Sequence[Mapping[str, Any]]) -> Tree:
    """Return a tree: questions and confirmations, under them rounds of the model, under these the calls."""
    tree = Tree(Text(conversation))
    question, turn = tree, tree
    for step in steps:
        line = Text(_describe(step))
        if step["kind"] == "summary":
            tree.add(line)
        elif step["kind"] in ("question", "confirmation"):
            question = turn = tree.add(line)
        elif step["kind"] == "model":
            turn = question.add(line)
        else:
            (question if step["kind"] == "end" else turn).add(line)
    return tree


def _describe(step: Mapping[str, Any]) -> str:
    kind = step["kind"]
    if kind == "question":
        return f"question  {_cut(step['text'])}"
    if kind == "model":
        tokens = f"{step.get('prompt_tokens', 0)}+{step.get('completion_tokens', 0)} tokens"
        outcome = f"calls {', '.join(step['calls'])}" if step.get("calls") else _cut(step.get("text", "no answer"))
        return f"model     round {step['round']}, {step['tools']} tools, {tokens}, {step['ms']:.0f} ms: {outcome}"
    if kind == "summary":
        return f"summary   of {step['dropped_messages']} messages, {step['ms']:.0f} ms: {_cut(step.get('text', ''))}"
    if kind == "call":
        cut = " (cut)" if step.get("result_characters", 0) > len(step.get("result", "")) else ""
        result = f"{'→' if step.get('ok') else '!'} {_cut(step.get('result', ''))}{cut}"
        return f"call      {step['tool']}({step['arguments']}) {step['ms']:.0f} ms {result}"
    if kind == "waiting":
        return f"waits     {step['tool']}({step['arguments']}): {step['why']}"
    if kind == "confirmation":
        return f"{'confirmed' if step['confirmed'] else 'declined '} {step['tool']}"
    return f"end       {step.get('reason', '')}, {step.get('rounds', 0)} rounds, {step.get('tokens', 0)} tokens"


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}…"
