"""Triton kernels of the `dot` (DLRM) and `fm` interactions, forward and backward; memory bounds both, not arithmetic.

`dot` takes one row at a time: its [F, F] products are one small matrix multiplication (mma.sync: F is below the 64 rows
that wgmma takes in every model of note), of which the strictly lower triangle is stored. Backward, the gradient of the
triangle is read as a symmetric matrix S with zeros on the diagonal, and dV = S V.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from smt.kernels.backend import on_kernels
from smt.kernels.interaction import reference
from smt.kernels.triton_support import block, compute_dtype, load_tile, store_tile

ROWS = 4  # of `dot`, one after the other in a program
FM_ROWS = 16  # of `fm`, side by side in a program


@triton.jit
def dot_kernel(
    v_ptr, out_ptr, rows,
    F: tl.constexpr, DIM: tl.constexpr, FIRST: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """out[row] = (v[row, 0] if FIRST = DIM), ⟨v[row, i], v[row, j]⟩ for i > j. Grid: blocks of BLOCK_R rows."""
    WIDTH: tl.constexpr = FIRST + F * (F - 1) // 2
    f = tl.arange(0, BLOCK_F)
    i, j = f[:, None], f[None, :]
    first = tl.program_id(0).to(tl.int64) * BLOCK_R
    for row in range(first, tl.minimum(first + BLOCK_R, rows)):
        products = tl.zeros((BLOCK_F, BLOCK_F), tl.float32)
        for d0 in range(0, DIM, BLOCK_D):
            d = d0 + tl.arange(0, BLOCK_D)
            v = load_tile(v_ptr + row * (F * DIM), DIM, f, d, F, DIM)
            products = tl.dot(v, tl.trans(v), products, input_precision="ieee")
            if FIRST > 0:
                dense = tl.load(v_ptr + row * (F * DIM) + d, mask=d < DIM, other=0.0)
                tl.store(out_ptr + row * WIDTH + d, dense, mask=d < DIM)
        at = out_ptr + row * WIDTH + FIRST + i * (i - 1) // 2 + j
        tl.store(at, products.to(out_ptr.dtype.element_ty), mask=(i > j) & (i < F))


@triton.jit
def dot_backward_kernel(
    dout_ptr, v_ptr, dv_ptr, rows,
    F: tl.constexpr, DIM: tl.constexpr, FIRST: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """dv[row, i] = Σ_{j ≠ i} dout[row, pair(i, j)] v[row, j], and dout[row, :DIM] on top for i = 0 if FIRST = DIM."""
    WIDTH: tl.constexpr = FIRST + F * (F - 1) // 2
    f = tl.arange(0, BLOCK_F)
    large, small = tl.maximum(f[:, None], f[None, :]), tl.minimum(f[:, None], f[None, :])
    first = tl.program_id(0).to(tl.int64) * BLOCK_R
    for row in range(first, tl.minimum(first + BLOCK_R, rows)):
        at = dout_ptr + row * WIDTH + FIRST + large * (large - 1) // 2 + small
        symmetric = tl.load(at, mask=(large > small) & (large < F), other=0.0)
        for d0 in range(0, DIM, BLOCK_D):
            d = d0 + tl.arange(0, BLOCK_D)
            v = load_tile(v_ptr + row * (F * DIM), DIM, f, d, F, DIM)
            dv = tl.dot(symmetric, v, input_precision="ieee")
            if FIRST > 0:
                dense = tl.load(dout_ptr + row * WIDTH + d, mask=d < DIM, other=0.0).to(tl.float32)
                dv += tl.where(f[:, None] == 0, dense[None, :], 0.0)
            store_tile(dv_ptr + row * (F * DIM), DIM, f, d, F, DIM, dv)


@triton.jit
def fm_kernel(v_ptr, out_ptr, rows, F: tl.constexpr, DIM: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr):
    """out[row] = ½ Σ_d ((Σ_f v[row, f, d])² - Σ_f v[row, f, d]²). Grid: blocks of BLOCK_R rows."""
    m = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    twice = tl.zeros((BLOCK_R,), tl.float32)
    for d0 in range(0, DIM, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)
        total = tl.zeros((BLOCK_R, BLOCK_D), tl.float32)
        squares = tl.zeros((BLOCK_R, BLOCK_D), tl.float32)
        for f in range(F):
            v = load_tile(v_ptr + f * DIM, F * DIM, m, d, rows, DIM).to(tl.float32)
            total += v
            squares += v * v
        twice += tl.sum(total * total - squares, axis=1)
    tl.store(out_ptr + m, 0.5 * twice, mask=m < rows)


@triton.jit
def fm_backward_kernel(
    dout_ptr, v_ptr, dv_ptr, rows, F: tl.constexpr, DIM: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr
):
    """dv[row, f] = dout[row] (Σ_g v[row, g] - v[row, f])."""
    m = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    dout = tl.load(dout_ptr + m, mask=m < rows, other=0.0)[:, None]
    for d0 in range(0, DIM, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)
        total = tl.zeros((BLOCK_R, BLOCK_D), tl.float32)
        for f in range(F):
            total += load_tile(v_ptr + f * DIM, F * DIM, m, d, rows, DIM).to(tl.float32)
        for f in range(F):
            v = load_tile(v_ptr + f * DIM, F * DIM, m, d, rows, DIM).to(tl.float32)
            store_tile(dv_ptr + f * DIM, F * DIM, m, d, rows, DIM, dout * (total - v))


def dot_blocks(count: int, dim: int) -> dict[str, int]:
    """Block sizes of the dot kernels."""
    return {"BLOCK_R": ROWS, "BLOCK_F": block(count, 1 << 30), "BLOCK_D": block(dim, 128)}


def dot_warps(count: int) -> int:
    """A warp for every 16 vectors, eight at most."""
    return min(8, block(count, 128) // 16)


@triton_op("smt::dot_triton", mutates_args={})
def _dot(vectors: Tensor, concat_first: bool) -> Tensor:
    if not on_kernels(vectors):
        return reference.dot(vectors, concat_first)
    rows, count, dim = vectors.shape
    first = dim if concat_first else 0
    out = vectors.new_empty((rows, first + count * (count - 1) // 2))
    wrap_triton(dot_kernel)[((rows + ROWS - 1) // ROWS,)](
        vectors, out, rows, count, dim, first, **dot_blocks(count, dim), num_warps=dot_warps(count)
    )
    return out


@triton_op("smt::dot_triton_backward", mutates_args={})
def _dot_backward(dout: Tensor, vectors: Tensor, concat_first: bool) -> Tensor:
    rows, count, dim = vectors.shape
    dvectors = torch.empty_like(vectors)
    wrap_triton(dot_backward_kernel)[((rows + ROWS - 1) // ROWS,)](
        dout, vectors, dvectors, rows, count, dim, dim if concat_first else 0,
        **dot_blocks(count, dim), num_warps=dot_warps(count),
    )  # fmt: skip
    return dvectors


@triton_op("smt::fm_triton", mutates_args={})
def _fm(vectors: Tensor) -> Tensor:
    if not on_kernels(vectors):
        return reference.fm(vectors.float())
    rows, count, dim = vectors.shape
    out = vectors.new_empty((rows, 1), dtype=torch.float32)
    wrap_triton(fm_kernel)[((rows + FM_ROWS - 1) // FM_ROWS,)](
        vectors, out, rows, count, dim, FM_ROWS, block(dim, 128), num_warps=4
    )
    return out


@triton_op("smt::fm_triton_backward", mutates_args={})
def _fm_backward(dout: Tensor, vectors: Tensor) -> Tensor:
    rows, count, dim = vectors.shape
    dvectors = torch.empty_like(vectors)
    wrap_triton(fm_backward_kernel)[((rows + FM_ROWS - 1) // FM_ROWS,)](
        dout, vectors, dvectors, rows, count, dim, FM_ROWS, block(dim, 128), num_warps=4
    )
    return dvectors


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    vectors, *ctx.constants = inputs
    ctx.save_for_backward(vectors)


def _differentiate_dot(ctx: Any, dout: Tensor) -> tuple[Tensor, None]:
    (vectors,) = ctx.saved_tensors
    if on_kernels(vectors):
        return torch.ops.smt.dot_triton_backward(dout.contiguous(), vectors, *ctx.constants), None
    with torch.enable_grad():
        vectors = vectors.detach().requires_grad_()
        return torch.autograd.grad(reference.dot(vectors, *ctx.constants), vectors, dout)[0], None


def _differentiate_fm(ctx: Any, dout: Tensor) -> Tensor:
    gradient: Tensor
    (vectors,) = ctx.saved_tensors
    if on_kernels(vectors):
        gradient = torch.ops.smt.fm_triton_backward(dout.contiguous(), vectors)
        return gradient
    with torch.enable_grad():
        vectors = vectors.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(reference.fm(vectors.float()), vectors, dout)
        return gradient


_dot.register_autograd(_differentiate_dot, setup_context=_setup_context)
_fm.register_autograd(_differentiate_fm, setup_context=_setup_context)


def dot(vectors: Tensor, concat_first: bool = False) -> Tensor:
    """See reference.py. Computes in bfloat16 on a GPU; the result has the dtype of `vectors`."""
    narrow = vectors.to(compute_dtype(vectors.device)).contiguous()
    out: Tensor = torch.ops.smt.dot_triton(narrow, concat_first)
    return out.to(vectors.dtype)


def fm(vectors: Tensor) -> Tensor:
    """See reference.py. Reads bfloat16 on a GPU, sums in float32; the result has the dtype of `vectors`."""
    narrow = vectors.to(compute_dtype(vectors.device)).contiguous()
    out: Tensor = torch.ops.smt.fm_triton(narrow)
    return out.to(vectors.dtype)
