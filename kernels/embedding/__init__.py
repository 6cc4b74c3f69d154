"""Gather of pooled embeddings from one pool of tables."""

from torch import Tensor

from smt.kernels.backend import resolve
from smt.kernels.embedding import reference
from smt.kernels.embedding.reference import POOLINGS, dequantise_rows, quantise_rows

__all__ = ["POOLINGS", "dequantise_rows", "pooled_embedding", "pooled_embedding_int8", "quantise_rows"]


def pooled_embedding(
    table: Tensor, ids: Tensor, offsets: Tensor, bag_index: Tensor, pooling: str, *, backend: str = "reference"
) -> Tensor:
    """Pools each bag of rows of a float32 or float16 table, and gathers to [B, S, dim]; see reference.py.

    The reference is differentiable; the Triton kernel, being for serving, is not.

    Raises:
        BackendError: `backend` cannot run on these tensors.
    """
    if resolve("embedding", backend, table.device) == "triton":
        from smt.kernels.embedding import triton

        return triton.pooled_embedding(table, ids, offsets, bag_index, pooling)
    return reference.pooled_embedding(table, ids, offsets, bag_index, pooling)


def pooled_embedding_int8(
    table: Tensor,
    scale: Tensor,
    bias: Tensor,
    ids: Tensor,
    offsets: Tensor,
    bag_index: Tensor,
    pooling: str,
    *,
    backend: str = "reference",
) -> Tensor:
    """`pooled_embedding` of a table that `quantise_rows` made.

    Raises:
        BackendError: `backend` cannot run on these tensors.
    """
    if resolve("embedding", backend, table.device) == "triton":
        from smt.kernels.embedding import triton

        return triton.pooled_embedding_int8(table, scale, bias, ids, offsets, bag_index, pooling)
    return reference.pooled_embedding_int8(table, scale, bias, ids, offsets, bag_index, pooling)
