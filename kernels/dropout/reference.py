"""Specification of the `dropout` op: values dropped by given random bits (doi 10.5555/2627435.2670313)."""

import torch
from torch import Tensor

STEPS = 1 << 16


def dropout(x: Tensor, bits: Tensor, dropped: int, relu: bool = False) -> Tensor:
    """Zeroes `dropped` of 65536 values, and scales the others so that the expectation stays.

    Args:
        x: floats of any shape.
        bits: int16, uniform, as many as x has values; the lowest `dropped` of the 65536 mean that a value is dropped.
        dropped: 0 to 65535.
        relu: negative values of x are zeros first.

    Returns:
        Of x's shape and dtype. Differentiable in x.
    """
    # float32 holds every int16; masks of bools are several times slower.
    keep = bits.view(x.shape).to(x.dtype).ge_(dropped - STEPS // 2).mul_(STEPS / (STEPS - dropped))
    return (torch.relu(x) if relu else x) * keep
