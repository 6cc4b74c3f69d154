"""Specification of the `heads` op: T task towers in one call."""

from collections.abc import Sequence

import torch
from torch import Tensor

from smt.kernels.mlp.reference import ACTIVATIONS


def heads(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    out_weight: Tensor,
    out_bias: Tensor,
    activation: str,
) -> Tensor:
    """Applies tower t to x[:, t] and projects to one logit.

    Args:
        x: [B, T, K] inputs, one representation per task.
        weights: one [T, N_l, N_{l-1}] tensor per layer, N_{-1} = K.
        biases: one [T, N_l] tensor per layer.
        out_weight: [T, N_last].
        out_bias: [T].
        activation: a key of `ACTIVATIONS`, applied after every hidden layer; the logit has none.

    Returns:
        [B, T] logits.
    """
    act = ACTIVATIONS[activation]
    for weight, bias in zip(weights, biases, strict=True):
        x = act(torch.einsum("btk,tnk->btn", x, weight) + bias)
    return torch.einsum("btk,tk->bt", x, out_weight) + out_bias
