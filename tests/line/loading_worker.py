"""Loads a base alone or, under torchrun, in shards; writes the memory it took to FOLDER/peak-RANK.json.

python -m tests.line.loading_worker BASE FOLDER RECIPE
"""

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState
from torch.distributed.tensor import DTensor
from transformers import core_model_loading

from tests.line import small
from tuneline.configs.recipe import Recipe
from tuneline.core.events import SilentEvents
from tuneline.stages.train.distributed.fsdp2 import adapt_accelerate, refuse_unsharded
from tuneline.stages.train.distributed.process_group import join_process_group
from tuneline.stages.train.model.base_model import load_model


class PeakMemory(threading.Thread):
    """The most memory of its own, without pages of mapped files, that this process holds until `stop`, in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = self.peak = read_own_memory()
        self.stopped = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.stopped.wait(0.001):
            self.peak = max(self.peak, read_own_memory())

    def stop(self) -> int:
        self.stopped.set()
        self.join()
        return self.peak - self.before


def read_own_memory() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8").split()
    return int(status[status.index("RssAnon:") + 1]) * 1024


def load(base: Path, recipe: Recipe, *, sharded: bool) -> tuple[Any, int]:
    events = SilentEvents(Path(), "train")
    memory = PeakMemory()
    model: Any = load_model(recipe.train, base, None, events, sharded=sharded)
    if sharded:
        model = shard(model)
        refuse_unsharded(model)
    return model, memory.stop()


def shard(model: Any, *, checkpointing: bool = False) -> Any:
    """Shard as the trainer does, by accelerate."""
    AcceleratorState._reset_state(reset_partial_state=True)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["LlamaDecoderLayer"],
        cpu_ram_efficient_loading=False,
        activation_checkpointing=checkpointing,
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return Accelerator(cpu=True, fsdp_plugin=plugin).prepare(model, torch.optim.AdamW(trained))[0]


def local(parameter: Any) -> torch.Tensor:
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def main(base: Path, folder: Path, recipe: Recipe) -> None:
    torch.set_num_threads(1)
    sharded = "RANK" in os.environ
    if sharded:
        join_process_group()
        adapt_accelerate(on_cpu=True)
    load(small.BASE, recipe, sharded=sharded)  # imports what loading imports
    reads: list[str] = []
    read = core_model_loading._materialize_copy
    core_model_loading._materialize_copy = lambda *words: reads.append("") or read(*words)
    model, peak = load(base, recipe, sharded=sharded)
    held = sum(local(parameter).numel() * parameter.element_size() for parameter in model.parameters())
    with torch.no_grad():
        logits = model(input_ids=torch.arange(1, 9)[None]).logits
    record = {"peak": peak, "held": held, "reads": len(reads), "logits": logits.flatten()[:64].tolist()}
    (folder / f"peak-{os.environ.get('RANK', 'whole')}.json").write_text(json.dumps(record))
    if sharded:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Recipe.model_validate_json(sys.argv[3]))
