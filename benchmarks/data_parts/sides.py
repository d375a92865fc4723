"""What is timed: what `prepare` does to rows, and the same by TRL and datasketch.

Each function makes one side ready and returns what is timed: imports and the tokenizer are not, on either side.
"""

import json
import os
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.common.rounds import ROOT

PACKED_TOKENS = 2048


def ours(file: Path, *, deduplicate: bool = True, pack: bool = True) -> Callable[[], Any]:
    """What `prepare` does to rows; with `pack`, their tokens and masks are kept and packed, as TRL does it."""
    from array import array

    from tuneline.configs.data import Data, Source
    from tuneline.stages.prepare.checks.duplicates import DuplicateIndex
    from tuneline.stages.prepare.examination import Examination
    from tuneline.stages.prepare.rendering.renderer import Renderer, RowMeasure

    folder = Path(tempfile.mkdtemp())

    class Keeping(Renderer):
        """Writes ids and masks of what it measures into a file of its process."""

        def measure(self, lines: Any) -> list[RowMeasure]:
            measures = []
            with (folder / str(os.getpid())).open("ab") as out:
                for ids, spans, fault, reason in self.tokenize_lines(lines):
                    mask = bytearray(len(ids))
                    for first, end in spans:
                        mask[first:end] = b"\1" * (end - first)
                    out.write(array("I", [len(ids), *ids]).tobytes() + mask)
                    measures.append(RowMeasure(len(ids), mask.count(1), fault, reason))
            return measures

    renderer = (Keeping if pack else Renderer)(ROOT / "data/tiny", None)
    if not deduplicate:
        DuplicateIndex.add = lambda self, text: None  # type: ignore[method-assign]
    if pack:
        import datasets  # noqa: F401
        from trl.data_utils import pack_dataset  # noqa: F401

    def run() -> Any:
        data = Data(sources=(Source(path=file),), max_tokens=PACKED_TOKENS)
        examined = Examination(data, None, renderer)
        for _ in examined.rows():
            pass
        examined.finish()
        return packed(folder) if pack else None

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


SIDES: dict[str, Callable[[Path], Callable[[], Any]]] = {
    "ours": ours,
    "ours_without": ours_without,
    "examine": partial(ours, pack=False),
    "examine_without": partial(ours_without, pack=False),
    "trl": trl,
    "datasketch": datasketch,
}
