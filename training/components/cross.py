"""Interaction of DCNv2: cross layers (arXiv 2008.13535), low-rank or full, on all feature vectors side by side."""

import torch
from torch import Tensor, nn

from smt.kernels.cross import cross_full, cross_low_rank
from smt.training.components.config import CrossFullConfig, CrossLowRankConfig


class CrossLowRank(nn.Module):
    """dense [B, width - S dim], pooled [B, S, dim] -> [B, width]."""

    def __init__(self, width: int, config: CrossLowRankConfig) -> None:
        super().__init__()
        self.outputs = width
        self.down = nn.ParameterList(nn.Parameter(torch.empty(config.rank, width)) for _ in range(config.layers))
        self.up = nn.ParameterList(nn.Parameter(torch.empty(width, config.rank)) for _ in range(config.layers))
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(width)) for _ in range(config.layers))
        for matrix in [*self.down, *self.up]:
            nn.init.xavier_normal_(matrix)

    def forward(self, dense: Tensor, pooled: Tensor) -> Tensor:
        x = torch.cat([dense, pooled.flatten(1)], dim=1)
        return cross_low_rank(x, list(self.down), list(self.up), list(self.bias))


class CrossFull(nn.Module):
    """dense [B, width - S dim], pooled [B, S, dim] -> [B, width]."""

    def __init__(self, width: int, config: CrossFullConfig) -> None:
        super().__init__()
        self.outputs = width
        self.weight = nn.ParameterList(nn.Parameter(torch.empty(width, width)) for _ in range(config.layers))
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(width)) for _ in range(config.layers))
        for weight in self.weight:
            nn.init.xavier_normal_(weight)

    def forward(self, dense: Tensor, pooled: Tensor) -> Tensor:
        x = torch.cat([dense, pooled.flatten(1)], dim=1)
        return cross_full(x, list(self.weight), list(self.bias))
