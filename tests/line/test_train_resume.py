"""A run that was killed in any epoch ends with the bytes of one that was not; watching a run does not change it."""

from pathlib import Path
from typing import Any

import pytest

from tests.line import small
from tuneline.stages.train.loop import trainer as training
from tuneline.stages.train.loop.row_order import TrainingOrder

LONG: dict[str, Any] = {"max_steps": None, "epochs": 2.5, "batch_rows": 24, "dropout": 0.1, "evaluate_steps": 2}
"""Two and a half epochs of three steps, the third not full; dropout, so that the random state matters."""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    return small.fetched_and_prepared(folder, small.weighted(folder))


def adapter(here: Path, name: str) -> bytes:
    return (here / name / "train/adapter/adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("packing", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_killed_in_the_second_and_the_third_epoch_ends_with_the_same_bytes(
    here: Path, monkeypatch: pytest.MonkeyPatch, packing: bool
) -> None:
    wanted = small.weighted(here, save_steps=1, packing=packing, **LONG | ({"batch_rows": 1} if packing else {}))
    steps = round(small.train(here, f"whole-{packing}", wanted)["steps"])
    step, killed = training.Trainer.training_step, [steps * 3 // 5, steps - 1]

    def killing(self: Any, *arguments: Any) -> Any:
        if self.state.global_step in killed:
            killed.remove(self.state.global_step)
            raise InterruptedError
        return step(self, *arguments)

    monkeypatch.setattr(training.Trainer, "training_step", killing)
    for _ in range(2):
        with pytest.raises(InterruptedError):
            small.train(here, f"killed-{packing}", wanted)
    small.train(here, f"killed-{packing}", wanted)
    assert killed == [] and small.losses(here, f"killed-{packing}") == small.losses(here, f"whole-{packing}")
    assert adapter(here, f"killed-{packing}") == adapter(here, f"whole-{packing}")


def test_validating_sampling_and_saving_change_neither_weights_nor_the_random_state(here: Path) -> None:
    small.train(here, "watched", small.weighted(here, **LONG | {"save_steps": 1, "evaluate_steps": 1}))
    small.train(here, "alone", small.weighted(here, **LONG | {"save_steps": 1000, "evaluate_steps": 1000}))
    assert len(small.events(here, "watched", "sample")) > len(small.events(here, "alone", "sample"))
    assert adapter(here, "watched") == adapter(here, "alone")


def test_every_epoch_has_each_row_once_in_an_order_of_its_own() -> None:
    def rows(epoch: int, seed: int = 3) -> list[int]:
        order = TrainingOrder([n % 17 for n in range(400)], batch_rows=8, multiple=6, seed=seed)
        order.set_epoch(epoch)
        return list(order)

    assert rows(1) == rows(1) and len({tuple(rows(epoch, seed)) for epoch in range(3) for seed in (3, 4)}) == 6
    assert sorted(rows(1)[:400]) == list(range(400))
    assert rows(1)[400:] == [400, 400]  # fillers, up to a multiple of six
