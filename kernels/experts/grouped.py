"""Triton kernels of grouped linear layers, which experts and towers are made of: G layers of one shape, side by side.

Kernels count rows from the first one of their tile: 32-bit addresses within a tile, 64-bit only for where it begins.

A group is an expert or a task. Buffers have one row per row of the batch; group g of a layer is in the columns from
COLUMN + g * GROUP on (GROUP = 0: all groups read the same input). Weights are row-major [G, N, K] at a constant offset
of the arena. What is stored are pre-activations: the backward needs them, and who reads them applies the activation.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

from smt.kernels.experts.arena import Columns, Layer
from smt.kernels.triton_support import (
    BLOCK_K,
    BLOCK_M,
    BLOCK_N,
    NUM_STAGES,
    NUM_WARPS,
    activate,
    activate_gradient,
    block,
    dot_rows,
    load_tile,
    load_vector,
    slot_offset,
    store_tile,
)

WEIGHT_SPLITS = 4
"""A weight gradient is summed over this many ranges of rows, then over the ranges in their order: deterministic."""


@triton.jit
def linear_tile(
    x_ptr, X_STRIDE: tl.constexpr, w_ptr, m, n, rows, N: tl.constexpr, K: tl.constexpr,
    ACTIVATION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """[m, n] float32 = act(x)[m, K] · w[n, K]ᵀ."""
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k0 in range(0, K, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        x = load_tile(x_ptr, X_STRIDE, m, k, rows, K)
        if ACTIVATION > 0:
            x = activate(x.to(tl.float32), ACTIVATION).to(w_ptr.dtype.element_ty)
        w = load_tile(w_ptr, K, n, k, N, K)
        acc = tl.dot(x, tl.trans(w), acc, input_precision="ieee")
    return acc


@triton.jit
def grouped_linear_kernel(
    x_ptr, arena_ptr, block_slot_ptr, z_ptr, rows,
    ROW_BLOCK: tl.constexpr, ELEMENTS: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr,
    X_STRIDE: tl.constexpr, X_COLUMN: tl.constexpr, X_GROUP: tl.constexpr, X_ACTIVATION: tl.constexpr,
    Z_STRIDE: tl.constexpr, Z_COLUMN: tl.constexpr, K: tl.constexpr, N: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """z_g = act(x_g) W_gᵀ + b_g. Grid: blocks of rows, blocks of N, G."""
    first, group = tl.program_id(0).to(tl.int64) * BLOCK_M, tl.program_id(2)
    m, rows = tl.arange(0, BLOCK_M), (rows - first).to(tl.int32)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    arena_ptr += slot_offset(block_slot_ptr, first, ROW_BLOCK, ELEMENTS)
    z = linear_tile(
        x_ptr + first * X_STRIDE + X_COLUMN + group * X_GROUP, X_STRIDE,
        arena_ptr + WEIGHT + group * N * K, m, n, rows, N, K, X_ACTIVATION, BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip
    z += load_vector(arena_ptr + BIAS + group * N, n, N)[None, :]
    store_tile(z_ptr + first * Z_STRIDE + Z_COLUMN + group * N, Z_STRIDE, m, n, rows, N, z)


@triton.jit
def grouped_input_gradient_kernel(
    dz_ptr, dscore_ptr, arena_ptr, z_ptr, dx_ptr, rows,
    WEIGHT: tl.constexpr, GATE_WEIGHT: tl.constexpr, GATES: tl.constexpr, SUMMED: tl.constexpr,
    DZ_STRIDE: tl.constexpr, DZ_COLUMN: tl.constexpr,
    Z_STRIDE: tl.constexpr, Z_COLUMN: tl.constexpr, Z_ACTIVATION: tl.constexpr,
    DX_STRIDE: tl.constexpr, DX_COLUMN: tl.constexpr, K: tl.constexpr, N: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """dx_g = dz_g W_g ⊙ act'(z_g), where act(z_g) is the layer's input. Grid: blocks of rows, blocks of K, G.

    SUMMED > 0: that many groups read the same input, and dx = Σ_g dz_g W_g + dscore W_gate. Grid: …, …, 1.
    """
    first, group = tl.program_id(0).to(tl.int64) * BLOCK_M, tl.program_id(2)
    m, rows = tl.arange(0, BLOCK_M), (rows - first).to(tl.int32)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    dz_ptr += first * DZ_STRIDE + DZ_COLUMN + group * N
    w_ptr = arena_ptr + WEIGHT + group * N * K
    dx = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    if SUMMED > 0:
        for g in range(SUMMED):
            dx = dot_rows(dx, dz_ptr + g * N, DZ_STRIDE, w_ptr + g * N * K, 1, K, m, k, rows, K, N, BLOCK_N)
    else:
        dx = dot_rows(dx, dz_ptr, DZ_STRIDE, w_ptr, 1, K, m, k, rows, K, N, BLOCK_N)
    if GATES > 0:
        dx = dot_rows(
            dx, dscore_ptr + first * GATES, GATES, arena_ptr + GATE_WEIGHT, 1, K, m, k, rows, K, GATES, BLOCK_N
        )
    if Z_ACTIVATION > 0:
        z = load_tile(z_ptr + first * Z_STRIDE + Z_COLUMN + group * K, Z_STRIDE, m, k, rows, K)
        dx *= activate_gradient(z.to(tl.float32), Z_ACTIVATION)
    store_tile(dx_ptr + first * DX_STRIDE + DX_COLUMN + group * K, DX_STRIDE, m, k, rows, K, dx)


@triton.jit
def grouped_weight_gradient_kernel(
    dz_ptr, x_ptr, parts_ptr, rows, part_rows,
    ELEMENTS: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr,
    DZ_STRIDE: tl.constexpr, DZ_COLUMN: tl.constexpr,
    X_STRIDE: tl.constexpr, X_COLUMN: tl.constexpr, X_GROUP: tl.constexpr, X_ACTIVATION: tl.constexpr,
    K: tl.constexpr, N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """dW_g = dz_gᵀ act(x_g) and db_g = Σ dz_g over one range of part_rows rows. Grid: blocks of N × K, ranges, G."""
    TILES_K: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    tile, part, group = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    n = tile // TILES_K * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tile % TILES_K * BLOCK_K + tl.arange(0, BLOCK_K)
    dz_ptr += part * part_rows * DZ_STRIDE + DZ_COLUMN + group * N
    x_ptr += part * part_rows * X_STRIDE + X_COLUMN + group * X_GROUP
    parts_ptr += part * ELEMENTS
    rows = tl.minimum(rows - part * part_rows, part_rows).to(tl.int32)
    dw = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    db = tl.zeros((BLOCK_N,), tl.float32)
    for row in range(0, rows, BLOCK_M):
        m = (row + tl.arange(0, BLOCK_M)).to(tl.int64)
        dz = load_tile(dz_ptr, DZ_STRIDE, m, n, rows, N)
        x = load_tile(x_ptr, X_STRIDE, m, k, rows, K)
        if X_ACTIVATION > 0:
            x = activate(x.to(tl.float32), X_ACTIVATION).to(dz_ptr.dtype.element_ty)
        dw = tl.dot(tl.trans(dz), x, dw, input_precision="ieee")
        db += tl.sum(dz.to(tl.float32), axis=0)
    store_tile(parts_ptr + WEIGHT + group * N * K, K, n, k, N, K, dw)
    if tile % TILES_K == 0:
        tl.store(parts_ptr + BIAS + group * N + n, db, mask=n < N)


def grouped_linear(arena: Tensor, block_slot: Tensor, x: Columns, z: Columns, layer: Layer, row_block: int) -> None:
    """z_g = act(x_g) W_gᵀ + b_g."""
    rows, block_n = x.buffer.shape[0], block(layer.outputs, BLOCK_N)
    grid = ((rows + BLOCK_M - 1) // BLOCK_M, triton.cdiv(layer.outputs, block_n), layer.groups)
    wrap_triton(grouped_linear_kernel)[grid](
        x.buffer, arena, block_slot, z.buffer, rows,
        row_block, int(arena.shape[1]), layer.weight, layer.bias,
        x.stride, x.first, x.group, x.activation, z.stride, z.first, layer.inputs, layer.outputs,
        BLOCK_M, block_n, block(layer.inputs, BLOCK_K), num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip


def grouped_input_gradient(arena: Tensor, dz: Columns, z: Columns, dx: Columns, layer: Layer) -> None:
    """dx_g = dz_g W_g ⊙ act'(z_g), with the activation of `z`. The arena has one slot."""
    _input_gradient(arena, dz, None, z, dx, layer, 0, 0, layer.groups)


def shared_input_gradient(
    arena: Tensor, dz: Columns, dscore: Tensor, dx: Columns, layer: Layer, gate_weight: int
) -> None:
    """dx = Σ_g dz_g W_g + dscore W_gate: the gradient of what all groups and the gates read. The arena has one slot."""
    _input_gradient(arena, dz, dscore, dz, dx, layer, gate_weight, layer.groups, 1)


def _input_gradient(
    arena: Tensor, dz: Columns, dscore: Tensor | None, z: Columns, dx: Columns, layer: Layer, gate_weight: int,
    summed: int, groups: int,
) -> None:  # fmt: skip
    rows, block_k = dz.buffer.shape[0], block(layer.inputs, BLOCK_N)
    grid = ((rows + BLOCK_M - 1) // BLOCK_M, triton.cdiv(layer.inputs, block_k), groups)
    wrap_triton(grouped_input_gradient_kernel)[grid](
        dz.buffer, dz.buffer if dscore is None else dscore, arena, z.buffer, dx.buffer, rows,
        layer.weight, gate_weight, 0 if dscore is None else dscore.shape[1], summed,
        dz.stride, dz.first, z.stride, z.first, 0 if summed else z.activation, dx.stride, dx.first,
        layer.inputs, layer.outputs, BLOCK_M, block(layer.outputs, BLOCK_K), block_k,
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip


def gradient_parts(arena: Tensor) -> Tensor:
    """[WEIGHT_SPLITS, elements] float32 zeros for `grouped_weight_gradient`; their sum is the gradient of the slot."""
    return torch.zeros((WEIGHT_SPLITS, int(arena.shape[1])), dtype=torch.float32, device=arena.device)


def grouped_weight_gradient(parts: Tensor, dz: Columns, x: Columns, layer: Layer) -> None:
    """dW_g = dz_gᵀ act(x_g) and db_g = Σ dz_g, in parts that each cover a range of rows."""
    rows, block_n, block_k = dz.buffer.shape[0], block(layer.outputs, BLOCK_K), block(layer.inputs, BLOCK_N)
    grid = (triton.cdiv(layer.outputs, block_n) * triton.cdiv(layer.inputs, block_k), WEIGHT_SPLITS, layer.groups)
    part_rows = (rows + WEIGHT_SPLITS * BLOCK_M - 1) // (WEIGHT_SPLITS * BLOCK_M) * BLOCK_M
    wrap_triton(grouped_weight_gradient_kernel)[grid](
        dz.buffer, x.buffer, parts, rows, part_rows,
        int(parts.shape[1]), layer.weight, layer.bias,
        dz.stride, dz.first, x.stride, x.first, x.group, x.activation,
        layer.inputs, layer.outputs, BLOCK_M, block_n, block_k, num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
