"""A stack of linear layers with an activation after each one."""

from collections.abc import Sequence

from torch import Tensor

from smt.kernels.backend import resolve
from smt.kernels.linear import linear
from smt.kernels.mlp import reference
from smt.kernels.mlp.reference import ACTIVATIONS, LAYER_NORM_EPS

__all__ = ["ACTIVATIONS", "LAYER_NORM_EPS", "mlp"]


def mlp(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activation: str,
    norms: Sequence[tuple[Tensor, Tensor]] | None = None,
    *,
    backend: str = "reference",
) -> Tensor:
    """Applies every layer, its layer normalisation if there is one, and its activation; see reference.py.

    Args:
        x: [B, K] inputs.
        weights: one [N_l, N_{l-1}] matrix per layer, N_{-1} = K.
        biases: one [N_l] vector per layer.
        activation: a key of `ACTIVATIONS`, applied after every layer, the last one included.
        norms: one ([N_l], [N_l]) pair of gain and bias per layer (arXiv 1607.06450). None: no normalisation.
        backend: see `smt.kernels.backend.resolve`. Triton computes in bfloat16 with float32 sums.

    Returns:
        [B, N_last] in the dtype of `x`. Differentiable in all tensors.

    Raises:
        BackendError: the backend asked for cannot run here.
        ValueError: `weights`, `biases` and `norms` differ in length.
    """
    if resolve("mlp", backend, x.device) == "reference":
        return reference.mlp(x, weights, biases, activation, norms, linear)
    from smt.kernels.mlp.triton import mlp as triton_mlp

    return triton_mlp(x, weights, biases, activation, norms)
