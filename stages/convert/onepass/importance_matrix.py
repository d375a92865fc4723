"""The importance matrix: how large each column's inputs are on the run's own training text, in llama.cpp's format.

Measured on base and adapter unmerged, before any file is made, so that one pass over the base still makes all files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneline.core.errors import StageFailed
from tuneline.stages.convert.conversations import load_tokenizer, read_conversations, render, tokenize
from tuneline.stages.convert.onepass.row_traces import find_gguf_names
from tuneline.stages.convert.reference_model import explain_too_large, load_tuned_model
from tuneline.stages.convert.task import Task

if TYPE_CHECKING:
    import torch

FILE = "imatrix.gguf"
MAX_ROWS = 4096
"""Rows of the training data that are read at most."""
DATASET = "train.jsonl"
IMPROVED_TYPES = ("Q4_0", "Q4_K_M", "Q5_K_M")
"""File types with few bits a weight; on larger types the matrix has no measurable effect."""


@dataclass(frozen=True)
class ImportanceMatrix:
    """An importance matrix in a file."""

    file: Path
    weights: Mapping[str, Any]
    """The weight of each column by tensor, fp32, [matrices, columns]."""
    dataset: str
    chunks: int

    @property
    def metadata(self) -> dict[str, str | int]:
        """What llama-quantize notes about it in a GGUF."""
        return {
            "quantize.imatrix.file": self.file.name,
            "quantize.imatrix.dataset": self.dataset,
            "quantize.imatrix.entries_count": len(self.weights),
            "quantize.imatrix.chunks_count": self.chunks,
        }


def measure_importance(task: Task) -> ImportanceMatrix:
    """Return the importance matrix in scratch, measured first unless it exists, on `task.imatrix.tokens` tokens.

    Raises:
        StageFailed: the base is too large for this machine, or the run has no conversations.
    """
    assert task.imatrix and task.adapter
    file = task.scratch / FILE
    if not file.exists():
        if reason := explain_too_large(task.base):
            raise StageFailed(f"convert.imatrix_tokens: {reason}; set it to 0, or give compute.convert.gpu")
        sequences = _read_sequences(task, task.imatrix.prepared, task.imatrix.tokens)
        if not sequences:
            raise StageFailed("convert.imatrix_tokens: the run has no conversations to measure on; set it to 0")
        sums = _sum_squared_inputs(load_tuned_model(task.base, task.adapter), sequences)
        unfinished = task.scratch / f"{FILE}.part"
        by_tensor = {gguf: sums[name] for name, gguf in find_gguf_names(task.base).items() if name in sums}
        _write(unfinished, by_tensor, sequences)
        unfinished.replace(file)
    return read_importance(file)


def read_importance(file: Path) -> ImportanceMatrix:
    """Return an importance matrix as llama-quantize reads it: the mean of squares by column."""
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
    return ImportanceMatrix(file, weights, DATASET, int(chunks.contents()))


def _read_sequences(task: Task, prepared: Path, tokens: int) -> list[list[int]]:
    """Return token ids of the training data's conversations, `tokens` in all."""
    tokenizer = load_tokenizer(task)
    sequences: list[list[int]] = []
    for conversation in read_conversations(prepared, (DATASET,), MAX_ROWS):
        left = tokens - sum(map(len, sequences))
        if left > 0:
            sequences.append(tokenize(tokenizer, render(tokenizer, conversation))[:left])
    return sequences


def _sum_squared_inputs(model: Any, sequences: Sequence[Sequence[int]]) -> dict[str, "torch.Tensor"]:
    """Return the squared inputs of each weight by column, summed over all tokens.

    The output matrix is left out, as in llama-imatrix.
    """
    import torch

    sums: dict[str, torch.Tensor] = {}

    def make_hook(name: str) -> Any:
        def add_inputs(module: Any, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
            squares = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).float().square().sum(0).cpu()
            sums[name] = sums.get(name, 0) + squares

        return add_inputs

    hooks = []
    for name, module in model.get_base_model().named_modules():
        plain = name.removesuffix(".base_layer")
        adapted = plain == name and hasattr(module, "base_layer")
        if isinstance(module, torch.nn.Linear) and not adapted and ".lora_" not in name and plain != "lm_head":
            hooks.append(module.register_forward_hook(make_hook(f"{plain}.weight")))
    with torch.inference_mode():
        for ids in sequences:
            model(torch.tensor([ids], device=model.device))
    for hook in hooks:
        hook.remove()
    return sums


def _write(file: Path, sums: Mapping[str, "torch.Tensor"], sequences: Sequence[Sequence[int]]) -> None:
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
