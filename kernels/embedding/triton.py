"""Triton kernel of the `embedding` op: pooled bags, gathered straight to the rows and slots that read them.

Forward only: in training, embeddings and their gradients are TorchRec's.

A program owns a block of (row, slot) pairs and adds the i-th table row of all their bags at a time. A bag that several
rows read is summed once for each, from L2; that is less traffic than storing pooled bags and reading them again.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from smt.kernels.backend import on_kernels
from smt.kernels.embedding import reference

ELEMENTS = 2048  # of a program's output


@triton.jit
def pooled_rows(
    table_ptr, scale_ptr, bias_ptr, table_rows, ids_ptr, begin, end, d,
    DIM: tl.constexpr, MEAN: tl.constexpr, INT8: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """[BLOCK_P, BLOCK_D] float32: columns d of the bags of ids[begin : end]. Ids outside the table add nothing."""
    total = tl.zeros((BLOCK_P, BLOCK_D), tl.float32)
    count = (end - begin).to(tl.int32)
    for i in range(tl.max(count, axis=0)):
        at = tl.load(ids_ptr + begin + i, mask=i < count, other=-1)
        inside = (at >= 0) & (at < table_rows)
        where = inside[:, None] & (d < DIM)[None, :]
        values = tl.load(table_ptr + at[:, None] * DIM + d[None, :], mask=where, other=0.0).to(tl.float32)
        if INT8:
            scale = tl.load(scale_ptr + at, mask=inside, other=0.0)
            bias = tl.load(bias_ptr + at, mask=inside, other=0.0)
            values = values * scale[:, None] + bias[:, None]
        total += values
    if MEAN:
        total /= tl.maximum(count, 1).to(tl.float32)[:, None]
    return total


@triton.jit
def pooled_embedding_kernel(
    table_ptr, scale_ptr, bias_ptr, table_rows, ids_ptr, offsets_ptr, bag_index_ptr, out_ptr, pairs,
    SLOTS: tl.constexpr, DIM: tl.constexpr, OUT_STRIDE: tl.constexpr, MEAN: tl.constexpr, INT8: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """out[row, slot * DIM + d], out being OUT_STRIDE columns wide. Grid: blocks of rows × SLOTS pairs."""
    p = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    bag = tl.load(bag_index_ptr + p, mask=p < pairs, other=0)
    begin = tl.load(offsets_ptr + bag, mask=p < pairs, other=0)
    end = tl.load(offsets_ptr + bag + 1, mask=p < pairs, other=0)
    at = out_ptr + p // SLOTS * OUT_STRIDE + p % SLOTS * DIM
    for d0 in range(0, DIM, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)
        pooled = pooled_rows(
            table_ptr, scale_ptr, bias_ptr, table_rows, ids_ptr, begin, end, d, DIM, MEAN, INT8, BLOCK_P, BLOCK_D
        )
        where = (p < pairs)[:, None] & (d < DIM)[None, :]
        tl.store(at[:, None] + d[None, :], pooled.to(out_ptr.dtype.element_ty), mask=where)


def embedding_blocks(dim: int) -> dict[str, int]:
    """Block sizes of `pooled_embedding_kernel`."""
    block_d = min(256, triton.next_power_of_2(dim))
    return {"BLOCK_P": max(8, min(128, ELEMENTS // block_d)), "BLOCK_D": block_d}


@triton_op("smt::pooled_embedding_triton", mutates_args={})
def _pooled_embedding(
    table: Tensor, scale: Tensor | None, bias: Tensor | None, ids: Tensor, offsets: Tensor, bag_index: Tensor,
    mean: bool, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """-> [B, S, dim] of `dtype`; scale and bias for int8 tables."""
    if not on_kernels(table):
        pooling = "mean" if mean else "sum"
        if scale is None or bias is None:
            return reference.pooled_embedding(table, ids, offsets, bag_index, pooling).to(dtype)
        return reference.pooled_embedding_int8(table, scale, bias, ids, offsets, bag_index, pooling).to(dtype)
    (rows, slots), dim = bag_index.shape, int(table.shape[1])
    out = torch.empty((rows, slots, dim), dtype=dtype, device=table.device)
    blocks = embedding_blocks(dim)
    pairs = rows * slots
    wrap_triton(pooled_embedding_kernel)[((pairs + blocks["BLOCK_P"] - 1) // blocks["BLOCK_P"],)](
        table, table if scale is None else scale, table if bias is None else bias, table.shape[0],
        ids, offsets, bag_index, out, pairs, slots, dim, slots * dim, mean, scale is not None, **blocks, num_warps=4,
    )  # fmt: skip
    return out


def pooled_embedding(
    table: Tensor, ids: Tensor, offsets: Tensor, bag_index: Tensor, pooling: str, dtype: torch.dtype = torch.float32
) -> Tensor:
    """See reference.py; the result is rounded to `dtype`."""
    out: Tensor = torch.ops.smt.pooled_embedding_triton(
        table.contiguous(), None, None, ids, offsets, bag_index.contiguous(), pooling == "mean", dtype
    )
    return out


def pooled_embedding_int8(
    table: Tensor, scale: Tensor, bias: Tensor, ids: Tensor, offsets: Tensor, bag_index: Tensor, pooling: str,
    dtype: torch.dtype = torch.float32,
) -> Tensor:  # fmt: skip
    """See reference.py; the result is rounded to `dtype`."""
    out: Tensor = torch.ops.smt.pooled_embedding_triton(
        table.contiguous(), scale, bias, ids, offsets, bag_index.contiguous(), pooling == "mean", dtype
    )
    return out
