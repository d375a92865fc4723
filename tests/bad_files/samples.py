"""Whole files of every kind that users bring: small, and with every key that their readers know."""

import csv
import gzip
import io
import json
from typing import Any

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from tuneline.core.paths import ROOT
from tuneline.stages.checkpoints.safetensors_files import list_tensors

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
TRAINERS = {
    "axolotl.yaml": b"""
base_model: tiny
adapter: lora
lora_r: 16
lora_alpha: 32
lora_target_linear: true
datasets:
  - {path: rows.jsonl, type: chat_template, field_messages: messages}
sequence_len: 512
micro_batch_size: 2
gradient_accumulation_steps: 4
num_epochs: 2
learning_rate: 2e-4
lr_scheduler: cosine
optimizer: adamw_torch
""",
    "llama_factory.yaml": b"""
model_name_or_path: tiny
stage: sft
finetuning_type: lora
lora_rank: 8
lora_target: all
dataset: rows
template: llama3
cutoff_len: 512
per_device_train_batch_size: 2
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
""",
}
TAKEN = {"stage": "train", "began": 1764500000.0, "seconds": 60.0, "usd_per_hour": 3.95, "state": "ended"}
LEDGER = json.dumps(
    {
        "at": 1764500060.0,
        "kind": "run",
        "name": "demo",
        "attempt": "1",
        "where": "modal",
        "price": "hardware.yaml",
        "taken": TAKEN,
    }
).encode()
SCORES = json.dumps(
    {
        "name": "router",
        "at": "2026-11-30T10:00:00Z",
        "run": "demo",
        "version": 1,
        "suites": {"unseen": {"n": 16, "name_accuracy": 0.5, "name_low": 0.3, "name_high": 0.7, "exact_accuracy": 0.2}},
        "worse": ["unseen: 0.5, was 0.9 (version 1)"],
    }
).encode()
FAILURE = b'{"at": "2026-11-30T10:00:00Z", "kind": "StageFailed", "message": "no"}'


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


def arrow() -> bytes:
    out = io.BytesIO()
    rows = pa.table({"prompt": [f"q {i}" for i in range(9)], "completion": ["è così"] * 9})
    with pa.ipc.new_stream(out, rows.schema) as stream:
        stream.write_table(rows)
    return out.getvalue()


def spreadsheet() -> bytes:
    book, out = openpyxl.Workbook(), io.BytesIO()
    for row in (("prompt", "completion"), *((f"q {i}", i) for i in range(9))):
        book.active.append(row)
    book.save(out)
    return out.getvalue()


def book() -> bytes:
    chapters = [f"CHAPTER {n}\n\nIt was a dark night. {'The rain fell on the town. ' * 30}\n\n{n}\n" for n in range(9)]
    return "\n".join(["---\ntitle: x\n---\n", *chapters]).encode()


def data_files() -> dict[str, bytes]:
    """Whole data files by name, of every container and compression."""
    plain = {
        "rows.jsonl": json_lines(),
        "rows.json": sharegpt(),
        "alpaca.json": alpaca(),
        "rows.csv": table(),
        "rows.tsv": table("\t"),
        "book.txt": book(),
        "book.md": book(),
    }
    compressed = {f"{name}.gz": gzip.compress(plain[name], mtime=0) for name in ("rows.jsonl", "rows.json", "book.txt")}
    compressed |= {f"{name}.zst": zstandard.compress(plain[name]) for name in ("rows.json", "rows.csv")}
    return plain | compressed | {"rows.parquet": parquet(), "rows.arrow": arrow(), "rows.xlsx": spreadsheet()}


def base(first: str) -> dict[str, bytes]:
    """The files of the tiny base, `first` before the others."""
    names = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja")
    files = {name: (TINY / name).read_bytes() for name in (*names, "model.safetensors")}
    if first == "model.safetensors.index.json":
        weights = {tensor.name: "model.safetensors" for tensor in list_tensors(TINY / "model.safetensors")}
        files[first] = json.dumps({"metadata": {"total_size": 1}, "weight_map": weights}).encode()
    return {first: files.pop(first)} | files


def rating() -> dict[str, bytes]:
    """A rating, and the key of its ballot in a run's folder."""
    votes = {"ballot": BALLOT, "rater": "ann", "votes": {"000": "left", "001": "equal"}}
    key = {"ballot": BALLOT, "a": "old:base", "b": "old:tuned", "a_is_left": {"000": True, "001": False}}
    return {
        "rating.json": json.dumps(votes).encode(),
        f"runs/old/ballot-{BALLOT}.key.json": json.dumps(key).encode(),
    }


def prompts() -> bytes:
    """A batch of questions, in both forms."""
    rows = [{"prompt": "è?", "system": "Be brief.", "max_tokens": 5}, {"messages": [{"role": "user", "content": "q"}]}]
    return "".join(json.dumps(row | {"id": f"r-{n}"}) + "\n" for n, row in enumerate(rows * 3)).encode()


def adapter(first: str) -> dict[str, bytes]:
    """An adapter of the tiny base, and a recipe of its run; `first` before the others."""
    from safetensors.numpy import save

    module = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {tensor.name: tensor for tensor in list_tensors(TINY / "model.safetensors")}
    rows, columns = tensors["model.layers.0.self_attn.q_proj.weight"].shape
    halves = {"A": (4, columns), "B": (rows, 4)}
    weights = {f"{module}.lora_{half}.weight": np.ones(shape, np.float32) for half, shape in halves.items()}
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"}
    settings |= {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"k_proj": 2}, "modules_to_save": ["embed_tokens"]}
    files = {"adapter_config.json": json.dumps(settings).encode(), "adapter_model.safetensors": save(weights)}
    return {first: files.pop(first)} | files


def labels() -> bytes:
    label = {"suite": "s", "prompt": "p", "answer": "a\u2028b"}
    rows = [{**label, "id": f"s-{i}", "good": (True, False, None)[i % 3]} for i in range(9)]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def keys() -> bytes:
    return json.dumps({"ann": {"sha256": "0" * 64, "added": "2026-11-30T10:00:00+00:00"}}).encode()


def promotion() -> bytes:
    version = {"number": 1, "run": "r", "form": "gguf", "file": "convert/tuned-Q8_0.gguf", "context": 2048}
    version |= {"convert": "c", "evaluate": "e", "at": "2026-11-30T10:00:00Z", "files": {"a": "0" * 64}}
    return json.dumps({"name": "demo", "versions": [version]}).encode()


def published() -> bytes:
    step = {"content": "0" * 64, "at": "2026-11-30T10:00:00Z", "values": {"model": "you/demo"}}
    compared = {"prompts": 40, "same": 39, "required": 36, "answers_of": "tuned-F16", "different": ["a-0001"]}
    record = {"state": "published", "began": "2026-11-30T10:00:00Z", "steps": {"create": step}, "compared": compared}
    return json.dumps({"targets": {"hub": record}}).encode()
