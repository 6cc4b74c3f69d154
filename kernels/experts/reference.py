"""Specification of the `experts` op (MMoE, doi 10.1145/3219819.3220007, eq. 6 and 7)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from smt.kernels.mlp.reference import ACTIVATIONS


def experts(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    gate_weight: Tensor,
    gate_bias: Tensor,
    activation: str,
) -> Tensor:
    """Runs E expert MLPs on the same input and mixes them for each of T tasks.

    Args:
        x: [B, K] inputs.
        weights: one [E, N_l, N_{l-1}] tensor per layer, N_{-1} = K.
        biases: one [E, N_l] tensor per layer.
        gate_weight: [T, E, K]; the gate of task t is softmax over E of (gate_weight[t] x + gate_bias[t]).
        gate_bias: [T, E].
        activation: a key of `ACTIVATIONS`, applied after every expert layer.

    Returns:
        [B, T, N_last]: for each task the gated sum of the experts' outputs.
    """
    act = ACTIVATIONS[activation]
    tasks, count, width = gate_weight.shape
    gates = torch.nn.functional.linear(x, gate_weight.reshape(tasks * count, width)).view(-1, tasks, count)
    gates = torch.softmax(gates + gate_bias, dim=-1)
    h = x.unsqueeze(0)  # [1 or E, B, N]
    for weight, bias in zip(weights, biases, strict=True):
        h = act(torch.matmul(h, weight.transpose(1, 2)) + bias.unsqueeze(1))
    return torch.einsum("bte,ebn->btn", gates, h)
