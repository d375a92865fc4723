"""FlashAttention for packed rows: each document of a row attends to itself, without a mask of row length squared.

The function comes from the package flash-attn where it is installed, else from the hub's kernel that an image holds.
transformers 5.23 loads kernels of the hub by `kernels` 0.18.2 or newer only; this is all that it would do with one.
"""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tuneline.core.attention_kernels import FLASH_ATTENTION, read_kernel_commits
from tuneline.core.events import Events

ATTENTION = "packed_varlen"
"""Its name in transformers, which treats names with `flash` as packages of its own list."""
Attend = Callable[..., torch.Tensor]
"""`flash_attn_varlen_func` (github.com/Dao-AILab/flash-attention): tokens × heads × size, and where documents begin."""


def register_packed_attention(events: Events) -> str | None:
    """Return the name of an attention for packed rows, or None without FlashAttention; a note says which it is."""
    found = _find_varlen_function()
    if found is None:
        events.emit("note", text="packed rows: PyTorch's attention with a mask; no FlashAttention is installed")
        return None
    attend, origin = found
    AttentionInterface.register(ATTENTION, _make_forward(attend))
    AttentionMaskInterface.register(ATTENTION, _make_mask)
    events.emit("note", text=f"packed rows: FlashAttention of {origin}")
    return ATTENTION


def _find_varlen_function() -> tuple[Attend, str] | None:
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        commit = read_kernel_commits().get(FLASH_ATTENTION)
        if commit is None:
            return None
        from kernels import get_kernel

        return get_kernel(FLASH_ATTENTION, revision=commit).flash_attn_varlen_func, f"{FLASH_ATTENTION} at {commit}"
    try:
        return flash_attn_varlen_func, f"flash-attn {version('flash-attn')}"
    except PackageNotFoundError:
        return flash_attn_varlen_func, "flash-attn"


def _make_mask(*, attention_mask: torch.Tensor | None = None, **keywords: Any) -> torch.Tensor | None:
    """Return None for packed rows, which come without a padding mask, else the mask for PyTorch's attention."""
    return None if attention_mask is None else sdpa_mask(attention_mask=attention_mask, **keywords)


def _make_forward(attend: Attend) -> Callable[..., tuple[torch.Tensor, None]]:
    def forward(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        sliding_window: int | None = None,
        cu_seq_lens_q: torch.Tensor | None = None,
        max_length_q: int | None = None,
        **keywords: Any,
    ) -> tuple[torch.Tensor, None]:
        """Return batch × tokens × heads × size; TRL's collator gives `cu_seq_lens_q` where rows are packed."""
        if cu_seq_lens_q is None:
            return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **keywords)
        batch, dtype = query.shape[0], query.dtype
        # The kernel takes 16 bit only; layers in fp32 are the norms of a quantized model.
        narrow = torch.bfloat16 if dtype == torch.float32 and query.is_cuda else dtype
        documents = (states.transpose(1, 2).flatten(0, 1).to(narrow) for states in (query, key, value))
        lengths = (cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
        window = {} if sliding_window is None else {"window_size": (sliding_window - 1, 0)}
        attended = attend(*documents, *lengths, dropout_p=dropout, softmax_scale=scaling, causal=True, **window)
        return attended.unflatten(0, (batch, -1)).to(dtype), None

    return forward
