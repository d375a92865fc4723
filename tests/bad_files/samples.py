"""Whole files of every kind that users bring: small, and with every key that their readers know."""

import csv
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tuneline.core.paths import ROOT

TINY = ROOT / "data/tiny"
BALLOT = "0123456789"
CALL = {"id": "c1", "function": {"name": "whatsapp.send", "arguments": {"to": "Anna", "message": "ciao"}}}
TRANSCRIPT = "[THINK] so [CALL] email.send(to='Bo', subject='x') [RESULT] ok [RESPONSE] Done."
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"$ref": "#/$defs/c"}}}
TOOL = {"type": "function", "function": {"name": "get_x", "parameters": SCHEMA | {"$defs": {"c": {"enum": ["x"]}}}}}

RECIPE = (ROOT / "configs/recipes/demo.yaml").read_bytes()
RECIPE_WITH_SUITE = b"data: {sources: [{path: rows.jsonl}]}\nevaluate: {suites: [suite.yaml]}\n"
SUITE = b"""
name: trial
grammar: grammar.yaml
rows: 4
parallel: 2
items:
  - ask: ["price of {what}?", "{what}, how much?"]
    says: ["{cost}"]
    each: [{what: a villa, cost: "9"}, {what: tea, cost: "1"}]
  - {ask: send it, call: email.send, arguments: {to: Anna}, then: [{ask: and him, call: email.send}]}
"""
GRAMMAR = b"""
openers: ["", "please"]
closers: ["", " now"]
fillers: [well, so]
noise: 0.3
both: ["{first} and {second}"]
values:
  person: "(Anna|Bo|{noun} <1-28>)"
  noun: "(plan|(old|new) report)"
handlers:
  email.send:
    slots: {to: person, subject: noun}
    say: ["mail {to} about {subject}", "(write|send) {to} a (mail|note) on {subject}"]
  docs.create:
    slots: {title: noun}
    say: ["new document {title}", "a (doc|page) called {title}"]
"""


def messages(number: int) -> dict[str, Any]:
    """A row with calls, a transcript and a tool of its own, or one whose messages are JSON text, as in tables."""
    if number % 2:
        turns = [
            {"role": "user", "content": f"tell Anna number {number}, perché no?"},
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": '{"ok": true}'},
            {"role": "assistant", "content": TRANSCRIPT},
        ]
        return {"messages": turns, "tools": ["whatsapp.send", TOOL], "style": "plain"}
    parts = [{"type": "text", "text": "hi, mail me at ann@firm.it"}]
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    return {"messages": json.dumps([*turns, {"role": "assistant", "content": "Sì, è così."}])}


def json_lines() -> bytes:
    return "".join(json.dumps(messages(number), ensure_ascii=False) + "\n" for number in range(6)).encode()


def sharegpt() -> bytes:
    call = {"from": "function_call", "value": '{"name": "docs.create", "arguments": {"title": "x"}}'}
    turns = [{"from": "human", "value": "q"}, call, {"from": "observation", "value": "ok"}]
    row = {"system": "Be brief.", "conversations": [*turns, {"from": "gpt", "value": "answer"}]}
    return json.dumps([row] * 5, indent=1).encode()


def alpaca() -> bytes:
    row = {"instruction": "say", "input": "more", "output": "yes", "history": [["a", "b"]], "system": "s"}
    return json.dumps([row, row, {"prompt": "x", "completion": "y"}]).encode()


def table(delimiter: str = ",") -> bytes:
    out = io.StringIO()
    pairs = [(f"question, {i}", f'answer {i}\non two lines, "quoted"') for i in range(5)]
    csv.writer(out, delimiter=delimiter).writerows([("prompt", "completion"), *pairs])
    return out.getvalue().encode()


def parquet() -> bytes:
    turns = [[{"role": "user", "content": f"q {i}"}, {"role": "assistant", "content": "ò" * i + "a"}] for i in range(9)]
    out = io.BytesIO()
    columns = {"messages": turns, "made": pa.array(range(9), pa.timestamp("ns", "UTC")), "raw": [b"\xff"] * 9}
    pq.write_table(pa.table(columns), out, compression="zstd")
    return out.getvalue()


def book() -> bytes:
    chapters = [f"CHAPTER {n}\n\nIt was a dark night. {'The rain fell on the town. ' * 30}\n\n{n}\n" for n in range(9)]
    return "\n".join(["---\ntitle: x\n---\n", *chapters]).encode()


def base(first: str) -> dict[str, bytes]:
    """The files of the tiny base, `first` before the others."""
    names = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja")
    files = {name: (TINY / name).read_bytes() for name in (*names, "model.safetensors")}
    return {first: files.pop(first)} | files


def rating() -> dict[str, bytes]:
    """A rating, and the key of its ballot in a run's folder."""
    votes = {"ballot": BALLOT, "rater": "ann", "votes": {"000": "left", "001": "equal"}}
    key = {"ballot": BALLOT, "a": "old:base", "b": "old:tuned", "a_is_left": {"000": True, "001": False}}
    return {
        "rating.json": json.dumps(votes).encode(),
        f"runs/old/ballot-{BALLOT}.key.json": json.dumps(key).encode(),
    }


def labels() -> bytes:
    label = {"suite": "s", "prompt": "p", "answer": "a\u2028b"}
    rows = [label | {"id": f"s-{i}", "good": (True, False, None)[i % 3]} for i in range(9)]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
