"""Interaction DCNv2-Mix (arXiv 2008.13535, equation 4): low-rank cross layers, each a gated mixture of experts.

E_i(x) = x_0 ⊙ (U_i g(C_i g(V_iᵀ x)) + b),   x_{l+1} = Σ_i softmax(G x_l)_i E_i(x_l) + x_l,   g = tanh
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from smt.training.components.component import Component, InteractionConfig, Width, component, matrix_flops
from smt.training.components.flat import flat


@component("interaction")
class CrossMixtureConfig(InteractionConfig):
    """DCNv2 with `experts` low-rank maps per layer, weighed by the row."""

    type: Literal["cross_mixture"]
    layers: Annotated[int, Field(ge=1, le=16)]
    experts: Annotated[int, Field(ge=2, le=64)]
    rank: Width

    def build(self, width: int, slots: int, dim: int) -> "CrossMixture":
        return CrossMixture(width + slots * dim, self)


class CrossMixture(Component):
    """dense [B, width - S dim], vectors [B, S, dim] -> [B, width]."""

    def __init__(self, width: int, config: CrossMixtureConfig) -> None:
        super().__init__()
        self.outputs = width
        n, rank, layers = config.experts, config.rank, range(config.layers)
        self.down = nn.ParameterList(nn.Parameter(torch.empty(n, rank, width)) for _ in layers)
        self.core = nn.ParameterList(nn.Parameter(torch.empty(n, rank, rank)) for _ in layers)
        self.up = nn.ParameterList(nn.Parameter(torch.empty(n, width, rank)) for _ in layers)
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(width)) for _ in layers)
        self.gate = nn.ParameterList(nn.Parameter(torch.zeros(n, width)) for _ in layers)
        for parts in [*self.down, *self.core, *self.up]:
            for matrix in parts:
                nn.init.xavier_normal_(matrix)

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        first = x = flat(dense, vectors)
        for down, core, up, bias, gate in zip(self.down, self.core, self.up, self.bias, self.gate, strict=True):
            h = torch.tanh(torch.einsum("bw,erw->ber", x, down))
            h = torch.tanh(torch.einsum("ber,esr->bes", h, core))
            share = torch.softmax(nn.functional.linear(x, gate), dim=1)
            # Shares add up to 1, so the bias is outside of the mixture.
            mixed = torch.einsum("ber,ewr->bw", h * share.unsqueeze(2), up)
            x = first * (mixed + bias) + x
        return x

    def flops(self) -> int:
        return matrix_flops(*self.down, *self.core, *self.up, *self.gate)
