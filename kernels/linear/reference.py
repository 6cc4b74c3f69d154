"""Specification of the `linear` op, and of the product that it is made of."""

import torch
from torch import Tensor
from torch.nn.functional import linear

__all__ = ["linear", "product"]


def product(a: Tensor, b: Tensor, onto: Tensor | None = None) -> Tensor:
    """a b, or `onto` += a b.

    Args:
        a: [M, K]. b: [K, N].
        onto: [M, N], overwritten.

    Returns:
        [M, N] in the dtype of a; `onto` if it was given.
    """
    return torch.mm(a, b) if onto is None else onto.addmm_(a, b)
