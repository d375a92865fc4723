"""TRL's SFTTrainer for rows that are rendered and masked by us, in one process or in several."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from datasets import Dataset
from peft import PeftModel
from torch.distributed.tensor import DTensor
from transformers.trainer_pt_utils import LengthGroupedSampler

from tuneline.stages.train.loop.loss import LearnedTokens

Made = TypeVar("Made")
Optimizer = Callable[[PeftModel], torch.optim.Optimizer]


class Trainer(LearnedTokens):
    """Counts what is learned; and the same rows make a step, however many processes share them."""

    def __init__(self, *, batch_rows: int, make_optimizer: Optimizer | None, **more: Any) -> None:
        self.batch_rows, self.make_optimizer, self.learned = batch_rows, make_optimizer, 0.0
        super().__init__(**more)

    @property
    def _train_batch_size(self) -> int:
        """Of these settings; transformers would take what it was when a checkpoint was saved."""
        return self.args.train_batch_size

    @_train_batch_size.setter
    def _train_batch_size(self, rows: int) -> None: ...

    def get_batch_samples(self, *words: Any, **more: Any) -> Any:
        samples, learned = super().get_batch_samples(*words, **more)
        self.learned += float(learned or 0)
        return samples, learned

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Of a sharded model the trainer would save shards under the names of whole tensors."""
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
        else:
            assert output_dir
            save_adapter(cast(PeftModel, self.model), Path(output_dir))

    def create_optimizer(self, *words: Any, **more: Any) -> Any:
        if self.optimizer is None and self.make_optimizer:
            self.optimizer = self.make_optimizer(cast(PeftModel, self.model))
        return super().create_optimizer(*words, **more)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Any:
        rows = train_dataset if train_dataset is not None else self.train_dataset
        return Grouped(self.batch_rows, dataset=rows, model_input_name="input_ids")


class Grouped(LengthGroupedSampler):
    """Rows of a step near each other in length; in several processes, all take the first one's order."""

    def __iter__(self) -> Iterator[int]:
        return iter(from_first(lambda: list(super(Grouped, self).__iter__())))


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def any_process(flag: bool) -> bool:
    """Whether it is so in any of them."""
    if world() == 1:
        return flag
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    told = torch.tensor([int(flag)], device=device)
    dist.all_reduce(told, op=dist.ReduceOp.MAX)
    return bool(told.item())


def from_first(made: Callable[[], Made]) -> Made:
    """What the first process makes, in all of them."""
    if world() == 1:
        return made()
    told = [made() if is_first() else None]
    dist.broadcast_object_list(told, src=0)
    return cast(Made, told[0])


def is_first() -> bool:
    """Whether this process is the one that tells and writes."""
    return not dist.is_initialized() or dist.get_rank() == 0


def save_adapter(model: PeftModel, folder: Path) -> None:
    """In PEFT's format, its shards made whole; every process calls, the first one writes."""
    whole = None
    if world() > 1:
        learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
        whole = {name: _whole(parameter) for name, parameter in learned.items()}
    if is_first():
        # Else PEFT asks the hub about the embeddings.
        model.save_pretrained(str(folder), state_dict=whole, save_embedding_layers=False)
    if world() > 1:
        dist.barrier()


def _whole(parameter: torch.nn.Parameter) -> torch.Tensor:
    data = parameter.detach()
    return data.full_tensor().cpu() if isinstance(data, DTensor) else data.cpu()
