"""The data side against its peers in one run: rows a second, memory, planted faults found, masks right.

    python benchmarks/data.py speed [--rows 100000]     validate + deduplicate + render + tokenize + pack, against TRL
                                                        (two processes) and datasketch
    python benchmarks/data.py memory [--rows 1000000]   peak memory from 10,000 rows to so many
    python benchmarks/data.py memory --gigabytes 2      peak memory for a file of long rows
    python benchmarks/data.py faults [--seed N]         1,000 faults of 25 kinds in 50,000 rows; a fresh seed if none
    python benchmarks/data.py masks                     every assistant token, and no other, of 2,000 conversations

The generator of faults shares no code with the checks.
"""

import argparse
import json
import os
import random
import resource
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[0] = str(ROOT)
TARGETS = {"with_deduplication": 5.0, "without": 3.0}
PEAK_GIB, NEAR_BYTES_A_ROW, FLAT_BYTES_A_ROW = 1.0, 700, 64
FAULTS_A_KIND = 40
PACKED_TOKENS = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["speed", "memory", "faults", "masks", "one"])
    parser.add_argument("work", nargs="*")
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--gigabytes", type=float, default=0)
    parser.add_argument("--seed", type=int, default=None)
    asked = parser.parse_args()
    if asked.what == "one":
        print(json.dumps(one(asked.work[0], Path(asked.work[1]))))
        return
    runs = {
        "speed": lambda: speed(asked.rows),
        "memory": lambda: memory(asked.rows, asked.gigabytes),
        "faults": lambda: faults(asked.rows, secrets.randbelow(10**6) if asked.seed is None else asked.seed),
        "masks": lambda: masks(asked.rows),
    }
    for name in [asked.what] if asked.what else runs:
        runs[name]()


# -- speed and memory ------------------------------------------------------------------------------------------------


def speed(rows: int) -> None:
    """Ours and the peers on the same rows, in turn, each in a process of its own."""
    rows = rows or 100_000
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        write_chat(file, rows, random.Random(0))
        found = {what: alone(what, file) for what in ("ours", "ours_without", "trl", "datasketch")}
        for what, one in found.items():
            print(f"{what}: {one['seconds']:.1f} s ({rows / one['seconds']:.0f} rows/s), {one['cpu']:.1f} CPU-s")
        for name, own, theirs in (
            ("with_deduplication", "ours", ("trl", "datasketch")),
            ("without", "ours_without", ("trl",)),
        ):
            ratio = sum(found[peer]["seconds"] for peer in theirs) / found[own]["seconds"]
            result = {"rows": rows, "ratio": round(ratio, 2), "target": TARGETS[name], "met": ratio >= TARGETS[name]}
            print(json.dumps({"benchmark": f"data {name}"} | result))


def memory(rows: int, gigabytes: float) -> None:
    """Peak memory, all processes together: of few and many rows, or of a file of so many gigabytes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        if gigabytes:
            write_long(file, int(gigabytes * 1e9), random.Random(0))
            peak = alone("examine", file)["peak_bytes"]
            told = {"gigabytes": round(file.stat().st_size / 1e9, 2), "peak_mib": round(peak / 2**20)}
            print(json.dumps({"benchmark": "data peak"} | told | {"met": peak <= PEAK_GIB * 2**30}))
            return
        few, many = 10_000, rows or 1_000_000
        peaks: dict[tuple[str, int], int] = {}
        for size in (few, many):
            write_chat(file, size, random.Random(0))
            for what in ("examine", "examine_without"):
                peaks[what, size] = alone(what, file)["peak_bytes"]
                print(f"{size} rows, {what}: peak {peaks[what, size] / 2**20:.0f} MiB")
    without = (peaks["examine_without", many] - peaks["examine_without", few]) / (many - few)
    index = (peaks["examine", many] - peaks["examine", few]) / (many - few) - without
    met = without <= FLAT_BYTES_A_ROW and index <= NEAR_BYTES_A_ROW
    told = {"rows": many, "bytes_a_row": round(without), "index_bytes_a_row": round(index)}
    print(json.dumps({"benchmark": "data memory"} | told | {"target": NEAR_BYTES_A_ROW, "met": met}))


def alone(what: str, file: Path) -> dict[str, Any]:
    """One side in a process of its own, so that neither warms the other's caches."""
    done = subprocess.run(
        [sys.executable, __file__, "one", what, str(file)], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def one(what: str, file: Path) -> dict[str, Any]:
    work: dict[str, Callable[[Path], Callable[[], Any]]] = {
        "ours": ours,
        "ours_without": ours_without,
        "examine": partial(ours, pack=False),
        "examine_without": partial(ours_without, pack=False),
        "trl": trl,
        "datasketch": datasketch,
    }
    run = work[what](file)  # imports and tokenizer are not timed, on either side
    before, started = cpu_seconds(), time.perf_counter()
    watch = Watch() if what.startswith("examine") else None
    run()
    seconds, spent = time.perf_counter() - started, cpu_seconds() - before
    return {"seconds": seconds, "cpu": spent, "peak_bytes": watch.peak() if watch else 0}


def cpu_seconds() -> float:
    """Of this process and of those it started that have ended."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in both)


class Watch:
    """The most memory that this process and its children hold at a time; pages they share count once (Pss)."""

    def __init__(self) -> None:
        self._most, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def peak(self) -> int:
        """In bytes; never less than this process's own highest (ru_maxrss)."""
        self._over.set()
        self._thread.join()
        return max(self._most, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)

    def _look(self) -> None:
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        while not self._over.wait(0.1):
            pids = ["self", *children.read_text().split()]
            self._most = max(self._most, sum(pss(pid) for pid in pids))


def pss(pid: str) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


def ours(file: Path, *, deduplicate: bool = True, pack: bool = True) -> Callable[[], Any]:
    """What `prepare` does to rows; with `pack`, their tokens and masks are kept and packed, as TRL does it."""
    from array import array

    from tuneline.configs.data import Data, Source
    from tuneline.stages.prepare import examination
    from tuneline.stages.prepare.rendering.renderer import Measured, Renderer

    kept = Path(tempfile.mkdtemp())

    class Keeping(Renderer):
        """Writes ids and masks of what it measures into a file of its process."""

        def measure(self, lines: Any) -> list[Measured]:
            measures = []
            with (kept / str(os.getpid())).open("ab") as out:
                for ids, spans, refused in self.tokens(lines):
                    mask = bytearray(len(ids))
                    for first, end in spans:
                        mask[first:end] = b"\1" * (end - first)
                    out.write(array("I", [len(ids), *ids]).tobytes() + mask)
                    measures.append((len(ids), mask.count(1), refused))
            return measures

    renderer = (Keeping if pack else Renderer)(ROOT / "data/tiny", None)
    if not deduplicate:
        examination.Index.add = lambda self, text: None  # type: ignore[method-assign]
    if pack:
        import datasets  # noqa: F401
        from trl.data_utils import pack_dataset  # noqa: F401

    def run() -> Any:
        data = Data(sources=(Source(path=file),), max_tokens=PACKED_TOKENS)
        examined = examination.Examination(data, None, renderer)
        for _ in examined.rows():
            pass
        examination.finish()
        return packed(kept) if pack else None

    return run


def packed(folder: Path) -> Any:
    """Packs what lies in a folder, by TRL's own function, from arrays that nothing is copied into."""
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset
    from trl.data_utils import pack_dataset

    tables = []
    for file in sorted(folder.iterdir()):
        raw, at, ids, masks, ends = file.read_bytes(), 0, [], [], [0]
        while at < len(raw):
            count = int.from_bytes(raw[at : at + 4], "little")
            ids.append(np.frombuffer(raw, np.int32, count, at + 4) if at % 4 == 0 else _copied(raw, count, at + 4))
            masks.append(np.frombuffer(raw, np.uint8, count, at + 4 + 4 * count))
            ends.append(ends[-1] + count)
            at += 4 + 5 * count
        offsets = pa.array(ends, pa.int32())
        columns = {
            name: pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(values)))
            for name, values in (("input_ids", ids), ("assistant_masks", masks))
        }
        tables.append(pa.table(columns))
        file.unlink()
    return pack_dataset(Dataset(pa.concat_tables(tables)), PACKED_TOKENS, "bfd")


def _copied(raw: bytes, count: int, at: int) -> Any:
    import numpy as np

    return np.frombuffer(raw[at : at + 4 * count], np.int32)


def ours_without(file: Path, *, pack: bool = True) -> Callable[[], Any]:
    return ours(file, deduplicate=False, pack=pack)


def trl(file: Path) -> Callable[[], None]:
    """TRL's own preparation: chat template with assistant masks, tokenized on two processes, packed."""
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
                max_length=PACKED_TOKENS,
                packing=True,
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
TOOLS = [f"get_{what}" for what in ("price", "stock", "size", "colour", "weight", "maker", "date", "place")]
RARE = [f"get_{what}" for what in ("rank", "origin", "age", "smell")]
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


def tool_row(rng: Rng, arguments: Any = None, name: str = "", listed: str = "") -> dict[str, Any]:
    listed = listed or rng.choice(TOOLS)
    name = name or listed
    item = " ".join(rng.choices(ENGLISH, k=3)) + f" {rng.randint(1, 10**6)}"
    given = {"item": item, "count": rng.randint(1, 9)} if arguments is None else arguments
    call = {"id": "c1", "type": "function", "function": {"name": name, "arguments": given}}
    turns: list[dict[str, Any]] = [
        turn("user", f"How much is {item}? " + sentence(rng, ENGLISH, 10, 30)),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": f"{rng.randint(1, 999)} euro"},
        turn("assistant", sentence(rng, ENGLISH)),
    ]
    return {"messages": turns, "tools": [{"type": "function", "function": {**TOOL["function"], "name": listed}}]}


def write_chat(file: Path, rows: int, rng: Rng) -> None:
    with file.open("w", encoding="utf-8") as out:
        for _ in range(rows):
            out.write(json.dumps(chat_row(rng), ensure_ascii=False) + "\n")


def write_long(file: Path, size: int, rng: Rng) -> None:
    """Rows of about 12,000 characters, until the file is so big."""
    with file.open("w", encoding="utf-8") as out:
        while out.tell() < size:
            turns = [turn("user" if i % 2 == 0 else "assistant", sentence(rng, ENGLISH, 180, 220)) for i in range(10)]
            out.write(json.dumps({"messages": turns}, ensure_ascii=False) + "\n")


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


def faults(rows: int, seed: int) -> None:
    """Plants faults, examines, and counts what was found where something was planted, and elsewhere."""
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
    rare = [next((told for told in found.get(0, ()) if repr(name) in told), "") for name in RARE]
    alarms = [told for line, all_told in found.items() if line not in planted for told in all_told if told not in rare]
    for kind in makers:
        print(f"{kind:<28} {caught[kind]} of {FAULTS_A_KIND}")
    for told in alarms[:10]:
        print("false alarm:", told)
    structural = sum(caught[kind] for kind in KINDS) / (FAULTS_A_KIND * len(KINDS))
    seen = sum(caught[kind] for kind in STATISTICAL) + sum(map(bool, rare))
    statistical = seen / (FAULTS_A_KIND * len(STATISTICAL) + len(RARE))
    met = structural == 1.0 and statistical >= 0.95 and len(alarms) <= 5
    told = {"rows": rows, "seed": seed, "planted": len(planted), "structural": structural, "statistical": statistical}
    print(f"{'a rare tool':<28} {sum(map(bool, rare))} of {len(RARE)}")
    print(json.dumps({"benchmark": "data faults"} | told | {"false_alarms": len(alarms), "met": met}))


# -- masks -----------------------------------------------------------------------------------------------------------


def masks(rows: int) -> None:
    """For every template: conversations whose mask is what stands between an assistant's header and its turn's end."""
    import trl as trl_package
    from transformers import AutoTokenizer
    from transformers.models.llama4.processing_llama4 import chat_template as llama_4

    from tests.unit.test_data_render import conversation
    from tuneline.configs.catalogue import load_catalogue
    from tuneline.stages.prepare.rendering.renderer import Renderer

    catalogue, rng = load_catalogue(ROOT / "configs/tools/business.yaml"), random.Random(0)
    talks = [conversation(rng, catalogue) for _ in range(rows or 2000)]
    folder = Path(trl_package.__file__).parent / "chat_templates"
    llama_3 = ("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>")
    originals = {
        "tiny": (None, *llama_3),
        "llama-3.1": ((folder / "llama3_1.jinja").read_text("utf-8"), *llama_3),
        "llama-3.2": ((folder / "llama3_2.jinja").read_text("utf-8"), *llama_3),
        "llama-4": (llama_4, "<|header_start|>assistant<|header_end|>\n\n", "<|eot|>"),
    }
    for name, (template, header, end) in originals.items():
        with tempfile.TemporaryDirectory() as base:
            tokenizer: Any = AutoTokenizer.from_pretrained(ROOT / "data/tiny", local_files_only=True)
            special = ["<|header_start|>", "<|header_end|>", "<|eot|>", "<|python_start|>", "<|python_end|>"]
            tokenizer.add_special_tokens({"additional_special_tokens": special})
            tokenizer.chat_template = template or tokenizer.chat_template
            tokenizer.save_pretrained(base)
            renderer = Renderer(Path(base), catalogue)
            wrong = 0
            for row in talks:
                one = renderer(row)
                pieces = renderer.tokenizer.decode(one.ids).split(header)[1:]
                wanted = [piece.split(end)[0] + end for piece in pieces]
                runs = [learned for learned, _ in _runs(one.ids, one.mask)]
                wrong += [renderer.tokenizer.decode(run) for run in runs] != wanted
        told = {"template": name, "conversations": len(talks), "wrong": wrong, "met": not wrong}
        print(json.dumps({"benchmark": "data masks"} | told))


def _runs(ids: list[int], mask: list[int]) -> list[tuple[list[int], int]]:
    runs: list[tuple[list[int], int]] = []
    for at, (token, learned) in enumerate(zip(ids, mask, strict=True)):
        if learned and (not at or not mask[at - 1]):
            runs.append(([], at))
        if learned:
            runs[-1][0].append(token)
    return runs


if __name__ == "__main__":
    main()
