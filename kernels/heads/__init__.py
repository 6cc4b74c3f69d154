"""One tower per task, from the task's representation to its logit, alone or behind the experts."""

from collections.abc import Sequence

import torch
from torch import Tensor

from smt.kernels.backend import resolve
from smt.kernels.experts import reference as experts_reference
from smt.kernels.heads import reference

__all__ = ["experts_heads", "heads"]


def heads(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    out_weight: Tensor,
    out_bias: Tensor,
    activation: str,
    *,
    backend: str = "reference",
) -> Tensor:
    """Applies tower t to x[:, t] and projects to one logit; shapes as in reference.py.

    Raises:
        BackendError: `backend` cannot run on these tensors.
    """
    if resolve("heads", backend, x.device) == "triton":
        from smt.kernels.heads import triton

        return triton.heads(x, weights, biases, out_weight, out_bias, activation)
    return reference.heads(x, weights, biases, out_weight, out_bias, activation)


def experts_heads(
    x: Tensor,
    expert_weights: Sequence[Tensor],
    expert_biases: Sequence[Tensor],
    gate_weight: Tensor,
    gate_bias: Tensor,
    expert_activation: str,
    head_weights: Sequence[Tensor],
    head_biases: Sequence[Tensor],
    out_weight: Tensor,
    out_bias: Tensor,
    head_activation: str,
    *,
    backend: str = "reference",
) -> Tensor:
    """`experts`, then `heads` on their mixtures, then the sigmoid; in one launch on a GPU where it fits.

    Args:
        x: [B, K] inputs.
        expert_weights, expert_biases, gate_weight, gate_bias, expert_activation: see `smt.kernels.experts.experts`.
        head_weights, head_biases, out_weight, out_bias, head_activation: see `heads`.

    Returns:
        [B, T] probabilities.

    Raises:
        BackendError: `backend` cannot run on these tensors.
    """
    experts = (expert_weights, expert_biases, gate_weight, gate_bias, expert_activation)
    towers = (head_weights, head_biases, out_weight, out_bias, head_activation)
    if resolve("experts_heads", backend, x.device) == "triton":
        from smt.kernels.heads import triton

        return triton.experts_heads(x, *experts, *towers)
    return torch.sigmoid(reference.heads(experts_reference.experts(x, *experts), *towers))
