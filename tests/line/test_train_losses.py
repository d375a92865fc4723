"""Reported losses are sums over all tokens in the loss divided by their number, however the rows are computed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from tests.line import small
from tuneline.stages.fetch import fetch
from tuneline.stages.prepare.prepared_run import TEMPLATE, load_tools, read_prepared
from tuneline.stages.prepare.rendering.renderer import Renderer

TRAINING_ROWS, VALIDATION_ROWS = 21, 16
FROZEN: dict[str, Any] = {"method": "lora", "learning_rate": 1e-12, "batch_rows": 16, "max_steps": 2}
"""Two steps, the second one short, of a model that stays as it is."""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("losses")
    # A third of the rows have long answers, easy to go on with: the means of rows and of tokens are far apart.
    answers = [f"No{n}." if n % 3 else f"{n} apples, " * 30 for n in range(TRAINING_ROWS + VALIDATION_ROWS)]
    chats = [
        [{"role": "user", "content": f"How many, {n}?"}, {"role": "assistant", "content": answer}]
        for n, answer in enumerate(answers)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNELINE_MODELS", str(folder / "models"))
        fetch(small.recipe(folder), folder / "prepared")
        prepared = small.prepared(folder)
    files = [prepared / "train.jsonl", prepared / "validation.jsonl"]
    rows = sorted(line for file in files for line in file.read_text().splitlines(keepends=True))
    for file, split in zip(files, (rows[:TRAINING_ROWS], rows[TRAINING_ROWS:]), strict=True):
        file.write_text("".join(split))
    return folder


@pytest.fixture(scope="module")
def true_loss(here: Path) -> float:
    """Of the base on the validation split, computed row by row."""
    prepared = here / "prepared/prepare"
    renderer = Renderer(small.BASE, load_tools(prepared), prepared / TEMPLATE)
    model = AutoModelForCausalLM.from_pretrained(small.BASE, dtype=torch.float32).eval()
    losses: list[torch.Tensor] = []
    for row in map(renderer, read_prepared(prepared / "validation.jsonl")):
        ids, in_loss = torch.tensor(row.ids), torch.tensor(row.mask, dtype=torch.bool)[1:]
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0, :-1]
        losses.append(F.cross_entropy(logits, ids[1:], reduction="none")[in_loss].double())
    assert len(losses) == VALIDATION_ROWS
    assert abs(torch.stack([loss.mean() for loss in losses]).mean() - torch.cat(losses).mean()) > 1
    return float(torch.cat(losses).mean())


@pytest.mark.parametrize("rows", [1, 2, 4, 16])
def test_validation_loss_does_not_depend_on_the_rows_at_a_time(here: Path, true_loss: float, rows: int) -> None:
    metrics = small.train(here, f"rows-{rows}", small.recipe(here, compute={"micro_batch_rows": rows}, **FROZEN))
    assert metrics["validation_loss"] == pytest.approx(true_loss, abs=1e-5)


@pytest.mark.parametrize("rows", [1, 4])
def test_validation_loss_does_not_depend_on_packing(here: Path, true_loss: float, rows: int) -> None:
    wanted = small.recipe(here, compute={"micro_batch_rows": rows}, packing=True, **FROZEN | {"batch_rows": 4})
    assert small.train(here, f"packed-{rows}", wanted)["validation_loss"] == pytest.approx(true_loss, abs=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)])
def test_losses_do_not_depend_on_the_processes(here: Path, true_loss: float, strategy: str) -> None:
    """Neither 16 rows nor the second step's 9 can be shared, 3 at a time: each time a process has none left."""
    frozen = FROZEN | {"batch_rows": 12}
    small.train(here, f"alone-{strategy}", small.recipe(here, **frozen))
    two: dict[str, Any] = {"processes": 2, "strategy": strategy, "micro_batch_rows": 3}
    metrics = small.train(here, strategy, small.recipe(here, compute=two, **frozen))
    assert metrics["validation_loss"] == pytest.approx(true_loss, abs=1e-5)
    assert len(small.losses(here, strategy)) == 2
    assert small.losses(here, strategy) == pytest.approx(small.losses(here, f"alone-{strategy}"), abs=1e-5)
