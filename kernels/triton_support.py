"""What the Triton kernels share: device functions on a tile of rows, weight gradients, and the arena of a weight list.

Conventions of all kernels here:
- A program owns BLOCK_M consecutive rows. Only the number of rows is a run-time value: widths, strides and offsets are
  constexprs, so that loads vectorise and AOTInductor compiles one kernel per template.
- Weights are read from an arena [slots, ELEMENTS] at slot * ELEMENTS + a constant offset.
- Inputs are bfloat16 (float32 in Triton's interpreter, which has no bfloat16 arithmetic); sums are float32.
- Intermediate activations of a row tile go through a scratch tensor in global memory, which stays in L2, with
  `tl.debug_barrier` (bar.sync: orders a program's own global accesses) between writing and reading them.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

# Two programs of 64 × 128 with three stages fit one Hopper SM (72 KiB of 227 KiB shared memory each), and four warps
# with M = 64 are what one wgmma instruction takes.
BLOCK_M = 64
BLOCK_N = 128
BLOCK_K = 64
NUM_WARPS = 4
NUM_STAGES = 3

# Elements to which weights in an arena are aligned: 64 bytes of the float32 slab, as in training/layout.py.
ALIGNMENT = 16

# Rows of a weight gradient are summed in this many parts, then the parts in their order: parallel and deterministic.
GRADIENT_SPLITS = 8

ACTIVATION_CODES = {"none": 0, "relu": 1, "gelu": 2, "silu": 3}
_RELU = tl.constexpr(1)
_GELU = tl.constexpr(2)
_SILU = tl.constexpr(3)


def compute_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU; float32 in the interpreter."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def block(width: int, largest: int) -> int:
    """Tile size for a dimension of `width`: a power of two from 16 (the least that tl.dot takes) to `largest`."""
    return min(largest, max(16, 1 << (width - 1).bit_length()))


def ints(values: Sequence[int]) -> tuple[int, ...]:
    """Constants of a kernel from what may be symbolic while torch.compile or torch.export traces."""
    return tuple(int(value) for value in values)


def aligned(elements: int) -> int:
    """`elements` rounded up to whole units of `ALIGNMENT`."""
    return -(-elements // ALIGNMENT) * ALIGNMENT


def arena_of(weights: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, list[int]]:
    """Concatenates weights into an arena of one slot; differentiable, so autograd splits the arena's gradient again.

    Returns:
        The arena, [1, elements] of `dtype`, and the offset of each weight in elements.
    """
    pieces, offsets, end = [], [], 0
    for weight in weights:
        offsets.append(end)
        pieces.append(weight.reshape(-1).to(dtype))
        size = int(weight.numel())  # a constant also while torch.compile traces with symbolic shapes
        if size != aligned(size):
            pieces.append(pieces[-1].new_zeros(aligned(size) - size))
        end += aligned(size)
    return torch.cat(pieces).unsqueeze(0), offsets


def one_slot(rows: int, device: torch.device, row_block: int = BLOCK_M) -> Tensor:
    """`block_slot` of a batch whose rows all use slot 0: int32 zeros, one per row block."""
    return torch.zeros((rows + row_block - 1) // row_block, dtype=torch.int32, device=device)


@triton.jit
def slot_offset(block_slot_ptr, first_row, ROW_BLOCK: tl.constexpr, ELEMENTS: tl.constexpr):
    """First element in the arena of the weights of the row block that `first_row` is in (int64)."""
    return tl.load(block_slot_ptr + first_row // ROW_BLOCK).to(tl.int64) * ELEMENTS


@triton.jit
def activate(x, ACTIVATION: tl.constexpr):
    """The activation of that code (`ACTIVATION_CODES`) on float32."""
    if ACTIVATION == _RELU:
        return tl.maximum(x, 0.0)
    if ACTIVATION == _GELU:
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    if ACTIVATION == _SILU:
        return x * tl.sigmoid(x)
    return x


@triton.jit
def activate_gradient(x, ACTIVATION: tl.constexpr):
    """The activation's derivative at x."""
    if ACTIVATION == _RELU:
        return tl.where(x > 0.0, 1.0, 0.0)
    if ACTIVATION == _GELU:
        return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)
    if ACTIVATION == _SILU:
        s = tl.sigmoid(x)
        return s * (1.0 + x * (1.0 - s))
    return tl.full(x.shape, 1.0, tl.float32)


@triton.jit
def load_tile(ptr, STRIDE: tl.constexpr, m, n, rows, N: tl.constexpr):
    """[m, n] of a row-major matrix of `rows` × N, zeros outside, in its own dtype. m is int64."""
    return tl.load(ptr + m[:, None] * STRIDE + n[None, :], mask=(m[:, None] < rows) & (n[None, :] < N), other=0.0)


@triton.jit
def store_tile(ptr, STRIDE: tl.constexpr, m, n, rows, N: tl.constexpr, value):
    """Stores what of `value` lies inside `rows` × N, in the matrix's dtype."""
    where = (m[:, None] < rows) & (n[None, :] < N)
    tl.store(ptr + m[:, None] * STRIDE + n[None, :], value.to(ptr.dtype.element_ty), mask=where)


@triton.jit
def load_vector(ptr, n, N: tl.constexpr):
    """[n] of a vector of N elements as float32, zeros outside."""
    return tl.load(ptr + n, mask=n < N, other=0.0).to(tl.float32)


@triton.jit
def dot_rows(
    acc,
    x_ptr,
    X_STRIDE: tl.constexpr,
    w_ptr,
    W_N: tl.constexpr,
    W_K: tl.constexpr,
    m,
    n,
    rows,
    N: tl.constexpr,
    K: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """acc[m, n] + Σ_k x[m, k] w[n, k] over k < K, where w[n, k] lies at n * W_N + k * W_K.

    So (W_N, W_K) = (K, 1) multiplies by the transpose of a row-major [N, K], as a linear layer does, and (1, N) by a
    row-major [K, N], as its gradient does. x of another dtype than w (float32, w bfloat16) is multiplied in two parts,
    so that nothing of it is rounded away.
    """
    for k0 in range(0, K, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        x = load_tile(x_ptr, X_STRIDE, m, k, rows, K)
        inside = (n[None, :] < N) & (k[:, None] < K)
        w = tl.load(w_ptr + n[None, :] * W_N + k[:, None] * W_K, mask=inside, other=0.0)
        if x.dtype != w.dtype:
            rounded = x.to(w.dtype)
            acc = tl.dot((x - rounded.to(tl.float32)).to(w.dtype), w, acc, input_precision="ieee")
            x = rounded
        acc = tl.dot(x, w, acc, input_precision="ieee")
    return acc


@triton.jit
def weight_gradient(
    g_ptr,
    G_STRIDE: tl.constexpr,
    x_ptr,
    X_STRIDE: tl.constexpr,
    w_ptr,
    b_ptr,
    tile,
    first,
    last,
    N: tl.constexpr,
    K: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):
    """One BLOCK_N × BLOCK_K tile of a linear layer's dW[n, k] = Σ g[row, n] x[row, k] over rows first..last, to w_ptr.

    Tiles of k = 0 also write db[n] = Σ g[row, n] to b_ptr. K = 0: there is no W.
    """
    TILES_K: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K if K > 0 else 1
    n = (tile // TILES_K) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = (tile % TILES_K) * BLOCK_K + tl.arange(0, BLOCK_K)
    acc = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    total = tl.zeros((BLOCK_N,), tl.float32)
    for row in range(first, last, BLOCK_ROWS):
        m = row + tl.arange(0, BLOCK_ROWS).to(tl.int64)
        g = load_tile(g_ptr, G_STRIDE, m, n, last, N)
        if K > 0:
            x = load_tile(x_ptr, X_STRIDE, m, k, last, K)
            acc = tl.dot(tl.trans(g), x, acc, input_precision="ieee")
        if HAS_BIAS:
            total += tl.sum(g.to(tl.float32), axis=0)
    if K > 0:
        tl.store(w_ptr + n[:, None] * K + k[None, :], acc, mask=(n[:, None] < N) & (k[None, :] < K))
    if HAS_BIAS:  # noqa: SIM102 (a constexpr, which `and` would turn into a run-time condition)
        if tile % TILES_K == 0:
            tl.store(b_ptr + n, total, mask=n < N)


@triton.jit
def _weight_gradients_kernel(
    a_ptr,
    s_ptr,
    out_ptr,
    rows,
    split_rows,
    JOBS: tl.constexpr,
    ELEMENTS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):
    tile = tl.program_id(0)
    first = tl.program_id(1) * split_rows
    last = tl.minimum(first + split_rows, rows)
    part_ptr = out_ptr + tl.program_id(1).to(tl.int64) * ELEMENTS
    for j in tl.static_range(len(JOBS)):
        if (tile >= JOBS[j][0]) & (tile < JOBS[j][1]):
            weight_gradient(
                _matrix(a_ptr, s_ptr, JOBS[j][2]),
                JOBS[j][2] & 0xFFFFFF,
                _matrix(a_ptr, s_ptr, JOBS[j][3]),
                JOBS[j][3] & 0xFFFFFF,
                part_ptr + JOBS[j][6],
                part_ptr + JOBS[j][7],
                tile - JOBS[j][0],
                first,
                last,
                JOBS[j][4],
                JOBS[j][5],
                JOBS[j][7] >= 0,
                BLOCK_N,
                BLOCK_K,
                BLOCK_ROWS,
            )


@triton.jit
def _matrix(a_ptr, s_ptr, AT: tl.constexpr):
    if AT >> 48 == 0:
        return a_ptr + ((AT >> 24) & 0xFFFFFF)
    return s_ptr + ((AT >> 24) & 0xFFFFFF)


Operand = int
"""Where a matrix of one row per row of the batch lies; made by `operand`."""


def operand(buffer: int, column: int, stride: int) -> Operand:
    """The matrix whose row r begins at element r * stride + column of that buffer."""
    if not (0 <= column < 1 << 24 and 0 <= stride < 1 << 24):
        raise ValueError(f"a row of {max(column, stride)} elements; the kernels take rows of less than {1 << 24}")
    return buffer << 48 | column << 24 | stride


GradientJob = tuple[Operand, Operand, int, int, int, int]
"""A linear layer's (g, x, N, K, weight, bias): see `weight_gradients`."""


def weight_gradients(jobs: Sequence[GradientJob], a: Tensor, s: Tensor, elements: int) -> Tensor:
    """Gradients of all linear layers of an op, in one launch.

    Args:
        jobs: per layer (g, x, N, K, weight, bias): dW[n, k] = Σ g[row, n] x[row, k] goes to element `weight` of the
            result, db[n] = Σ g[row, n] to element `bias`, unless that is -1. K = 0: there is no W, only b.
        a, s: buffers 0 and 1 of the operands.
        elements: of one slot of the arena.

    Returns:
        [1, elements] float32; what no job writes is 0.
    """
    rows, tiles, table = a.shape[0], 0, []
    for g, x, n, k, weight, bias in jobs:
        end = tiles + triton.cdiv(n, BLOCK_K) * max(1, triton.cdiv(k, BLOCK_N))
        table.append((tiles, end, g, x, n, k, weight, bias))
        tiles = end
    parts = torch.zeros((GRADIENT_SPLITS, elements), dtype=torch.float32, device=a.device)
    # Whole blocks of rows, so that no part begins in the middle of one.
    split_rows = (rows + GRADIENT_SPLITS * 64 - 1) // (GRADIENT_SPLITS * 64) * 64
    wrap_triton(_weight_gradients_kernel)[(tiles, GRADIENT_SPLITS)](
        a, s, parts, rows, split_rows, tuple(table), elements, BLOCK_K, BLOCK_N, 64,
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
    return parts.sum(0, keepdim=True)
