"""What the model answers while it learns: a few validation prompts at every validation, greedily, by one process."""

from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tuneline.core.events import Events
from tuneline.stages.train.loop.loss import IGNORED
from tuneline.stages.train.loop.trainer import is_first

ROWS, TOKENS = 3, 32
"""So few that they cost little beside a validation."""
SHOWN = 600
"""Characters of a prompt's end and of an answer; whole catalogues stand before."""


class Samples(TrainerCallback):
    """Tells prompt, wanted and given answer as a `sample` event; of a sharded model none, which is noted once."""

    def __init__(self, rows: Any, tokenizer: Any, events: Events, *, sharded: bool) -> None:
        """`rows` have input_ids and labels, with IGNORED where nothing is learned."""
        self.tokenizer, self.events, self.sharded = tokenizer, events, sharded
        self.padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.asked = [split for i in range(min(ROWS, len(rows))) if (split := _split(rows[i]))]

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.sharded:  # a layer is whole only while all processes compute it, and these would have to wait
            self.events.emit("note", text="no samples are generated while the model is sharded")

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        if self.sharded or not is_first():
            return
        try:
            answers = self._answers(given["model"]) if self.asked else []
        except Exception as error:  # what is only looked at must not end a training
            self.events.emit("warning", text=f"no more samples are generated: {type(error).__name__}: {error}")
            self.asked, answers = [], []
        samples = [
            {"prompt": self._text(prompt)[-SHOWN:], "wanted": self._text(wanted)[:SHOWN], "got": got}
            for (prompt, wanted), got in zip(self.asked, answers, strict=True)
        ]
        self.events.emit("sample", step=state.global_step, samples=samples)

    def _answers(self, model: Any) -> list[str]:
        """All at once, padded on the left: that costs what one does."""
        longest, training = max(len(prompt) for prompt, _ in self.asked), model.training
        padded = [[self.padding] * (longest - len(prompt)) + prompt for prompt, _ in self.asked]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt, _ in self.asked]
        model.eval()
        try:
            with torch.no_grad():
                made = model.generate(
                    input_ids=torch.tensor(padded, device=model.device),
                    attention_mask=torch.tensor(mask, device=model.device),
                    do_sample=False,
                    max_new_tokens=TOKENS,
                    use_cache=True,
                    pad_token_id=self.padding,
                    eos_token_id=self.tokenizer.eos_token_id,
                )
        finally:
            model.train(training)
        return [self._text(self._until_end(row)) for row in made[:, longest:].tolist()]

    def _until_end(self, ids: list[int]) -> list[int]:
        """Without what pads an answer that ended before the others."""
        end = self.tokenizer.eos_token_id
        return ids[: ids.index(end) + 1] if end in ids else ids

    def _text(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids)
        return text


def _split(row: dict[str, list[int]]) -> tuple[list[int], list[int]] | None:
    """(prompt, wanted) of the first turn that is learned; None of a row that is learned from its first token."""
    ids, labels = row["input_ids"], row["labels"]
    begin = next((i for i, label in enumerate(labels) if label != IGNORED), 0)
    end = next((i for i in range(begin, len(labels)) if labels[i] == IGNORED), len(labels))
    return (ids[:begin], ids[begin:end]) if begin > 1 else None
