"""Requests people really made, as the tiny base reads them in pretraining: three public collections.

| what | licence | rows | from |
|---|---|---|---|
| CLINC150 (Larson et al. 2019) | CC BY 3.0 | 22,500 in 150 intents | github.com/clinc/oos-eval |
| HWU64 (Liu et al. 2019), its first fold | CC BY 4.0 | 9,960 in 64 intents, slots marked | github.com/xliuhw/NLU-Evaluation-Data |
| Banking77 (Casanueva et al. 2020) | CC BY 4.0 | 13,083 in 77 intents | github.com/PolyAI-LDN/task-specific-datasets |

None of them is committed here; SOURCES says which commit was read and which files of it.
"""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

SOURCES = {
    "oos-eval": ("https://github.com/clinc/oos-eval", "828f8093932c8fe6ca7936c3d2e52903b1c523de"),
    "NLU-Evaluation-Data": ("https://github.com/xliuhw/NLU-Evaluation-Data", "f6071b496b17d71e6eb43f543af0707f4ff30557"),
    "task-specific-datasets": ("https://github.com/PolyAI-LDN/task-specific-datasets", "57ec275d8078af65b7731c2a98be812d844a6d6b"),
}
FOLD = "CrossValidation/out4ApiaiReal/Apiai_trainset_2018_03_22-13_01_25_169/CrossValidation/KFold_1/merged/intents"


@dataclass(frozen=True)
class Real:
    """A request in parts (text, slot or None), and the intent it was labelled with."""

    parts: tuple[tuple[str, str | None], ...]
    intent: str


def read_requests(folder: Path) -> list[list[Real]]:
    """The three collections, from checkouts beside each other in a folder.

    Raises:
        SystemExit: one is missing; says how to get it.
    """
    for name, (address, commit) in SOURCES.items():
        if not (folder / name).is_dir():
            raise SystemExit(f"{folder / name}: not there; git clone {address} {folder / name} && git -C {folder / name} checkout {commit}")
    clinc = json.loads((folder / "oos-eval/data/data_full.json").read_text())
    intents = [Real(((text, None),), intent) for split in ("train", "val", "test") for text, intent in clinc[split]]
    banking = []
    for file in ("train.csv", "test.csv"):
        with (folder / "task-specific-datasets/banking_data" / file).open(newline="") as opened:
            banking += [Real(((row["text"], None),), row["category"].lower().rstrip("?")) for row in csv.DictReader(opened)]
    marked = []
    for file in sorted((folder / "NLU-Evaluation-Data" / FOLD).glob("*_*.json")):
        for said in json.loads(file.read_text())["userSays"]:
            marked.append(Real(tuple((part["text"], part.get("alias")) for part in said["data"]), file.stem))
    return [intents, marked, banking]
