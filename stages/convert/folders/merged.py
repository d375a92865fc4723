"""A merged 16-bit checkpoint, for vLLM and whatever else loads Hugging Face folders.

Shards, names, types and headers stay the base's; the bits are those of PEFT's `merge_and_unload`.
"""

import shutil
from pathlib import Path

from tuneline.stages.checkpoints.lora_adapter import Adapter
from tuneline.stages.checkpoints.safetensors_files import is_tied, read_header, shards, stored
from tuneline.stages.convert.onepass.stream import SAME, Place, Progress, Target, stream

NOT_THE_MODELS = ("manifest.json", "draft.json")
TEMPLATE = "chat_template.jinja"


def merge(base: Path, adapter: Path, out: Path, progress: Progress, *, threads: int = 1) -> None:
    """Write base + adapter to the folder `out`; a killed call goes on where it was.

    Raises:
        BadRecipe: an adapter kind that cannot be merged exactly. StageFailed: adapter and base do not fit.
    """
    tensors, tuned = [tensor for shard in shards(base) for tensor in stored(shard)], Adapter(adapter)
    tuned.refuse_another_base(tensors, tied=is_tied(base))
    out.mkdir(parents=True, exist_ok=True)
    targets, places = merged_shards(base, out, 0)
    journal = out / ".journal"
    stream(tensors, places, targets, tuned, None, journal=journal, threads=threads, progress=progress, durable=False)
    copy_the_rest(base, out, None)
    journal.unlink()


def merged_shards(base: Path, out: Path, first: int) -> tuple[list[Target], dict[str, list[Place]]]:
    """The shards as files to write, counted from `first`, and the place of each tensor: where it was."""
    targets, places = [], {}
    for number, shard in enumerate(shards(base), first):
        start, _ = read_header(shard)
        with shard.open("rb") as file:
            targets.append(Target(out / shard.name, shard.stat().st_size, file.read(start)))
        for tensor in stored(shard):
            places[tensor.name] = [Place(number, True, SAME, tensor.offset, tensor.row_bytes)]
    return targets, places


def copy_the_rest(base: Path, out: Path, template: str | None) -> None:
    """Configuration and tokenizer, and the tuned model's chat template where it has its own."""
    for file in base.iterdir():
        if file.suffix != ".safetensors" and file.is_file() and file.name not in NOT_THE_MODELS:
            shutil.copyfile(file, out / file.name)
    if template is not None:
        (out / TEMPLATE).write_text(template, encoding="utf-8")
