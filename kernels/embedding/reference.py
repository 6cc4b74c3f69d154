"""Specification of the `embedding` op: bags of table rows, pooled once each and expanded to the rows of the batch."""

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

POOLINGS = ("sum", "mean")


def pooled_embedding(table: Tensor, ids: Tensor, offsets: Tensor, bag_index: Tensor, pooling: str) -> Tensor:
    """Pools each bag once, then gathers the bags that each row's slots name.

    The indirection is what lets context features be looked up once per request: all candidates point to one bag.

    Args:
        table: [R, dim] float32 or float16, the ranges of all features' tables, one after the other.
        ids: [N] int64 rows of `table`, bag after bag. N may be 0.
        offsets: [bags + 1] int64, first id of each bag; offsets[bags] = N. An empty bag pools to zeros.
        bag_index: [B, S] int64, the bag of each row's slot.
        pooling: "sum" or "mean" over a bag's ids.

    Returns:
        [B, S, dim] float32; rows of a float16 table are summed in float32.
    """
    if table.dtype == torch.float16:
        return _pool(table[ids].float(), offsets, pooling)[bag_index]
    return embedding_bag(ids, table, offsets, mode=pooling, include_last_offset=True)[bag_index]


def pooled_embedding_int8(
    table: Tensor, scale: Tensor, bias: Tensor, ids: Tensor, offsets: Tensor, bag_index: Tensor, pooling: str
) -> Tensor:
    """`pooled_embedding` of a table that `quantise_rows` made: value = scale of its row · q + bias of its row.

    Args:
        table: [R, dim] int8.
        scale, bias: [R] float32.
        ids, offsets, bag_index, pooling: as for `pooled_embedding`.

    Returns:
        [B, S, dim] float32.
    """
    return _pool(dequantise_rows(table[ids], scale[ids], bias[ids]), offsets, pooling)[bag_index]


def quantise_rows(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row-wise affine int8: each row's range is spread over [-128, 127].

    The values of a row are off by half its scale = (max - min) / 255 at most; a row of equal values is exact.

    Args:
        table: [R, dim] float32, finite.

    Returns:
        (q [R, dim] int8, scale [R] float32, bias [R] float32) with table ≈ scale · q + bias.
    """
    low, high = table.aminmax(dim=1)
    scale = (high - low) / 255
    step = torch.where(scale > 0, scale, torch.ones_like(scale))  # all values equal: q = -128, and the bias is exact
    q = ((table - low[:, None]) / step[:, None]).round_().clamp_(0, 255).sub_(128)
    bias = low + 128 * scale
    return q.to(torch.int8), scale, bias


def dequantise_rows(q: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """[R, dim] int8, [R] float32, [R] float32 -> [R, dim] float32; the inverse of `quantise_rows`."""
    return q.float() * scale[:, None] + bias[:, None]


def _pool(values: Tensor, offsets: Tensor, pooling: str) -> Tensor:
    """values [N, dim], one per id, bag after bag -> [bags, dim]."""
    position = torch.arange(values.shape[0], device=values.device)
    return embedding_bag(position, values, offsets, mode=pooling, include_last_offset=True)
