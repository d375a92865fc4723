"""Cross-entropy over the tokens of the loss mask; no logits are computed for other positions."""

from typing import Any

import torch
import torch.nn.functional as F
from trl import SFTTrainer

IGNORED = -100
"""Label of a token outside the loss mask; PyTorch's `ignore_index`."""


class MaskedLossTrainer(SFTTrainer):
    """TRL's trainer with the same loss, to float tolerance, but no vocabulary-sized logits for prompt tokens.

    TRL multiplies every position with the vocabulary, and again for entropy and accuracy, which Tuneline does not
    report: a quarter to a third of a step on a CPU where half of the tokens are prompt.
    """

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs["labels"][:, 1:]
        columns = (labels != IGNORED).any(0).nonzero()[:, 0]
        model_inputs = {name: value for name, value in inputs.items() if name != "labels"}
        outputs = model(**model_inputs | {"use_cache": False, "logits_to_keep": columns})
        targets = labels[:, columns].flatten()
        logits = outputs.logits.float().flatten(0, 1)
        summed = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
        count = (targets != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        loss = summed / count
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # the count is over all processes, and DDP takes the mean
        self._count_tokens(inputs)
        return (loss, outputs) if return_outputs else loss

    def _count_tokens(self, inputs: Any) -> None:
        """Count the tokens read as TRL does: without padding, or all of a packed row."""
        training = self.model is not None and self.model.training
        if training:
            mask = inputs.get("attention_mask")
            count = torch.tensor(inputs["position_ids"].numel()) if mask is None else mask.sum()
            self._total_train_tokens += self.accelerator.gather_for_metrics(count).sum().item()
        self._metrics["train" if training else "eval"]["num_tokens"] = [self._total_train_tokens]
