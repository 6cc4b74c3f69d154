"""DCNv2 cross layers (Wang et al., "DCN V2", arXiv 2008.13535)."""

from collections.abc import Sequence

from torch import Tensor

from smt.kernels.backend import resolve
from smt.kernels.cross import reference, training
from smt.kernels.linear import linear

__all__ = ["cross_full", "cross_low_rank"]


def cross_full(
    x0: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], *, backend: str = "reference"
) -> Tensor:
    """x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l; see reference.py, which training.py computes where gradients are wanted.

    Args:
        x0: [B, D] inputs.
        weights: one [D, D] matrix per layer.
        biases: one [D] vector per layer.
        backend: see `smt.kernels.backend.resolve`. Triton computes in bfloat16 with float32 sums.

    Returns:
        [B, D] in the dtype of x0, the last x_l. Differentiable in all arguments.

    Raises:
        BackendError: the backend asked for cannot run here.
    """
    if resolve("cross", backend, x0.device) == "reference":
        if training.applies(x0, weights, biases):
            return training.cross_full(x0, weights, biases)
        return reference.cross_full(x0, weights, biases)
    from smt.kernels.cross.triton import cross

    return cross(x0, weights, biases)


def cross_low_rank(
    x0: Tensor, down: Sequence[Tensor], up: Sequence[Tensor], biases: Sequence[Tensor], *, backend: str = "reference"
) -> Tensor:
    """x_{l+1} = x_0 ⊙ (U_l (V_lᵀ x_l) + b_l) + x_l; see reference.py.

    Args:
        x0: [B, D] inputs.
        down: one [r, D] matrix V_lᵀ per layer.
        up: one [D, r] matrix U_l per layer.
        biases: one [D] vector per layer.
        backend: see `smt.kernels.backend.resolve`. Triton computes in bfloat16 with float32 sums.

    Returns:
        [B, D] in the dtype of x0, the last x_l. Differentiable in all arguments.

    Raises:
        BackendError: the backend asked for cannot run here.
    """
    if resolve("cross", backend, x0.device) == "reference":
        return reference.cross_low_rank(x0, down, up, biases, linear)
    from smt.kernels.cross.triton import cross

    return cross(x0, down, biases, up)
