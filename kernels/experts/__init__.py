"""Shared experts with one softmax gate per task: MMoE (Ma et al., KDD 2018, doi 10.1145/3219819.3220007)."""

from collections.abc import Sequence

from torch import Tensor

from smt.kernels.backend import resolve
from smt.kernels.experts import reference

__all__ = ["experts"]


def experts(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    gate_weight: Tensor,
    gate_bias: Tensor,
    activation: str,
    *,
    backend: str = "reference",
) -> Tensor:
    """Runs E expert MLPs on the same input and mixes them for each of T tasks; shapes as in reference.py.

    Raises:
        BackendError: `backend` cannot run on these tensors.
    """
    if resolve("experts", backend, x.device) == "triton":
        from smt.kernels.experts import triton

        return triton.experts(x, weights, biases, gate_weight, gate_bias, activation)
    return reference.experts(x, weights, biases, gate_weight, gate_bias, activation)
