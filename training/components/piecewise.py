"""Numeric embeddings by piecewise linear encoding (PLE, arXiv 2203.05556).

A dense value x is written as how far it got through each of K bins, open at both ends, and embedded linearly:

    c_k = (x - t_k) / (t_{k+1} - t_k), clamped to [0, 1] (the first not from below, the last not from above)
    e = Σ_k c_k v_k + b

The paper takes the boundaries t from quantiles of the data. Dense values come normalised here, so they begin at the
quantiles of the normal distribution, and are learned: widths are softplus of parameters, which keeps them in order.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from smt.training.components.component import Component, NumericConfig, component, matrix_flops


@component("numeric")
class PiecewiseConfig(NumericConfig):
    """`bins` bins per dense value."""

    type: Literal["piecewise_linear"]
    bins: Annotated[int, Field(ge=2, le=256)] = 8

    def build(self, dense: int, dim: int) -> "Piecewise":
        return Piecewise(dense, dim, self.bins)


class Piecewise(Component):
    """dense [B, D] -> [B, D, dim]."""

    def __init__(self, dense: int, dim: int, bins: int) -> None:
        super().__init__()
        self.outputs = dense
        shares = torch.linspace(0, 1, bins + 3)[1:-1]
        boundaries = torch.erfinv(2 * shares - 1) * 2**0.5  # bins + 1 quantiles of the normal distribution
        self.start = nn.Parameter(boundaries[0].expand(dense).clone())
        self.width = nn.Parameter(torch.log(torch.expm1(boundaries.diff())).expand(dense, bins).clone())
        self.weight = nn.Parameter(torch.randn(dense, bins, dim) / (bins * dim) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(dense, dim))

    def forward(self, dense: Tensor) -> Tensor:
        width = nn.functional.softplus(self.width)
        begin = self.start.unsqueeze(1) + torch.cumsum(width, dim=1) - width
        share = (dense.unsqueeze(2) - begin) / width
        first, inner, last = share[:, :, :1], share[:, :, 1:-1], share[:, :, -1:]
        code = torch.cat([first.clamp(max=1), inner.clamp(0, 1), last.clamp(min=0)], dim=2)
        return torch.einsum("bdk,dke->bde", code, self.weight) + self.bias

    def flops(self) -> int:
        return matrix_flops(self.weight)
