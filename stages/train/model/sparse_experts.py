"""Llama 4's experts, each run only on the tokens routed to it; the stock forward runs every expert on every token.

The stock layer multiplies a token by the expert's score before the expert. The score of an expert that was not chosen
is 0, so its input rows are zeros, and a bias-free expert maps zeros to zeros. Leaving these rows out changes outputs
and gradients only in the order of sums. Source: transformers, models/llama4/modeling_llama4.py, Llama4TextMoe.forward.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from transformers.models.llama4.modeling_llama4 import Llama4TextMoe


class SparseMoe(Llama4TextMoe):
    """`Llama4TextMoe` with the same weights and outputs; its experts are fused, or one module each."""

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden_TH = hidden_states.reshape(-1, self.hidden_dim)
        scores_TE, logits_TE = self.router(hidden_TH)
        chosen_TK = logits_TE.detach().topk(self.top_k, dim=1).indices
        # Sorted by expert, the tokens of each expert are one slice.
        order = chosen_TK.flatten().argsort(stable=True)
        token_indices = order.div(self.top_k, rounding_mode="floor")
        counts = torch.bincount(chosen_TK.flatten(), minlength=self.num_experts).tolist()
        scores = scores_TE.gather(1, chosen_TK).flatten()[order]
        routed = hidden_TH.index_select(0, token_indices) * scores[:, None]
        experts = self._callable_experts()
        # Processes sum their gradients, so an expert without tokens here needs a gradient of zeros.
        all_experts = self.training and dist.is_initialized()
        outputs = [experts[e](rows) for e, rows in enumerate(routed.split(counts)) if len(rows) or all_experts]
        total = self.shared_expert(hidden_TH)
        return total.index_add(0, token_indices, torch.cat(outputs).to(total.dtype)), logits_TE

    def _callable_experts(self) -> Sequence[Callable[[torch.Tensor], torch.Tensor]]:
        experts = self.experts
        if isinstance(experts, nn.ModuleList):
            return list(experts)
        # unbind: indexing would create a gradient of the whole tensor's size for each expert.
        pairs = zip(experts.gate_up_proj.unbind(), experts.down_proj.unbind(), strict=True)
        return [partial(_run_fused, experts.act_fn, gate_up, down) for gate_up, down in pairs]


def _run_fused(
    activation: Callable[[torch.Tensor], torch.Tensor], gate_up: torch.Tensor, down: torch.Tensor, rows: torch.Tensor
) -> torch.Tensor:
    gate, up = (rows @ gate_up).chunk(2, dim=-1)
    return (up * activation(gate)) @ down


def use_sparse_experts(model: nn.Module) -> int:
    """Make every mixture of experts in `model` sparse; return how many there are."""
    layers = list(_find_mixtures(model))
    for layer in layers:
        if not isinstance(layer, SparseMoe):
            layer.__class__ = SparseMoe  # the same weights under another forward
    return len(layers)


def _find_mixtures(model: nn.Module) -> Iterator[Llama4TextMoe]:
    return (module for module in model.modules() if isinstance(module, Llama4TextMoe))
