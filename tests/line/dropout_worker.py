"""Under torchrun: gradients of a sharded model with dropout, its layers kept, recomputed by accelerate, and by us.

python -m torch.distributed.run … -m tests.line.dropout_worker FOLDER RECIPE
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import accelerator as accelerate_accelerator
from accelerate.utils import fsdp2_apply_ac

from tests.line import small
from tests.line.loading_worker import shard
from tuneline.configs.recipe import Recipe
from tuneline.core.events import SilentEvents
from tuneline.stages.train.distributed.fsdp2 import adapt_accelerate, checkpoint_layers
from tuneline.stages.train.distributed.process_group import join_process_group
from tuneline.stages.train.model.base_model import load_model

WAYS = {"kept": None, "accelerate": fsdp2_apply_ac, "ours": checkpoint_layers}


def compute_gradients(recipe: Recipe, way: str) -> list[float]:
    torch.manual_seed(0)
    model = load_model(recipe.train, small.BASE, None, SilentEvents(Path(), "train"), sharded=True)
    if WAYS[way]:
        accelerate_accelerator.fsdp2_apply_ac = WAYS[way]
    model = shard(model, checkpointing=WAYS[way] is not None).train()
    torch.manual_seed(7 + dist.get_rank())
    tokens = torch.arange(2, 34)[None] + 64 * dist.get_rank()
    model(input_ids=tokens, labels=tokens).loss.backward()
    gradients = [p.grad.full_tensor().flatten() for name, p in model.named_parameters() if "lora_B" in name]
    return [float(value) for value in torch.cat(gradients)[::97]]


def main(folder: Path, recipe: Recipe) -> None:
    torch.set_num_threads(1)
    join_process_group()
    adapt_accelerate(on_cpu=True)
    gradients = {way: compute_gradients(recipe, way) for way in WAYS}
    if dist.get_rank() == 0:
        (folder / "gradients.json").write_text(json.dumps(gradients))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Recipe.model_validate_json(sys.argv[2]))
