"""Interaction of DLRM (arXiv 1906.00091): dot products of the feature vectors, two at a time. No parameters."""

from typing import Literal

import torch
from torch import Tensor

from smt.kernels.interaction import dot
from smt.training.components.component import Component, InteractionConfig, component


@component("interaction")
class DotConfig(InteractionConfig):
    """DLRM: the dot product of every pair of feature vectors, the dense arch's output being one of them."""

    fused = True
    type: Literal["dot"]

    def build(self, width: int, slots: int, dim: int) -> "Dot":
        return Dot(slots, dim)


class Dot(Component):
    """dense [B, dim], vectors [B, S, dim] -> [B, dim + (S + 1) S / 2]: the dense vector, then every pair."""

    def __init__(self, slots: int, dim: int) -> None:
        super().__init__()
        self.pairs = (slots + 1) * slots // 2
        self.dim = dim
        self.outputs = dim + self.pairs

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        return dot(torch.cat([dense.unsqueeze(1), vectors], dim=1), concat_first=True)

    def flops(self) -> int:
        return 2 * self.pairs * self.dim
