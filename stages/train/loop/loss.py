"""The loss on learned tokens: logits are made for no position at which nothing is learned."""

from typing import Any

import torch
import torch.nn.functional as F
from trl import SFTTrainer

IGNORED = -100
"""The label that the loss leaves out."""


class LearnedTokens(SFTTrainer):
    """TRL's trainer and its loss, to float tolerance, without the vocabulary of every prompt token.

    TRL multiplies each position with the vocabulary, and again for entropy and accuracy, which nobody here reads: a
    quarter to a third of a step on a CPU, where half of the tokens are prompt.
    """

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs["labels"][:, 1:]
        columns = (labels != IGNORED).any(0).nonzero()[:, 0]
        given = {name: value for name, value in inputs.items() if name != "labels"}
        outputs = model(**given | {"use_cache": False, "logits_to_keep": columns})
        wanted = labels[:, columns].flatten()
        logits = outputs.logits.float().flatten(0, 1)
        summed = F.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum")
        count = (wanted != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        loss = summed / count
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # the count is of all processes, and DDP takes the mean
        self._count(inputs)
        return (loss, outputs) if return_outputs else loss

    def _count(self, inputs: Any) -> None:
        """Tokens read, as TRL counts them: without padding, or all of a row that is packed."""
        training = self.model is not None and self.model.training
        if training:
            mask = inputs.get("attention_mask")
            here = torch.tensor(inputs["position_ids"].numel()) if mask is None else mask.sum()
            self._total_train_tokens += self.accelerator.gather_for_metrics(here).sum().item()
        self._metrics["train" if training else "eval"]["num_tokens"] = [self._total_train_tokens]
