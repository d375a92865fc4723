"""What the model answers while it learns: a few validation prompts at every validation, greedily, by one process."""

from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stages.events import Events
from stages.train.loss import IGNORED
from stages.train.trainer import is_first

ROWS, TOKENS = 3, 48
"""So few that they cost little beside a validation."""


class Samples(TrainerCallback):
    """Tells prompt, wanted and given answer as a `sample` event; of a sharded model none, which is noted once."""

    def __init__(self, rows: Any, tokenizer: Any, events: Events, *, sharded: bool) -> None:
        """`rows` have input_ids and labels, with IGNORED where nothing is learned."""
        self.tokenizer, self.events, self.sharded = tokenizer, events, sharded
        self.asked = [split for i in range(min(ROWS, len(rows))) if (split := _split(rows[i]))]

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.sharded:  # a layer is whole only while all processes compute it, and these would have to wait
            self.events.emit("note", text="no samples are generated while the model is sharded")

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        if self.sharded or not is_first():
            return
        samples = [
            {"prompt": self._text(prompt), "wanted": self._text(wanted), "got": self._answer(given["model"], prompt)}
            for prompt, wanted in self.asked
        ]
        self.events.emit("sample", step=state.global_step, samples=samples)

    def _answer(self, model: Any, prompt: list[int]) -> str:
        training = model.training
        model.eval()
        ids = torch.tensor([prompt], device=model.device)
        try:
            with torch.no_grad():
                made = model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=False,
                    max_new_tokens=TOKENS,
                    use_cache=True,
                    pad_token_id=self.tokenizer.pad_token_id,
                    eos_token_id=self.tokenizer.eos_token_id,
                )
        finally:
            model.train(training)
        return self._text(made[0, len(prompt) :].tolist())

    def _text(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids)
        return text


def _split(row: dict[str, list[int]]) -> tuple[list[int], list[int]] | None:
    """(prompt, wanted) of the first turn that is learned; None of a row that is learned from its first token."""
    ids, labels = row["input_ids"], row["labels"]
    begin = next((i for i, label in enumerate(labels) if label != IGNORED), 0)
    end = next((i for i in range(begin, len(labels)) if labels[i] == IGNORED), len(labels))
    return (ids[:begin], ids[begin:end]) if begin > 1 else None
