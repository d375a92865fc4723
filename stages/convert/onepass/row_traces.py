"""Where the converter puts the rows of each stored tensor, found without reading a weight.

Row numbers are passed through llama.cpp's model class in place of weights.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneline.stages.checkpoints.safetensors_files import StoredTensor
from tuneline.stages.convert.onepass.converter import make_converter

_PRIME = (1 << 31) - 1


@dataclass(frozen=True)
class RowTrace:
    """The rows of a stored tensor inside a tensor of the GGUF."""

    tensor: str
    """Name in the GGUF."""
    rows: int
    """Rows of the whole tensor in the GGUF."""
    order: Any
    """The row that each stored row becomes there, int64."""


def trace_rows(model: Path) -> dict[str, list[RowTrace]]:
    """Return the traces of each stored tensor whose rows the converter only moves, by name.

    Row numbers go through the converter, then a non-linear function of them: both results must agree.
    """
    import gguf
    import numpy as np
    import torch

    plain, mixed = (make_converter(model, gguf.LlamaFileType.MOSTLY_F16, model / "none", "none") for _ in range(2))
    sources: dict[str, StoredTensor] = plain.sources
    names = list(sources)
    starts = np.cumsum([0, *(source.rows for source in sources.values())])
    traces: dict[str, list[RowTrace]] = {}
    for start, (name, source) in zip(starts.tolist(), sources.items(), strict=False):
        if len(source.shape) not in (1, 2):
            continue
        ids = torch.arange(start, start + source.rows).view(-1, *[1] * (len(source.shape) - 1))
        for tensor, rows in _follow_rows(plain, mixed, name, ids):
            owners = np.searchsorted(starts, rows, "right") - 1
            if any((owners == owner).sum() != sources[names[owner]].rows for owner in set(owners)):
                continue  # only some rows of a tensor: left to the converter itself
            for owner in np.unique(owners):
                positions = np.flatnonzero(owners == owner)
                order = np.empty(len(positions), np.int64)
                order[rows[positions] - starts[owner]] = positions
                traces.setdefault(sources[names[owner]].name, []).append(RowTrace(tensor, len(rows), order))
    return traces


def find_gguf_names(model: Path) -> Mapping[str, str]:
    """Return the GGUF name of each stored weight that becomes one tensor, its rows moved or not."""
    return {name: traces[0].tensor for name, traces in trace_rows(model).items() if len(traces) == 1}


def _follow_rows(plain: Any, mixed: Any, name: str, ids: Any) -> Iterator[tuple[str, Any]]:
    """Yield the GGUF tensors that rows were moved into, each with the number of every row, int64.

    A tensor whose values were computed rather than moved is left out.
    """
    import numpy as np

    block = next((int(part) for part in name.split(".") if part.isdecimal()), None)
    try:
        outputs = list(plain.modify_tensors(ids, name, block))
        mixed_outputs = list(mixed.modify_tensors(_mix(ids), name, block))
    except (RuntimeError, ValueError, IndexError, ZeroDivisionError):
        return
    for (tensor, output), (mixed_tensor, mixed_output) in zip(outputs, mixed_outputs, strict=True):
        rows = output.reshape(-1).numpy().astype(np.int64)
        moved = tensor == mixed_tensor and (_mix(rows) == mixed_output.reshape(-1).numpy()).all()
        if moved and len(np.unique(rows)) == len(rows):
            yield tensor, rows


def _mix(numbers: Any) -> Any:
    """Return a function of the numbers that no sum or product of them preserves."""
    return (numbers * numbers + 7 * numbers) % _PRIME
