"""Specification of the `mlp` op: x <- act(x Wᵀ + b), layer after layer."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
}


def mlp(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], activation: str) -> Tensor:
    """Applies every layer and its activation.

    Args:
        x: [B, K] inputs.
        weights: one [N_l, N_{l-1}] matrix per layer, N_{-1} = K.
        biases: one [N_l] vector per layer.
        activation: a key of `ACTIVATIONS`, applied after every layer, the last one included.

    Returns:
        [B, N_last] in the dtype of `x`.
    """
    act = ACTIVATIONS[activation]
    for weight, bias in zip(weights, biases, strict=True):
        x = act(torch.nn.functional.linear(x, weight, bias))
    return x
