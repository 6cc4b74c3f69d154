"""Interaction of DLRM (arXiv 1906.00091): dot products of the feature vectors, two at a time. No parameters."""

import torch
from torch import Tensor, nn

from smt.kernels.interaction import dot


class Dot(nn.Module):
    """dense [B, dim], pooled [B, S, dim] -> [B, dim + (S + 1) S / 2]: the dense vector, then every pair."""

    def __init__(self, slots: int, dim: int) -> None:
        super().__init__()
        self.outputs = dim + (slots + 1) * slots // 2

    def forward(self, dense: Tensor, pooled: Tensor) -> Tensor:
        return dot(torch.cat([dense.unsqueeze(1), pooled], dim=1), concat_first=True)
