"""The order in which the rows of a split are computed, and the empty rows that give every process as many as others."""

import random
from collections.abc import Iterator, Sequence

import torch
from datasets import Dataset, concatenate_datasets
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from tuneline.stages.train.loop.loss import IGNORED

FILLER = {"input_ids": [0], "labels": [IGNORED], "seq_lengths": [1]}
"""A row of one token outside the loss."""


def append_filler(dataset: Dataset) -> Dataset:
    """Return the rows with FILLER behind them."""
    columns = {name: [FILLER[name]] for name in dataset.column_names}
    return concatenate_datasets([dataset, Dataset.from_dict(columns, features=dataset.features)])


def order_validation(lengths: Sequence[int], multiple: int) -> list[int]:
    """Return the rows' numbers, longest row first, and fillers up to a `multiple`."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    return _fill(order, len(lengths), multiple)


class TrainingOrder(Sampler[int]):
    """The rows of an epoch with rows of similar length in a step, and fillers up to a `multiple` behind them.

    The order follows from seed and epoch alone: a run that goes on from a checkpoint takes the rows that are left.
    """

    def __init__(self, lengths: Sequence[int], *, batch_rows: int, multiple: int, seed: int) -> None:
        self.lengths, self.batch_rows, self.multiple = lengths, batch_rows, multiple
        self.seed, self.epoch = seed, 0

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.multiple) * self.multiple

    def set_epoch(self, epoch: int) -> None:
        """Take the order of this epoch, counted from 0, from the next iteration on."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(random.Random(f"{self.seed} {self.epoch}").getrandbits(32))
        order = get_length_grouped_indices(self.lengths, self.batch_rows, generator=generator)
        return iter(_fill(order, len(self.lengths), self.multiple))


def _fill(order: list[int], filler: int, multiple: int) -> list[int]:
    """Without them, accelerate would repeat the first rows in the processes that have no batch left at the end."""
    return order + [filler] * (-len(order) % multiple)
