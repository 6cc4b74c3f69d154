"""Specification of the `cross` op: explicit feature crosses of growing degree (arXiv 2008.13535, eq. 1 and 2)."""

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional


def cross_full(x0: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l.

    Args:
        x0: [B, D] inputs.
        weights: one [D, D] matrix per layer.
        biases: one [D] vector per layer.

    Returns:
        [B, D], the last x_l.
    """
    x = x0
    for weight, bias in zip(weights, biases, strict=True):
        x = x0 * functional.linear(x, weight, bias) + x
    return x


def cross_low_rank(
    x0: Tensor,
    down: Sequence[Tensor],
    up: Sequence[Tensor],
    biases: Sequence[Tensor],
    linear: Callable[..., Tensor] = functional.linear,
) -> Tensor:
    """x_{l+1} = x_0 ⊙ (U_l (V_lᵀ x_l) + b_l) + x_l, with W_l = U_l V_lᵀ of rank r.

    Args:
        x0: [B, D] inputs.
        down: one [r, D] matrix V_lᵀ per layer.
        up: one [D, r] matrix U_l per layer.
        biases: one [D] vector per layer.
        linear: what computes x Wᵀ and x Wᵀ + b, given (x, W) and (x, W, b).

    Returns:
        [B, D], the last x_l.
    """
    x = x0
    for v, u, bias in zip(down, up, biases, strict=True):
        x = x0 * linear(linear(x, v), u, bias) + x
    return x
