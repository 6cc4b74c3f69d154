"""Interactions without weights: pairwise dot products (arXiv 1906.00091), factorisation machine (Rendle 2010)."""

from torch import Tensor

from smt.kernels.backend import resolve
from smt.kernels.interaction import reference

__all__ = ["dot", "fm"]


def dot(vectors: Tensor, concat_first: bool = False, *, backend: str = "reference") -> Tensor:
    """Dot products of all pairs of a row's vectors [B, F, dim], behind vector 0 with `concat_first`; see reference.py.

    Raises:
        BackendError: `backend` cannot run on these tensors.
    """
    if resolve("dot", backend, vectors.device) == "triton":
        from smt.kernels.interaction import triton

        return triton.dot(vectors, concat_first)
    return reference.dot(vectors, concat_first)


def fm(vectors: Tensor, *, backend: str = "reference") -> Tensor:
    """The sum of the dot products of all pairs of a row's vectors, [B, F, dim] -> [B, 1]; see reference.py.

    Raises:
        BackendError: `backend` cannot run on these tensors.
    """
    if resolve("fm", backend, vectors.device) == "triton":
        from smt.kernels.interaction import triton

        return triton.fm(vectors)
    return reference.fm(vectors)
