"""`train` and `watch` in a recipe: how the adapter is trained, and what raises an alert during training."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tuneline.configs.section import LEFT_OUT_UNLESS_SET, Section
from tuneline.core.paths import NAME

FEW_STEPS = 20
"""Below, a training without steps to warm up in lacks steps at all."""
_MORE_STEPS = ", and take more steps: with a lower train.batch_rows, more train.epochs or more rows"


class Train(Section):
    """How the adapter is trained."""

    method: Literal["qlora", "lora", "full"] = "qlora"
    """qlora: base in NF4 with double quantization. lora: base in 16 or 32 bit. full: all weights, for small models."""
    rank: int = Field(16, gt=0)
    alpha: int = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[Literal["attention", "mlp", "router", "experts"], ...] = ("attention", "mlp")
    """Module groups that receive LoRA adapters; `mlp` includes the shared expert."""
    modules_to_save: tuple[Literal["embeddings", "head"], ...] = ()
    """Modules that are trained fully, in addition to the adapter."""
    init_from: str | None = Field(None, pattern=rf"^{NAME.pattern}$")
    """A run whose adapter training starts from; its targets and rank must be the same."""
    adopted: Annotated[str | None, LEFT_OUT_UNLESS_SET] = Field(None, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of weights made elsewhere, which `tuneline adopt` put into the run; such a run is not trained."""
    learning_rate: float = Field(2e-4, gt=0)
    final_learning_rate: float = Field(0.0, ge=0)
    """The learning rate at the end of a cosine schedule."""
    lora_plus: float = Field(1.0, ge=1)
    """Ratio of the learning rates of the adapter's B and A (LoRA+, arXiv 2402.12354); 1 is plain LoRA."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = Field(20, ge=0)
    epochs: float = Field(1.0, gt=0)
    max_steps: int | None = Field(None, gt=0)
    """Training stops after this many steps, whatever `epochs` is."""
    batch_rows: int = Field(32, gt=0)
    """Rows per optimizer step, over all GPUs; micro-batch and accumulation follow from the hardware."""
    max_gradient_norm: float = Field(1.0, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    save_steps: int = Field(50, gt=0)
    """Steps between checkpoints."""
    evaluate_steps: int = Field(50, gt=0)
    """Steps between measurements of the validation loss."""
    keep: Literal["last", "best"] = "last"
    """Which weights are the result: those of the last step, or those with the lowest validation loss."""
    patience: int | None = Field(None, gt=0)
    """Training stops after so many validations in a row without a lower loss; None: never."""
    min_delta: float = Field(0.0, ge=0)
    """Smallest decrease, in nats per token, that counts as a lower loss."""
    packing: bool = False
    """Whether rows are packed into sequences of `data.max_tokens`; each row attends only to itself."""
    seed: int = 0

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if not self.targets and self.method != "full":
            raise ValueError("targets: at least one; `full` needs none")
        if "router" in self.targets and self.dropout:
            raise ValueError(f"dropout: {self.dropout}: must be 0 with the target router, which is a Parameter")
        if self.method == "full" and (self.modules_to_save or self.init_from):
            raise ValueError("method full trains every weight: modules_to_save and init_from require lora or qlora")
        if self.final_learning_rate and self.schedule != "cosine":
            raise ValueError(f"final_learning_rate requires the cosine schedule, not {self.schedule}")
        return self

    def describe_short_warmup(self, steps: int) -> str | None:
        """Return that so many steps end within the warm-up, and what to change; None if they do not.

        The trainer raises the learning rate by an equal part in every step, from 0: the first step changes nothing.
        """
        if self.schedule == "constant" or steps > self.warmup_steps:
            return None
        rate = self.learning_rate * (steps - 1) / self.warmup_steps
        reached = f"only rises to {rate:.3g} of {self.learning_rate:g}" if rate else "stays 0: nothing is learned"
        return (
            f"train.warmup_steps: {self.warmup_steps}: the training has {steps} step{'s' if steps > 1 else ''}, and "
            f"its learning rate {reached}; lower train.warmup_steps (to {steps // 10}, say)"
            f"{_MORE_STEPS if steps < FEW_STEPS else ''}"
        )


class Watch(Section):
    """Alert thresholds. An alert appears in the log, the terminal and W&B; training goes on."""

    gradient_norm: float | None = Field(None, gt=0)
    """Alert at this gradient norm or above."""
    memory_gb: float | None = Field(None, gt=0)
    """Alert at this peak of GPU memory or above, in GB of 10^9 bytes."""
    loss: Literal["falling"] | None = None
    """Alert when the mean loss of a hundred steps is not below that of the hundred before."""
