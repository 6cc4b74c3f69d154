"""Interaction of inner-product networks (IPNN, arXiv 1611.00144): the feature vectors as they are, and all their pairs.

    out = [dense; v_1 … v_S; v_i · v_j for j < i]

Unlike `dot`, which is DLRM's, the deep arch reads the embeddings themselves too, and the dense vector is in no pair.
"""

from typing import Literal

import torch
from torch import Tensor

from smt.kernels.interaction import dot
from smt.training.components.component import Component, InteractionConfig, component
from smt.training.components.flat import flat


@component("interaction")
class InnerProductConfig(InteractionConfig):
    """Embeddings and the dot product of every two of them."""

    type: Literal["inner_product"]

    def build(self, width: int, slots: int, dim: int) -> "InnerProduct":
        return InnerProduct(width, slots, dim)


class InnerProduct(Component):
    """dense [B, width], vectors [B, S, dim] -> [B, width + S dim + S (S - 1) / 2]. No parameters."""

    def __init__(self, width: int, slots: int, dim: int) -> None:
        super().__init__()
        self._pairs = slots * (slots - 1) // 2
        self._dim = dim
        self.outputs = width + slots * dim + self._pairs

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        return torch.cat([flat(dense, vectors), dot(vectors)], dim=1)

    def flops(self) -> int:
        return 2 * self._pairs * self._dim
