"""Interaction of stacked factorization machines (Wukong, arXiv 2403.02545).

A layer turns n vectors X [n, d] into f + l vectors, and layer l reaches interactions of order 2^l:

    FMB(X) = MLP(LN(flatten(X (Xᵀ Y)))) as [f, d],   LCB(X) = W X as [l, d]
    X' = LN([FMB(X); LCB(X)] + R X)

Y [n, rank] is the learned projection of the optimised FM; R is the identity where n = f + l.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from smt.training.components.component import Component, InteractionConfig, Units, Width, component, matrix_flops
from smt.training.components.stack import Stack
from smt.training.components.tokens import Tokens

Vectors = Annotated[int, Field(ge=1, le=4096)]


@component("interaction")
class WukongConfig(InteractionConfig):
    """`layers` layers with `fm` + `linear` output vectors, FM rank `rank`, and MLPs of hidden widths `units`."""

    type: Literal["wukong"]
    layers: Annotated[int, Field(ge=1, le=16)]
    fm: Vectors
    linear: Vectors
    rank: Width
    units: Units

    def build(self, width: int, slots: int, dim: int) -> "Wukong":
        return Wukong(width, slots, dim, self)


class _Layer(nn.Module):
    def __init__(self, n: int, dim: int, config: WukongConfig) -> None:
        super().__init__()
        self.dim = dim
        out = config.fm + config.linear
        self.project = nn.Parameter(torch.empty(n, config.rank))
        self.fm_norm = nn.LayerNorm(n * config.rank)
        self.mlp = Stack(n * config.rank, [*config.units, config.fm * dim], last=False)
        self.compress = nn.Parameter(torch.empty(config.linear, n))
        self.residual = nn.ParameterList(nn.Parameter(torch.empty(out, n)) for _ in range(n != out))
        self.norm = nn.LayerNorm(dim)
        for matrix in [self.project, self.compress, *self.residual]:
            nn.init.xavier_normal_(matrix)

    def forward(self, x: Tensor) -> Tensor:
        fm = x @ (x.transpose(1, 2) @ self.project)
        fm = self.mlp(self.fm_norm(fm.flatten(1))).unflatten(1, (-1, self.dim))
        shortcut = torch.matmul(self.residual[0], x) if self.residual else x
        return self.norm(torch.cat([fm, torch.matmul(self.compress, x)], dim=1) + shortcut)  # type: ignore[no-any-return]

    def flops(self) -> int:
        pairs = 2 * matrix_flops(self.project) * self.dim
        return pairs + self.mlp.flops() + self.dim * matrix_flops(self.compress, *self.residual)


class Wukong(Component):
    """dense [B, width], vectors [B, S, dim] -> [B, (fm + linear) · dim]."""

    def __init__(self, width: int, slots: int, dim: int, config: WukongConfig) -> None:
        super().__init__()
        out = config.fm + config.linear
        self.tokens = Tokens(width, dim)
        self.layers = nn.ModuleList(_Layer(out if i else slots + 1, dim, config) for i in range(config.layers))
        self.outputs = out * dim

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        x: Tensor = self.tokens(dense, vectors)
        for layer in self.layers:
            x = layer(x)
        return x.flatten(1)

    def flops(self) -> int:
        return self.tokens.flops() + sum(layer.flops() for layer in self.layers)  # type: ignore[operator]
