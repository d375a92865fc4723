"""Cross-entropy over the tokens of the loss mask; no logits are computed for other positions."""

from typing import Any

import torch
import torch.nn.functional as F
from trl import SFTTrainer

IGNORED = -100
"""Label of a token outside the loss mask; PyTorch's `ignore_index`."""


class MaskedLossTrainer(SFTTrainer):
    """TRL's trainer with the same training loss, to float tolerance, but no vocabulary-sized logits for prompt tokens.

    TRL multiplies every position with the vocabulary, and again for entropy and accuracy, which Tuneline does not
    report: a quarter to a third of a step on a CPU where half of the tokens are prompt.

    Losses are sums over tokens divided by their number, in training over the tokens of a step and in validation over
    those of the whole split, whatever the rows computed at a time and the number of processes. In validation,
    transformers takes the mean of the batches' means, in which the tokens of short rows weigh more.
    """

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return this batch's share of the step's loss; `num_items_in_batch` is the number of tokens in the step."""
        losses, outputs = _compute_token_losses(model, inputs)
        loss = losses.sum() / num_items_in_batch
        if self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # the count is over all processes, and DDP takes the mean
        self._count_tokens(inputs)
        return (loss, outputs) if return_outputs else loss

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Return transformers' output with the loss over all tokens as `eval_loss`; NaN without tokens."""
        self._evaluated = torch.zeros(2, dtype=torch.float64, device=self.args.device)  # loss, tokens
        output: Any = super().evaluation_loop(*args, **kwargs)
        loss, tokens = self.accelerator.reduce(self._evaluated, reduction="sum")
        output.metrics["eval_loss"] = (loss / tokens).item()
        return output

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> tuple[None, None, None]:
        """Add the batch to the sums of `evaluation_loop`, which gets no loss of a batch to take the mean of."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            losses, _ = _compute_token_losses(model, inputs)
        self._evaluated += torch.stack([losses.sum(dtype=torch.float64), (inputs["labels"][:, 1:] != IGNORED).sum()])
        return None, None, None

    def _count_tokens(self, inputs: Any) -> None:
        """Count the tokens read as TRL does: without padding, or all of a packed row."""
        mask = inputs.get("attention_mask")
        count = torch.tensor(inputs["position_ids"].numel()) if mask is None else mask.sum()
        self._total_train_tokens += self.accelerator.gather(count.to(self.args.device)).sum().item()
        self._metrics["train"]["num_tokens"] = [self._total_train_tokens]


def _compute_token_losses(model: Any, inputs: Any) -> tuple[torch.Tensor, Any]:
    """Return the losses at the positions where a row has a token in the loss, 0 for other rows; and the outputs."""
    labels = inputs["labels"][:, 1:]
    columns = (labels != IGNORED).any(0).nonzero()[:, 0]
    model_inputs = {name: value for name, value in inputs.items() if name != "labels"}
    outputs = model(**model_inputs | {"use_cache": False, "logits_to_keep": columns})
    logits = outputs.logits.float().flatten(0, 1)
    losses = F.cross_entropy(logits, labels[:, columns].flatten(), ignore_index=IGNORED, reduction="none")
    return losses, outputs
