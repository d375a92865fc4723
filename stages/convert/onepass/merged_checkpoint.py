"""The merged 16-bit checkpoint, for vLLM and whatever else loads Hugging Face folders.

Shards, names, types and headers are the base's; the weights are bit by bit those of PEFT's `merge_and_unload`.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from tuneline.stages.checkpoints.base_config import CHAT_TEMPLATE, is_tied, read_config
from tuneline.stages.checkpoints.lora_adapter import Adapter
from tuneline.stages.checkpoints.safetensors_files import list_model_tensors, list_shards, list_tensors, read_header
from tuneline.stages.convert.onepass.output_files import SAME, Destination, OutputFile
from tuneline.stages.convert.onepass.progress import Progress
from tuneline.stages.convert.onepass.stream import stream_tensors
from tuneline.stages.prepare.rendering.stop_tokens import GENERATION_CONFIG

NOT_COPIED = ("manifest.json", "draft.json")
"""Files beside the base's that are not the model's."""


def merge_adapter(base: Path, adapter: Path, out: Path, progress: Progress, *, threads: int = 1) -> None:
    """Write base + adapter to the folder `out`; a killed call is continued.

    Raises:
        BadRecipe: an adapter kind that cannot be merged exactly. StageFailed: the adapter is of another base.
    """
    tensors, loaded = list_model_tensors(base), Adapter(adapter)
    loaded.check_base(tensors, tied=is_tied(read_config(base)))
    out.mkdir(parents=True, exist_ok=True)
    files, destinations = plan_shards(base, out, 0)
    journal = out / ".journal"
    stream_tensors(
        tensors, destinations, files, loaded, None, journal=journal, threads=threads, progress=progress, durable=False
    )
    copy_other_files(base, out, None)
    journal.unlink()


def plan_shards(base: Path, out: Path, first: int) -> tuple[list[OutputFile], dict[str, list[Destination]]]:
    """Return the shards to write, indexed from `first` on, and each tensor's destination: where it is in the base."""
    files, destinations = [], {}
    for index, shard in enumerate(list_shards(base), first):
        start, _ = read_header(shard)
        with shard.open("rb") as file:
            files.append(OutputFile(out / shard.name, shard.stat().st_size, file.read(start)))
        for tensor in list_tensors(shard):
            destinations[tensor.name] = [Destination(index, True, SAME, tensor.offset, tensor.row_bytes)]
    return files, destinations


def copy_other_files(base: Path, out: Path, template: str | None) -> None:
    """Copy configuration and tokenizer, and write the tuned model's chat template if it has its own."""
    for file in base.iterdir():
        if file.suffix != ".safetensors" and file.is_file() and file.name not in NOT_COPIED:
            shutil.copyfile(file, out / file.name)
    if template is not None:
        (out / CHAT_TEMPLATE).write_text(template, encoding="utf-8")


def write_stop_tokens(folder: Path, stops: Sequence[int]) -> None:
    """Write into a checkpoint's generation config the ids at which engines stop, if it does not say so already."""
    file = folder / GENERATION_CONFIG
    settings = json.loads(file.read_text("utf-8")) if file.exists() else {}
    configured = settings.get("eos_token_id")
    if set(stops) - set(configured if isinstance(configured, list) else [configured]):
        file.write_text(json.dumps(settings | {"eos_token_id": list(stops)}, indent=2), encoding="utf-8")
