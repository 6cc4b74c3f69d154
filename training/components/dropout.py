"""Dropout (doi 10.5555/2627435.2670313) that draws 16 random bits per value instead of a double."""

import torch
from torch import Tensor, nn

from smt.kernels.dropout import STEPS, dropout, random_bits, relu_dropout_


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
        return dropout(x, random_bits(x), self._dropped) if self.acts else x

    def of_relu_(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """[..., N], [N] -> [..., N]: `forward(relu(x + bias))`, in one pass.

        It may overwrite x, a tensor that nothing else reads.
        """
        if self.acts:
            return relu_dropout_(x, bias, random_bits(x), self._dropped)
        return torch.relu(x if bias is None else x + bias)

    @property
    def acts(self) -> bool:
        return self.training and self._dropped > 0
