"""Interaction of DCNv2: cross layers (arXiv 2008.13535), low-rank or full, on all feature vectors side by side.

x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l, with W = U Vᵀ of a rank when low-rank.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from smt.kernels.cross import cross_full, cross_low_rank
from smt.training.components.component import Component, InteractionConfig, Width, component, matrix_flops
from smt.training.components.flat import flat

Layers = Annotated[int, Field(ge=1, le=16)]


@component("interaction")
class CrossLowRankConfig(InteractionConfig):
    """DCNv2 with W = U Vᵀ of the given rank."""

    fused = True
    type: Literal["cross_low_rank"]
    layers: Layers
    rank: Width

    def build(self, width: int, slots: int, dim: int) -> "CrossLowRank":
        return CrossLowRank(width + slots * dim, self)


@component("interaction")
class CrossFullConfig(InteractionConfig):
    """DCNv2 with full matrices."""

    fused = True
    type: Literal["cross_full"]
    layers: Layers

    def build(self, width: int, slots: int, dim: int) -> "CrossFull":
        return CrossFull(width + slots * dim, self)


class CrossLowRank(Component):
    """dense [B, width - S dim], vectors [B, S, dim] -> [B, width]."""

    def __init__(self, width: int, config: CrossLowRankConfig) -> None:
        super().__init__()
        self.outputs = width
        self.down = nn.ParameterList(nn.Parameter(torch.empty(config.rank, width)) for _ in range(config.layers))
        self.up = nn.ParameterList(nn.Parameter(torch.empty(width, config.rank)) for _ in range(config.layers))
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(width)) for _ in range(config.layers))
        for matrix in [*self.down, *self.up]:
            nn.init.xavier_normal_(matrix)

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        return cross_low_rank(flat(dense, vectors), list(self.down), list(self.up), list(self.bias))

    def flops(self) -> int:
        return matrix_flops(*self.down, *self.up)


class CrossFull(Component):
    """dense [B, width - S dim], vectors [B, S, dim] -> [B, width]."""

    def __init__(self, width: int, config: CrossFullConfig) -> None:
        super().__init__()
        self.outputs = width
        self.weight = nn.ParameterList(nn.Parameter(torch.empty(width, width)) for _ in range(config.layers))
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(width)) for _ in range(config.layers))
        for weight in self.weight:
            nn.init.xavier_normal_(weight)

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        return cross_full(flat(dense, vectors), list(self.weight), list(self.bias))

    def flops(self) -> int:
        return matrix_flops(*self.weight)
