"""TRL's SFTTrainer for rows that are already rendered and masked, in one process or in several."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from peft import PeftModel

from tuneline.stages.train.loop.adapter_files import save_adapter
from tuneline.stages.train.loop.loss import MaskedLossTrainer
from tuneline.stages.train.loop.row_order import TrainingOrder, append_filler, order_validation

OptimizerFactory = Callable[[PeftModel], torch.optim.Optimizer]


class Trainer(MaskedLossTrainer):
    """Counts the tokens in the loss; a step has the same `batch_rows` rows however many processes share them."""

    def __init__(self, *, batch_rows: int, make_optimizer: OptimizerFactory | None, **arguments: Any) -> None:
        self.batch_rows, self.make_optimizer, self.loss_tokens = batch_rows, make_optimizer, 0.0
        super().__init__(**arguments)

    @property
    def _train_batch_size(self) -> int:
        """Batch size of the current arguments; transformers would take the one saved with a checkpoint."""
        return self.args.train_batch_size

    @_train_batch_size.setter
    def _train_batch_size(self, rows: int) -> None: ...

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        samples, loss_tokens = super().get_batch_samples(*args, **kwargs)
        self.loss_tokens += float(loss_tokens or 0)
        return samples, loss_tokens

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the adapter; of a sharded model, transformers would save shards under the names of whole tensors."""
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
        else:
            assert output_dir
            save_adapter(cast(PeftModel, self.model), Path(output_dir))

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validate without touching the random state: a data loader draws a number, and dropout would be another."""
        with torch.random.fork_rng(devices=[self.args.device] if self.args.device.type == "cuda" else []):
            return super().evaluate(*args, **kwargs)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        if self.optimizer is None and self.make_optimizer:
            self.optimizer = self.make_optimizer(cast(PeftModel, self.model))
        return super().create_optimizer(*args, **kwargs)

    def _get_dataloader(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Any:
        return super()._get_dataloader(append_filler(dataset), *args, **kwargs)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> TrainingOrder:
        self.order = TrainingOrder(
            _read_lengths(train_dataset),
            batch_rows=self.batch_rows,
            multiple=self._process_multiple(self.args.train_batch_size),
            seed=self.args.seed,
        )
        return self.order

    def _run_epoch(self, model: Any, epoch: int, *arguments: Any, **named: Any) -> None:
        """Set the order's epoch first: when a run resumes in several processes, nothing else reaches the sampler."""
        self.order.set_epoch(epoch)
        super()._run_epoch(model, epoch, *arguments, **named)

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Any:
        return order_validation(_read_lengths(eval_dataset), self._process_multiple(self.args.eval_batch_size))

    def _process_multiple(self, micro_batch_rows: int) -> int:
        """Return what the number of rows must be a multiple of for all processes to compute as many batches."""
        processes = self.accelerator.num_processes
        return micro_batch_rows * processes if processes > 1 else 1


def _read_lengths(dataset: Any) -> list[int]:
    """Return the number of tokens of each row but the filler behind them."""
    return [len(ids) for ids in dataset["input_ids"]][:-1]
