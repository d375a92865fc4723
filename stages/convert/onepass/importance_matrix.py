"""The importance matrix: how large each column's inputs are on the run's own training text, in llama.cpp's format.

Measured on base and adapter unmerged, before any file is made, so that one pass over the base still makes them all.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneline.core.errors import StageFailed
from tuneline.stages.convert.onepass.gguf_plan import Importance, gguf_names
from tuneline.stages.convert.verification.reference_model import (
    own_talks,
    own_tokenizer,
    rendered,
    too_large,
    tuned_model,
)

if TYPE_CHECKING:
    import torch

    from tuneline.stages.convert.worker import Task

FILE = "imatrix.gguf"
MOST_ROWS = 4096
DATASET = "train.jsonl"


def measured(task: "Task", folder: Path) -> Importance:
    """`imatrix.gguf` in `folder`, made unless it is there, over `task.imatrix["tokens"]` tokens of the run's text.

    Raises:
        StageFailed: the base is too large for this machine, or the run has no such text.
    """
    assert task.imatrix and task.adapter
    file = folder / FILE
    if not file.exists():
        if why := too_large(Path(task.base)):
            raise StageFailed(f"convert.imatrix_tokens: {why}; set it to 0, or give compute.convert.gpu")
        tokenizer = own_tokenizer(task)
        talks = own_talks(Path(task.imatrix["prepared"]), (DATASET,), MOST_ROWS)
        sequences = _sequences(tokenizer, [rendered(tokenizer, talk) for talk in talks], task.imatrix["tokens"])
        if not sequences:
            raise StageFailed("convert.imatrix_tokens: the run has no conversations to measure on; set it to 0")
        sums = _sums(tuned_model(Path(task.base), Path(task.adapter)), sequences)
        part = folder / f"{FILE}.part"
        _write(
            part, {gguf: sums[name] for name, gguf in gguf_names(Path(task.base)).items() if name in sums}, sequences
        )
        part.replace(file)
    return read(file)


def read(file: Path) -> Importance:
    """As llama-quantize reads it: the mean of squares by column."""
    import gguf
    import numpy as np

    reader = gguf.GGUFReader(file)
    tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    weights = {}
    for name, sums in tensors.items():
        if name.endswith(".in_sum2"):
            tensor = name.removesuffix(".in_sum2")
            weights[tensor] = (sums.reshape(1, -1) / tensors[f"{tensor}.counts"].reshape(1, 1)).astype(np.float32)
    chunks = reader.get_field("imatrix.chunk_count")
    assert chunks
    return Importance(file, weights, DATASET, int(chunks.contents()))


def _sequences(tokenizer: Any, texts: Sequence[str], tokens: int) -> list[list[int]]:
    found: list[list[int]] = []
    for text in texts:
        left = tokens - sum(map(len, found))
        if left > 0:
            found.append(tokenizer(text, add_special_tokens=False).input_ids[:left])
    return found


def _sums(model: Any, sequences: list[list[int]]) -> dict[str, "torch.Tensor"]:
    """Sums of squared inputs by weight, over all tokens; the output matrix is left out, as llama-imatrix does."""
    import torch

    found: dict[str, torch.Tensor] = {}

    def listen(name: str) -> Any:
        def hook(module: Any, given: tuple[torch.Tensor, ...], out: Any) -> None:
            squares = given[0].detach().reshape(-1, given[0].shape[-1]).float().square().sum(0).cpu()
            found[name] = found.get(name, 0) + squares

        return hook

    hooks = []
    for name, module in model.get_base_model().named_modules():
        plain = name.removesuffix(".base_layer")
        adapted = plain == name and hasattr(module, "base_layer")
        if isinstance(module, torch.nn.Linear) and not adapted and ".lora_" not in name and plain != "lm_head":
            hooks.append(module.register_forward_hook(listen(f"{plain}.weight")))
    with torch.inference_mode():
        for ids in sequences:
            model(torch.tensor([ids], device=model.device))
    for hook in hooks:
        hook.remove()
    return found


def _write(file: Path, sums: dict[str, "torch.Tensor"], sequences: list[list[int]]) -> None:
    import gguf
    import numpy as np

    tokens = sum(map(len, sequences))
    writer = gguf.GGUFWriter(file, "imatrix")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", [DATASET])
    writer.add_uint32("imatrix.chunk_count", len(sequences))
    writer.add_uint32("imatrix.chunk_size", max(map(len, sequences)))
    for name, values in sorted(sums.items()):
        writer.add_tensor(f"{name}.in_sum2", values.numpy().reshape(1, -1))
        writer.add_tensor(f"{name}.counts", np.full((1, 1), tokens, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
