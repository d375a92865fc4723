"""The data side against its peers in one run: rows a second, memory, and planted faults found.

    python benchmarks/data.py speed    validate + deduplicate + render + tokenize, against TRL and datasketch
    python benchmarks/data.py memory   peak memory from 10,000 rows to more
    python benchmarks/data.py faults   1,000 faults of 25 kinds in 50,000 rows

The generator of faults shares no code with the checks. `ROWS=…` makes any of them smaller or larger.
"""

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[0] = str(ROOT)
TARGETS = {"with_deduplication": 5.0, "without": 3.0}
PEAK_GIB, NEAR_BYTES_A_ROW = 1.0, 700
FAULTS_A_KIND = 40


def main() -> None:
    asked = sys.argv[1:2] or ["speed", "memory", "faults"]
    if asked[0] == "one":
        print(json.dumps(one(sys.argv[2], Path(sys.argv[3]))))
        return
    for name in asked:
        {"speed": speed, "memory": memory, "faults": faults}[name](int(os.environ.get("ROWS", 0)))


# -- speed and memory ------------------------------------------------------------------------------------------------


def speed(rows: int) -> None:
    """Ours and the peers on the same rows, in turn, each in a process of its own."""
    rows = rows or 100_000
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        write_chat(file, rows, random.Random(0))
        for name, ours, theirs in (
            ("with_deduplication", "ours", ("trl", "datasketch")),
            ("without", "ours_without", ("trl",)),
        ):
            own = alone(ours, file)
            peers = {peer: alone(peer, file) for peer in theirs}
            seconds = sum(peer["seconds"] for peer in peers.values())
            ratio = seconds / own["seconds"]
            told = " + ".join(f"{peer} {found['seconds']:.1f} s" for peer, found in peers.items())
            print(f"{name}: tuneline {own['seconds']:.1f} s ({rows / own['seconds']:.0f} rows/s), {told}")
            result = {"rows": rows, "ratio": round(ratio, 2), "target": TARGETS[name], "met": ratio >= TARGETS[name]}
            print(json.dumps({"benchmark": f"data {name}"} | result))


def memory(rows: int) -> None:
    """Peak memory of a process that examines 10,000 rows and of one that examines more."""
    sizes = (10_000, rows or 1_000_000)
    with tempfile.TemporaryDirectory() as folder:
        peaks = []
        for size in sizes:
            file = Path(folder) / f"{size}.jsonl"
            write_chat(file, size, random.Random(0))
            peaks.append(alone("ours", file)["peak_bytes"])
            print(f"{size} rows, {file.stat().st_size / 1e9:.2f} GB: peak {peaks[-1] / 2**20:.0f} MiB")
    a_row = (peaks[1] - peaks[0]) / (sizes[1] - sizes[0])
    met = peaks[1] <= PEAK_GIB * 2**30 and a_row <= NEAR_BYTES_A_ROW
    print(json.dumps({"benchmark": "data memory", "bytes_a_row": round(a_row), "target": NEAR_BYTES_A_ROW, "met": met}))


def alone(what: str, file: Path) -> dict[str, Any]:
    """One side in a process of its own, so that neither warms the other's caches."""
    done = subprocess.run(
        [sys.executable, __file__, "one", what, str(file)], check=True, capture_output=True, text=True, cwd=ROOT
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def one(what: str, file: Path) -> dict[str, Any]:
    work: dict[str, Callable[[Path], Callable[[], None]]] = {
        "ours": ours,
        "ours_without": ours_without,
        "trl": trl,
        "datasketch": datasketch,
    }
    run = work[what](file)  # imports and tokenizer are not timed, on either side
    started = time.perf_counter()
    run()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def ours(file: Path, *, deduplicate: bool = True) -> Callable[[], None]:
    from configs.recipe import Data, Source
    from stages.prepare import examine
    from stages.prepare.render import Renderer

    renderer = Renderer(ROOT / "data/tiny", None)
    if not deduplicate:
        examine.Index.add = lambda self, text: None  # type: ignore[method-assign]

    def run() -> None:
        examination = examine.Examination(Data(sources=(Source(path=file),), max_tokens=2048), None, renderer)
        for _ in examination.rows():
            pass
        examination.finish()

    return run


def ours_without(file: Path) -> Callable[[], None]:
    return ours(file, deduplicate=False)


def trl(file: Path) -> Callable[[], None]:
    """TRL's own preparation: chat template with assistant masks, tokenized, on two processes."""
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(ROOT / "data/tiny", local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(ROOT / "data/tiny", local_files_only=True)

    def run() -> None:
        with tempfile.TemporaryDirectory() as cache:
            rows = load_dataset("json", data_files=str(file), split="train", cache_dir=cache)
            arguments = SFTConfig(
                output_dir=cache,
                assistant_only_loss=True,
                max_length=None,
                dataset_num_proc=2,
                report_to=[],
                use_cpu=True,
                bf16=False,
            )
            SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)

    return run


def datasketch(file: Path) -> Callable[[], None]:
    """MinHash and LSH with as many permutations, word pairs and threshold as ours."""
    from datasketch import MinHash, MinHashLSH

    def run() -> None:
        index = MinHashLSH(threshold=0.8, num_perm=126)
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines):
                words = " ".join(turn["content"] for turn in json.loads(line)["messages"]).lower().split()
                sketch = MinHash(num_perm=126)
                sketch.update_batch({f"{a} {b}".encode() for a, b in pairwise(words)})
                if not index.query(sketch):
                    index.insert(str(number), sketch)

    return run


# -- rows and faults, by a generator that knows nothing of the checks ------------------------------------------------

ITALIAN_TEXT = """
il la un una che non per con sono come più anche quando dove dopo prima casa giorno mare città amico lettera
strada porta finestra tavolo libro tempo lavoro mattina sera notte acqua pane vento luce voce mano occhio
parola cosa storia viaggio treno stazione piazza mercato prezzo conto ufficio documento richiesta risposta
domanda cliente visto permesso"""
ITALIAN = ITALIAN_TEXT.split()
ENGLISH_TEXT = """
the a an that not for with are like more also when where after before house day sea town friend letter street
door window table book time work morning evening night water bread wind light voice hand eye word thing story
journey train station square market price bill office document request answer question client visa permit
owner garden kitchen"""
ENGLISH = ENGLISH_TEXT.split()
GERMAN_TEXT = """
der die das und nicht mit auch wenn nach vor Haus Tag Meer Stadt Freund Brief Straße Tür Fenster Tisch Buch
Zeit Arbeit Morgen Abend Nacht Wasser Brot Wind Licht Stimme Hand Auge Wort Sache Geschichte Reise Zug Bahnhof
Platz Markt Preis Rechnung Büro Antrag Antwort Frage Kunde Erlaubnis wir haben heute schon wieder keine gute
Nachricht bekommen"""
GERMAN = GERMAN_TEXT.split()
TOOL = {
    "type": "function",
    "function": {
        "name": "get_price",
        "description": "Price of an item.",
        "parameters": {
            "type": "object",
            "properties": {"item": {"type": "string"}, "count": {"type": "integer"}},
            "required": ["item"],
        },
    },
}
Rng = random.Random


def sentence(rng: Rng, words: list[str], low: int = 14, high: int = 60) -> str:
    return " ".join(rng.choices(words, k=rng.randint(low, high))).capitalize() + "."


def turn(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def chat_row(rng: Rng) -> dict[str, Any]:
    words = rng.choice((ITALIAN, ENGLISH))
    turns = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        turns += [turn("user", sentence(rng, words, 6, 25)), turn("assistant", sentence(rng, words))]
    return {"messages": turns}


def tool_row(rng: Rng, arguments: Any = None, name: str = "get_price") -> dict[str, Any]:
    item = " ".join(rng.choices(ENGLISH, k=3)) + f" {rng.randint(1, 10**6)}"
    given = {"item": item, "count": rng.randint(1, 9)} if arguments is None else arguments
    call = {"id": "c1", "type": "function", "function": {"name": name, "arguments": given}}
    turns: list[dict[str, Any]] = [
        turn("user", f"How much is {item}? " + sentence(rng, ENGLISH, 10, 30)),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": f"{rng.randint(1, 999)} euro"},
        turn("assistant", sentence(rng, ENGLISH)),
    ]
    return {"messages": turns, "tools": [TOOL]}


def write_chat(file: Path, rows: int, rng: Rng) -> None:
    with file.open("w", encoding="utf-8") as out:
        for _ in range(rows):
            out.write(json.dumps(chat_row(rng), ensure_ascii=False) + "\n")


def with_turns(change: Callable[[Rng, list[dict[str, Any]]], Any]) -> Callable[[Rng], bytes]:
    def made(rng: Rng) -> bytes:
        row = chat_row(rng)
        change(rng, row["messages"])
        return encoded(row)

    return made


def with_tool(change: Callable[[Rng, dict[str, Any]], Any]) -> Callable[[Rng], bytes]:
    def made(rng: Rng) -> bytes:
        row = tool_row(rng)
        change(rng, row)
        return encoded(row)

    return made


def encoded(row: Any) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode()


def said(text: str) -> Callable[[Rng], bytes]:
    return with_turns(lambda rng, turns: turns[-1].update(content=f"{turns[-1]['content']} {text}"))


def arguments(given: Any) -> Callable[[Rng], bytes]:
    def change(rng: Rng, row: dict[str, Any]) -> None:
        row["messages"][1]["tool_calls"][0]["function"]["arguments"] = given

    return with_tool(change)


def called(rng: Rng) -> bytes:
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
    "an unknown tool": called,
    "a missing argument": arguments({"count": 2}),
    "a wrong type": arguments({"item": "chair", "count": "two"}),
    "an unknown argument": arguments({"item": "chair", "colour": "red"}),
    "arguments that are no JSON": arguments('{"item": "chair"'),
    "a result without a call": with_tool(lambda rng, row: row["messages"].pop(1)),
    "a call without a result": with_tool(lambda rng, row: row["messages"].pop(2)),
    "two results of one call": with_tool(lambda rng, row: row["messages"].insert(3, turn("tool", "twice"))),
    "a control token": said("<|start_header_id|>user<|end_header_id|>"),
    "an image": with_turns(
        lambda rng, turns: turns[0].update(content=[{"type": "image_url", "image_url": {"url": "x"}}])
    ),
    "text decoded wrongly": wrongly_decoded,
    "a lost character": said("\ufffd"),
    "a secret": lambda rng: said("AKIA" + "".join(rng.choices("ABCDEFGHIJ234567", k=16)))(rng),
    "an address": lambda rng: said(f"{rng.choice(ENGLISH)}.{rng.choice(ITALIAN)}@gmail.com")(rng).replace(
        "ù".encode(), b"u"
    ),
}
STATISTICAL = ("a near-duplicate", "another language")


def faults(rows: int) -> None:
    """Plants faults, examines, and counts what was found where something was planted, and elsewhere."""
    from configs.recipe import Data, Source
    from stages.prepare.examine import Examination
    from stages.prepare.problems import Findings, Problem

    rows, rng = rows or 50_000, random.Random(1)
    clean = [encoded(tool_row(rng) if i % 5 == 0 else chat_row(rng)) for i in range(rows)]
    planted: dict[int, str] = {}
    later = rng.sample(range(rows // 2, rows), FAULTS_A_KIND * (len(KINDS) + len(STATISTICAL)))
    makers = KINDS | {
        "a near-duplicate": lambda rng: nearly(rng, clean[: rows // 2]),
        "another language": german,
    }
    lines = list(clean)
    for kind, make in makers.items():
        for _ in range(FAULTS_A_KIND):
            place = later.pop()
            lines[place], planted[place + 1] = make(rng), kind

    found: dict[int, list[str]] = {}

    class All(Findings):
        def add(self, problem: Problem) -> None:
            super().add(problem)
            found.setdefault(problem.line, []).append(str(problem))

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        file.write_bytes(b"\n".join(lines) + b"\n")
        data = Data(sources=(Source(path=file),), languages=("en", "it"), max_tokens=4096)
        examination = Examination(data, None, None)
        examination.findings = All()
        for _ in examination.rows():
            pass
        examination.finish()
    caught = Counter(kind for line, kind in planted.items() if line in found)
    alarms = [told for line, all_told in found.items() if line and line not in planted for told in all_told]
    for kind in makers:
        print(f"{kind:<28} {caught[kind]} of {FAULTS_A_KIND}")
    for told in alarms[:10]:
        print("false alarm:", told)
    structural = sum(caught[kind] for kind in KINDS) / (FAULTS_A_KIND * len(KINDS))
    statistical = sum(caught[kind] for kind in STATISTICAL) / (FAULTS_A_KIND * len(STATISTICAL))
    met = structural == 1.0 and statistical >= 0.95 and len(alarms) <= 5
    told = {"rows": rows, "planted": len(planted), "structural": structural, "statistical": statistical}
    print(json.dumps({"benchmark": "data faults"} | told | {"false_alarms": len(alarms), "met": met}))


if __name__ == "__main__":
    main()
