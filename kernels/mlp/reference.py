"""Specification of the `mlp` op: x <- act(x Wᵀ + b) or act(LN(x Wᵀ + b)), layer after layer."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
}

LAYER_NORM_EPS = 1e-5

# (x, weight, bias) -> x Wᵀ + b
Linear = Callable[[Tensor, Tensor, Tensor], Tensor]


def mlp(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activation: str,
    norms: Sequence[tuple[Tensor, Tensor]] | None = None,
    linear: Linear = torch.nn.functional.linear,
) -> Tensor:
    """Applies every layer, its layer normalisation if there is one, and its activation.

    Args:
        x: [B, K] inputs.
        weights: one [N_l, N_{l-1}] matrix per layer, N_{-1} = K.
        biases: one [N_l] vector per layer.
        activation: a key of `ACTIVATIONS`, applied after every layer, the last one included.
        norms: one ([N_l], [N_l]) pair of gain and bias per layer: between layer and activation every row is brought
            to mean 0 and variance 1 over the N_l outputs, then scaled by the gain and shifted by the bias
            (arXiv 1607.06450; the variance is the biased one, LAYER_NORM_EPS is added to it). None: no normalisation.
        linear: what computes x Wᵀ + b.

    Returns:
        [B, N_last] in the dtype of `x`.

    Raises:
        ValueError: `weights`, `biases` and `norms` differ in length.
    """
    act = ACTIVATIONS[activation]
    for weight, bias, norm in zip(weights, biases, [None] * len(weights) if norms is None else norms, strict=True):
        x = linear(x, weight, bias)
        if norm is not None:
            x = torch.nn.functional.layer_norm(x, bias.shape, *norm, eps=LAYER_NORM_EPS)
        x = act(x)
    return x
