"""Specification of the `dropout` op: values dropped by given random bits (doi 10.5555/2627435.2670313)."""

import torch
from torch import Tensor

STEPS = 1 << 16


def random_words(seed: int, count: int) -> Tensor:
    """int64 [count]: SplitMix64 (doi 10.1145/2660193.2660195) of an int64 seed."""
    words = torch.arange(1, count + 1) * -0x61C8864680B583EB + seed
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1)):
        words = (words ^ words >> shift & (1 << 64 - shift) - 1) * factor  # the shift of a number without a sign
    return words


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
