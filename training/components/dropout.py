"""Dropout (doi 10.5555/2627435.2670313) that draws 16 random bits per value instead of a double."""

import torch
from torch import Tensor, nn

from smt.kernels.dropout import STEPS, dropout, relu_dropout_


class Dropout(nn.Module):
    """In training zeroes values with probability `p`, to the nearest 1/65536, and scales the others so that the
    expectation stays; otherwise the identity.

    Same meaning as torch.nn.Dropout. On the CPU that draws a random double per value, which
    took an eighth of the time of training; this is five times faster.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self._dropped = round(p * STEPS)

    def forward(self, x: Tensor) -> Tensor:
        """[...] -> [...]."""
        return dropout(x, self._bits(x), self._dropped) if self._acts else x

    def of_relu_(self, x: Tensor) -> Tensor:
        """[...] -> [...]: `forward(relu(x))`, in one pass that may overwrite x, a tensor that nothing else reads."""
        return relu_dropout_(x, self._bits(x), self._dropped) if self._acts else torch.relu(x)

    @property
    def _acts(self) -> bool:
        return self.training and self._dropped > 0

    def _bits(self, x: Tensor) -> Tensor:
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        return words.view(torch.int16)[: x.numel()]
