"""Llama 4's experts, each run on the tokens that chose it: the stock forward runs every expert on every token.

The stock layer multiplies a token by the expert's score before the expert, and an unchosen expert's score is 0, so its
rows are zeros, which a bias-free expert makes zeros of. Leaving them out changes no output and no gradient, but for
the order of sums. Source: transformers, models/llama4/modeling_llama4.py, Llama4TextMoe.forward.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from transformers.models.llama4.modeling_llama4 import Llama4TextMoe


class SparseMoe(Llama4TextMoe):
    """`Llama4TextMoe` with the same weights and outputs, its experts fused or a module each."""

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden_TH = hidden_states.reshape(-1, self.hidden_dim)
        scores_TE, logits_TE = self.router(hidden_TH)
        chosen_TK = logits_TE.detach().topk(self.top_k, dim=1).indices
        # Tokens sorted by their expert: each expert's are one slice.
        order = chosen_TK.flatten().argsort(stable=True)
        token_of = order.div(self.top_k, rounding_mode="floor")
        counts = torch.bincount(chosen_TK.flatten(), minlength=self.num_experts).tolist()
        scores = scores_TE.gather(1, chosen_TK).flatten()[order]
        routed = hidden_TH.index_select(0, token_of) * scores[:, None]
        run = self._experts()
        # Several processes add up gradients: an expert nobody chose here must have one, too, of zeros.
        all_experts = self.training and dist.is_initialized()
        answers = [run[e](rows) for e, rows in enumerate(routed.split(counts)) if len(rows) or all_experts]
        out = self.shared_expert(hidden_TH)
        return out.index_add(0, token_of, torch.cat(answers).to(out.dtype)), logits_TE

    def _experts(self) -> Sequence[Callable[[torch.Tensor], torch.Tensor]]:
        experts = self.experts
        if isinstance(experts, nn.ModuleList):
            return list(experts)
        # Unbound at once: indexing would make a gradient of the whole tensor's size for each expert.
        pairs = zip(experts.gate_up_proj.unbind(), experts.down_proj.unbind(), strict=True)
        return [partial(_fused, experts.act_fn, gate_up, down) for gate_up, down in pairs]


def _fused(
    activation: Callable[[torch.Tensor], torch.Tensor], gate_up: torch.Tensor, down: torch.Tensor, rows: torch.Tensor
) -> torch.Tensor:
    gate, up = (rows @ gate_up).chunk(2, dim=-1)
    return (up * activation(gate)) @ down


def use_sparse_experts(model: nn.Module) -> int:
    """Make every mixture of experts in `model` sparse; how many there are."""
    layers = list(_mixtures(model))
    for layer in layers:
        if not isinstance(layer, SparseMoe):
            layer.__class__ = SparseMoe  # the same weights under another forward
    return len(layers)


def _mixtures(model: nn.Module) -> Iterator[Llama4TextMoe]:
    return (module for module in model.modules() if isinstance(module, Llama4TextMoe))
