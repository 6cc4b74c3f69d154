"""Numeric embeddings by soft discretisation (AutoDis, arXiv 2012.08986).

Each dense value x_j chooses softly among H meta-embeddings of its own:

    h_j = leaky_relu(w_j x_j),   z_j = softmax((W_j h_j + α h_j) / τ),   e_j = z_jᵀ M_j
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from smt.training.components.component import Component, NumericConfig, component, matrix_flops


@component("numeric")
class AutoDisConfig(NumericConfig):
    """`buckets` meta-embeddings per dense value; `skip` is α."""

    type: Literal["autodis"]
    buckets: Annotated[int, Field(ge=2, le=256)] = 16
    temperature: Annotated[float, Field(gt=0, le=100)] = 1.0
    skip: Annotated[float, Field(ge=0, le=10)] = 0.5

    def build(self, dense: int, dim: int) -> "AutoDis":
        return AutoDis(dense, dim, self)


class AutoDis(Component):
    """dense [B, D] -> [B, D, dim]."""

    def __init__(self, dense: int, dim: int, config: AutoDisConfig) -> None:
        super().__init__()
        self.outputs = dense
        self.temperature, self.skip = config.temperature, config.skip
        self.score = nn.Parameter(torch.randn(dense, config.buckets))
        self.mix = nn.Parameter(torch.randn(dense, config.buckets, config.buckets) / config.buckets**0.5)
        self.meta = nn.Parameter(torch.randn(dense, config.buckets, dim) / dim**0.5)

    def forward(self, dense: Tensor) -> Tensor:
        h = nn.functional.leaky_relu(dense.unsqueeze(2) * self.score)
        z = torch.einsum("bdh,dkh->bdk", h, self.mix) + self.skip * h
        return torch.einsum("bdh,dhe->bde", torch.softmax(z / self.temperature, dim=2), self.meta)

    def flops(self) -> int:
        return matrix_flops(self.score, self.mix, self.meta)
