"""The dense vector as one more feature vector, for interactions whose input is [B, n, dim]."""

import torch
from torch import Tensor, nn


class Tokens(nn.Module):
    """dense [B, width], vectors [B, S, dim] -> [B, S + 1, dim]: the dense vector, projected to dim, comes first."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, width))
        nn.init.xavier_normal_(self.weight)

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        first = nn.functional.linear(dense, self.weight)
        return torch.cat([first.unsqueeze(1), vectors], dim=1)

    def flops(self) -> int:
        return 2 * self.weight.numel()
