"""TRL's SFTTrainer for rows that are already rendered and masked, in one process or in several."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from peft import PeftModel
from transformers.trainer_pt_utils import LengthGroupedSampler

from tuneline.stages.train.distributed.process_group import broadcast_from_main
from tuneline.stages.train.loop.adapter_files import save_adapter
from tuneline.stages.train.loop.loss import MaskedLossTrainer

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

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        if self.optimizer is None and self.make_optimizer:
            self.optimizer = self.make_optimizer(cast(PeftModel, self.model))
        return super().create_optimizer(*args, **kwargs)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Any:
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        return SharedLengthSampler(self.batch_rows, dataset=dataset, model_input_name="input_ids")


class SharedLengthSampler(LengthGroupedSampler):
    """Groups rows of similar length into a step; all processes take the main process's order."""

    def __iter__(self) -> Iterator[int]:
        return iter(broadcast_from_main(lambda: list(super(SharedLengthSampler, self).__iter__())))
