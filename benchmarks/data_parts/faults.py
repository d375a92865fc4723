"""Planted faults of 25 kinds, and how many of them the examination reports."""

import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common.rounds import print_result
from benchmarks.data_parts.rows import ENGLISH, GERMAN, ITALIAN, RARE, Rng, chat_row, sentence, tool_row, turn

FAULTS_A_KIND = 40


def with_turns(change: Callable[[Rng, list[dict[str, Any]]], Any]) -> Callable[[Rng], bytes]:
    def make(rng: Rng) -> bytes:
        row = chat_row(rng)
        change(rng, row["messages"])
        return encoded(row)

    return make


def with_tool(change: Callable[[Rng, dict[str, Any]], Any]) -> Callable[[Rng], bytes]:
    def make(rng: Rng) -> bytes:
        row = tool_row(rng)
        change(rng, row)
        return encoded(row)

    return make


def encoded(row: Any) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode()


def ending_with(text: str) -> Callable[[Rng], bytes]:
    return with_turns(lambda rng, turns: turns[-1].update(content=f"{turns[-1]['content']} {text}"))


def arguments(values: Any) -> Callable[[Rng], bytes]:
    def change(rng: Rng, row: dict[str, Any]) -> None:
        row["messages"][1]["tool_calls"][0]["function"]["arguments"] = values

    return with_tool(change)


def unknown_tool(rng: Rng) -> bytes:
    return encoded(tool_row(rng, name=f"get_{rng.choice(ENGLISH)}_price"))


def german(rng: Rng) -> bytes:
    return encoded({"messages": [turn("user", sentence(rng, GERMAN)), turn("assistant", sentence(rng, GERMAN))]})


def wrongly_decoded(rng: Rng) -> bytes:
    text = f"È già così, perché il caffè {sentence(rng, ITALIAN)}"
    wrong = text.encode().decode("cp1252", errors="ignore")
    return encoded({"messages": [turn("user", sentence(rng, ITALIAN)), turn("assistant", wrong)]})


def nearly(rng: Rng, rows: list[bytes]) -> bytes:
    """A row of at least fifty words, with one of them changed."""
    while True:
        row = json.loads(rng.choice(rows))
        words = row["messages"][-1].get("content", "").split()
        if "tools" not in row and len(words) >= 50:
            words[rng.randrange(len(words))] = rng.choice(ENGLISH)
            row["messages"][-1]["content"] = " ".join(words)
            return encoded(row)


KINDS: dict[str, Callable[[Rng], bytes]] = {
    "a line cut short": lambda rng: encoded(chat_row(rng))[: -rng.randint(2, 30)],
    "a byte of another encoding": lambda rng: encoded(chat_row(rng)).replace(b"e", b"\xe9", 1 + rng.randrange(3)),
    "an unknown role": with_turns(lambda rng, turns: turns[0].update(role=rng.choice(["bot", "Human", "narrator"]))),
    "two users in a row": with_turns(lambda rng, turns: turns.insert(1, turn("user", "and this too"))),
    "the assistant first": with_turns(lambda rng, turns: turns.pop(0)),
    "a late system message": with_turns(lambda rng, turns: turns.insert(1, turn("system", "be kind"))),
    "no answer": with_turns(lambda rng, turns: turns.pop()),
    "an empty answer": with_turns(lambda rng, turns: turns[-1].update(content=rng.choice(["", " ", "\n"]))),
    "an empty question": with_turns(lambda rng, turns: turns[0].update(content="")),
    "an unknown tool": unknown_tool,
    "a missing argument": arguments({"count": 2}),
    "a wrong type": arguments({"item": "chair", "count": "two"}),
    "an unknown argument": arguments({"item": "chair", "colour": "red"}),
    "arguments that are no JSON": arguments('{"item": "chair"'),
    "a result without a call": with_tool(lambda rng, row: row["messages"].pop(1)),
    "a call without a result": with_tool(lambda rng, row: row["messages"].pop(2)),
    "two results of one call": with_tool(lambda rng, row: row["messages"].insert(3, turn("tool", "twice"))),
    "a control token": ending_with("<|start_header_id|>user<|end_header_id|>"),
    "an image": with_turns(
        lambda rng, turns: turns[0].update(content=[{"type": "image_url", "image_url": {"url": "x"}}])
    ),
    "text decoded wrongly": wrongly_decoded,
    "a lost character": ending_with("\ufffd"),
    "a secret": lambda rng: ending_with("AKIA" + "".join(rng.choices("ABCDEFGHIJ234567", k=16)))(rng),
    "an address": lambda rng: ending_with(f"{rng.choice(ENGLISH)}.{rng.choice(ITALIAN)}@gmail.com")(rng).replace(
        "ù".encode(), b"u"
    ),
}
STATISTICAL = ("a near-duplicate", "another language")


def measure(rows: int, seed: int) -> None:
    """Plant faults, examine, and count what was reported where something was planted, and elsewhere."""
    from tuneline.configs.data import Data, Source
    from tuneline.stages.prepare.checks.problems import Findings, Problem
    from tuneline.stages.prepare.examination import Examination

    rows, rng = rows or 50_000, random.Random(seed)
    clean = [encoded(tool_row(rng) if i % 5 == 0 else chat_row(rng)) for i in range(rows)]
    planted: dict[int, str] = {}
    later = rng.sample(range(rows // 2, rows), FAULTS_A_KIND * (len(KINDS) + len(STATISTICAL)))
    makers = KINDS | {
        "a near-duplicate": lambda rng: nearly(rng, clean[: rows // 2]),
        "another language": german,
    }
    for name in RARE:  # a tool with a handful of rows, where the others have hundreds
        for place in rng.sample([i for i in range(rows // 2) if i % 5 == 0], 3):
            clean[place] = encoded(tool_row(rng, listed=name))
    lines = list(clean)
    for kind, make in makers.items():
        for _ in range(FAULTS_A_KIND):
            place = later.pop()
            lines[place], planted[place + 1] = make(rng), kind

    reported: dict[int, list[str]] = {}

    class All(Findings):
        def add(self, problem: Problem) -> None:
            super().add(problem)
            reported.setdefault(problem.line, []).append(str(problem))

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        file.write_bytes(b"\n".join(lines) + b"\n")
        data = Data(sources=(Source(path=file),), languages=("en", "it"), max_tokens=4096)
        examination = Examination(data, None, None)
        examination.findings = All()
        for _ in examination.rows():
            pass
        examination.finish()
    caught = Counter(kind for line, kind in planted.items() if line in reported)
    rare = [next((text for text in reported.get(0, ()) if repr(name) in text), "") for name in RARE]
    alarms = [text for line, texts in reported.items() if line not in planted for text in texts if text not in rare]
    for kind in makers:
        print(f"{kind:<28} {caught[kind]} of {FAULTS_A_KIND}")
    for text in alarms[:10]:
        print("false alarm:", text)
    structural = sum(caught[kind] for kind in KINDS) / (FAULTS_A_KIND * len(KINDS))
    statistical_faults = FAULTS_A_KIND * len(STATISTICAL) + len(RARE)
    statistical = (sum(caught[kind] for kind in STATISTICAL) + sum(map(bool, rare))) / statistical_faults
    print(f"{'a rare tool':<28} {sum(map(bool, rare))} of {len(RARE)}")
    print_result(
        "data faults",
        structural,
        1.0,
        met=structural == 1.0 and statistical >= 0.95 and len(alarms) <= 5,
        rows=rows,
        seed=seed,
        planted=len(planted),
        statistical=round(statistical, 4),
        false_alarms=len(alarms),
    )
