"""Answers of the model during training: greedy, to a few validation prompts, at every validation."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tuneline.core.events import Events
from tuneline.stages.train.distributed.process_group import is_main_process
from tuneline.stages.train.loop.loss import IGNORED

ROWS, MAX_NEW_TOKENS = 3, 32
"""So few that they cost little compared with a validation."""
MAX_CHARACTERS = 600
"""Shown of a prompt's end, and of an answer; a prompt may begin with a whole tool catalogue."""


@dataclass(frozen=True)
class Turn:
    """A prompt and the reference answer to it, as token ids."""

    prompt: list[int]
    reference: list[int]


class SampleAnswers(TrainerCallback):
    """Emits prompt, reference and generated answer as a `sample` event; a sharded model generates none."""

    def __init__(self, rows: Any, tokenizer: Any, events: Events, *, sharded: bool) -> None:
        """`rows` have `input_ids` and `labels`, with IGNORED outside the loss mask."""
        self.tokenizer, self.events, self.sharded = tokenizer, events, sharded
        self.padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.turns = [turn for i in range(min(ROWS, len(rows))) if (turn := _find_first_turn(rows[i]))]
        # A template may end turns with another token than the tokenizer's.
        self.stops = sorted({tokenizer.eos_token_id, *(turn.reference[-1] for turn in self.turns)})

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.sharded:  # a layer is whole only while all processes compute it, and all would have to wait
            self.events.emit("note", text="no samples are generated while the model is sharded")

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **context: Any
    ) -> None:
        if self.sharded or not is_main_process():
            return
        try:
            answers = self._generate(context["model"]) if self.turns else []
        except Exception as error:  # a failed sample must not end a training
            self.events.emit("warning", text=f"no more samples are generated: {type(error).__name__}: {error}")
            self.turns, answers = [], []
        samples = [
            {
                "prompt": self._decode(turn.prompt)[-MAX_CHARACTERS:],
                "wanted": self._decode(turn.reference)[:MAX_CHARACTERS],
                "got": answer,
            }
            for turn, answer in zip(self.turns, answers, strict=True)
        ]
        self.events.emit("sample", step=state.global_step, samples=samples)

    def _generate(self, model: Any) -> list[str]:
        """Answer all prompts in one batch, padded on the left, which takes as long as a single one."""
        prompts = [turn.prompt for turn in self.turns]
        longest, training = max(map(len, prompts)), model.training
        padded = [[self.padding] * (longest - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        model.eval()
        try:
            with torch.no_grad():
                generated = model.generate(
                    input_ids=torch.tensor(padded, device=model.device),
                    attention_mask=torch.tensor(mask, device=model.device),
                    do_sample=False,
                    max_new_tokens=MAX_NEW_TOKENS,
                    use_cache=True,
                    pad_token_id=self.padding,
                    eos_token_id=self.stops,
                )
        finally:
            model.train(training)
        return [self._decode(self._cut_padding(row)) for row in generated[:, longest:].tolist()]

    def _cut_padding(self, ids: list[int]) -> list[int]:
        """Remove the padding behind an answer that ended before the others."""
        end = next((at for at, token in enumerate(ids) if token in self.stops), len(ids))
        return ids[: end + 1]

    def _decode(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids)
        return text


def _find_first_turn(row: dict[str, list[int]]) -> Turn | None:
    """Return the row's first turn in the loss; None if the row is in the loss from its first token."""
    ids, labels = row["input_ids"], row["labels"]
    begin = next((i for i, label in enumerate(labels) if label != IGNORED), 0)
    end = next((i for i in range(begin, len(labels)) if labels[i] == IGNORED), len(labels))
    return Turn(ids[:begin], ids[begin:end]) if begin > 1 else None
