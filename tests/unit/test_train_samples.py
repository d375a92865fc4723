"""Samples: which prompts, and that a failure of theirs ends nothing."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from tuneline.core.events import Events, read_events
from tuneline.stages.train.loop.loss import IGNORED
from tuneline.stages.train.loop.samples import SampleAnswers

ARGUMENTS: Any = TrainingArguments(use_cpu=True)
END = 9
TOKENIZER = SimpleNamespace(eos_token_id=END, pad_token_id=None, decode=lambda ids: " ".join(map(str, ids)))
ROWS = [
    {"input_ids": [1, 2, 3, 4, END, 5, 6], "labels": [IGNORED, IGNORED, IGNORED, 4, END, IGNORED, 6]},
    {"input_ids": [1, 2, 7, END], "labels": [IGNORED, IGNORED, 7, END]},
    {"input_ids": [7, 8, END], "labels": [7, 8, END]},  # text that is learned whole has no prompt
]


class Model:
    """Answers with the prompt's last token and the end."""

    device, training = "cpu", True

    def eval(self) -> None:
        self.training = False

    def train(self, mode: bool) -> None:
        self.training = mode

    def generate(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> torch.Tensor:
        assert not self.training and attention_mask.tolist() == [[1, 1, 1], [0, 1, 1]]
        ends = torch.full((2, 2), END)
        return torch.cat([input_ids, input_ids[:, -1:], ends], 1)


def evaluated(folder: Path, model: Any, times: int = 1) -> list[dict[str, Any]]:
    samples = SampleAnswers(ROWS, TOKENIZER, Events(folder, "train"), sharded=False)
    for step in range(times):
        samples.on_evaluate(ARGUMENTS, TrainerState(global_step=step), TrainerControl(), model=model)
    return list(read_events(folder))


def test_prompts_are_answered_up_to_the_end_of_the_turn_and_the_model_stays_as_it_was(tmp_path: Path) -> None:
    model = Model()
    (event,) = evaluated(tmp_path, model)
    assert event["samples"] == [
        {"prompt": "1 2 3", "wanted": "4 9", "got": "3 9"},
        {"prompt": "1 2", "wanted": "7 9", "got": "2 9"},
    ]
    assert model.training


def test_a_failure_is_told_once_and_ends_no_training(tmp_path: Path) -> None:
    class Failing(Model):
        def generate(self, *_: Any, **__: Any) -> torch.Tensor:
            raise torch.OutOfMemoryError("no memory left")

    told = [event for event in evaluated(tmp_path, Failing(), times=3) if event["kind"] == "warning"]
    assert [event["text"] for event in told] == ["no more samples are generated: OutOfMemoryError: no memory left"]
