"""The kernel of stage programs; triton_stages.py makes the programs and says what each stage computes."""

import triton
import triton.language as tl

from smt.kernels.mlp.reference import LAYER_NORM_EPS
from smt.kernels.triton_support import (
    activate,
    activate_gradient,
    dot_rows,
    load_tile,
    load_vector,
    slot_offset,
    store_tile,
)

# Kinds of stages, and epilogues of linear ones.
LINEAR = tl.constexpr(1)
NORM = tl.constexpr(2)
NORM_GRADIENT = tl.constexpr(3)
ACTIVATION_GRADIENT = tl.constexpr(4)
CROSS_GRADIENT = tl.constexpr(5)
PLAIN = tl.constexpr(0)
CROSS = tl.constexpr(1)
ADD = tl.constexpr(2)
TIMES_ACTIVATION_GRADIENT = tl.constexpr(3)

_EPS = tl.constexpr(LAYER_NORM_EPS)


@triton.jit
def stages_kernel(
    arena_ptr, slot_ptr, x_ptr, s_ptr, y_ptr, g_ptr, rows,
    STAGES: tl.constexpr, ELEMENTS: tl.constexpr, ROW_BLOCK: tl.constexpr, SPLITS: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Program p runs tile of rows p // SPLITS, and of each stage the tiles of columns p % SPLITS, + SPLITS, ..."""
    tile = tl.program_id(0) // SPLITS
    m = tile.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    a_ptr = arena_ptr + slot_offset(slot_ptr, tile * BLOCK_M, ROW_BLOCK, ELEMENTS)
    for i in tl.static_range(len(STAGES)):
        run_stage(a_ptr, (x_ptr, s_ptr, y_ptr, g_ptr), m, rows, STAGES, i, SPLITS, BLOCK_M)


@triton.jit
def run_stage(a_ptr, buffers, m, rows, S: tl.constexpr, J: tl.constexpr, SPLITS: tl.constexpr, BLOCK_M: tl.constexpr):
    """Stage J of S on one tile of rows; what it wrote can be read by the whole program afterwards."""
    part = tl.program_id(0) % SPLITS
    # A tuple cannot be an argument of its own here: its numbers would not be constants any more.
    if S[J][0] == LINEAR:
        _linear_stage(
            a_ptr, buffers, m, rows, part, SPLITS, BLOCK_M,
            S[J][1], S[J][3], S[J][4], S[J][5], S[J][6], S[J][7], S[J][8], S[J][9], S[J][10], S[J][11], S[J][12],
            S[J][13], S[J][14], S[J][15], S[J][16], S[J][17], S[J][18], S[J][19], S[J][20],
        )  # fmt: skip
    elif S[J][0] == NORM:
        _norm_stage(
            a_ptr, buffers, m, rows, part, SPLITS, BLOCK_M,
            S[J][1], S[J][2], S[J][3], S[J][4], S[J][5], S[J][6], S[J][7], S[J][8],
        )  # fmt: skip
    elif S[J][0] == NORM_GRADIENT:
        _norm_gradient_stage(
            a_ptr, buffers, m, rows, part, SPLITS, BLOCK_M,
            S[J][1], S[J][2], S[J][3], S[J][4], S[J][5], S[J][6], S[J][7], S[J][8], S[J][9], S[J][10], S[J][11],
        )  # fmt: skip
    elif S[J][0] == ACTIVATION_GRADIENT:
        _activation_gradient_stage(
            buffers, m, rows, part, SPLITS, S[J][1], S[J][2], S[J][3], S[J][4], S[J][5], S[J][6], S[J][7]
        )
    else:
        _cross_gradient_stage(
            buffers, m, rows, part, SPLITS,
            S[J][1], S[J][2], S[J][3], S[J][4], S[J][5], S[J][6], S[J][7], S[J][8], S[J][9],
        )  # fmt: skip
    tl.debug_barrier()


# An operand is buffer << 48 | column << 24 | stride. Its pointer is taken where it is used: were it what a function
# returns, torch would hold every buffer for written, and copy them all.


@triton.jit
def load_operand(buffers, AT: tl.constexpr, m, n, rows, N: tl.constexpr):
    """[m, n] of the matrix of N columns at that operand, as float32."""
    return load_tile(buffers[AT >> 48] + ((AT >> 24) & 0xFFFFFF), AT & 0xFFFFFF, m, n, rows, N).to(tl.float32)


@triton.jit
def store_operand(buffers, AT: tl.constexpr, m, n, rows, N: tl.constexpr, value):
    """Stores [m, n] of the matrix of N columns at that operand."""
    store_tile(buffers[AT >> 48] + ((AT >> 24) & 0xFFFFFF), AT & 0xFFFFFF, m, n, rows, N, value)


@triton.jit
def _linear_stage(
    a_ptr, buffers, m, rows, part, SPLITS: tl.constexpr, BLOCK_M: tl.constexpr, TILES: tl.constexpr,
    X: tl.constexpr, X_GROUP: tl.constexpr, K: tl.constexpr, N: tl.constexpr,
    WEIGHT: tl.constexpr, BIAS: tl.constexpr, W_N: tl.constexpr, W_K: tl.constexpr,
    OUT: tl.constexpr, OUT_GROUP: tl.constexpr, BEFORE: tl.constexpr, EPILOGUE: tl.constexpr, ACTIVATION: tl.constexpr,
    A: tl.constexpr, B: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    PER_GROUP: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    for t in range(part, TILES, SPLITS):
        group = t // PER_GROUP
        n = (t % PER_GROUP) * BLOCK_N + tl.arange(0, BLOCK_N)
        input_ptr = buffers[X >> 48] + ((X >> 24) & 0xFFFFFF) + group * X_GROUP
        weight_ptr = a_ptr + WEIGHT + group * (N * K)
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        acc = dot_rows(acc, input_ptr, X & 0xFFFFFF, weight_ptr, W_N, W_K, m, n, rows, N, K, BLOCK_K)
        if RESIDUAL > 0:
            residual_ptr = weight_ptr + RESIDUAL
            acc = dot_rows(acc, input_ptr, X & 0xFFFFFF, residual_ptr, W_N, W_K, m, n, rows, N, K, BLOCK_K)
        if BIAS >= 0:
            acc += load_vector(a_ptr + BIAS + group * N, n, N)[None, :]
            if RESIDUAL > 0:
                acc += load_vector(a_ptr + BIAS + RESIDUAL + group * N, n, N)[None, :]
        if BEFORE >= 0:
            store_operand(buffers, BEFORE, m, n, rows, N, acc)
        if EPILOGUE == CROSS:
            acc = load_operand(buffers, A, m, n, rows, N) * acc + load_operand(buffers, B, m, n, rows, N)
        elif EPILOGUE == ADD:
            acc += load_operand(buffers, A, m, n, rows, N)
            if B >= 0:
                acc += load_operand(buffers, B, m, n, rows, N)
        elif EPILOGUE == TIMES_ACTIVATION_GRADIENT:
            acc *= activate_gradient(load_operand(buffers, A, m, n, rows, N), ACTIVATION)
        else:
            acc = activate(acc, ACTIVATION)
        output_ptr = buffers[OUT >> 48] + ((OUT >> 24) & 0xFFFFFF) + group * OUT_GROUP
        store_tile(output_ptr, OUT & 0xFFFFFF, m, n, rows, N, acc)


@triton.jit
def _statistics(buffers, Z: tl.constexpr, m, rows, N: tl.constexpr, BLOCK_M: tl.constexpr, WIDTH: tl.constexpr):
    """Mean and 1 / standard deviation of each row, in two passes: a variance from squares would cancel."""
    total = tl.zeros((BLOCK_M,), tl.float32)
    for n0 in range(0, N, WIDTH):
        total += tl.sum(load_operand(buffers, Z, m, n0 + tl.arange(0, WIDTH), rows, N), axis=1)
    mean = total / N
    total = tl.zeros((BLOCK_M,), tl.float32)
    for n0 in range(0, N, WIDTH):
        n = n0 + tl.arange(0, WIDTH)
        off = load_operand(buffers, Z, m, n, rows, N) - mean[:, None]
        total += tl.sum(tl.where(n[None, :] < N, off * off, 0.0), axis=1)
    return mean, 1.0 / tl.sqrt(total / N + _EPS)


@triton.jit
def _norm_stage(
    a_ptr, buffers, m, rows, part, SPLITS: tl.constexpr, BLOCK_M: tl.constexpr, TILES: tl.constexpr, N: tl.constexpr,
    Z: tl.constexpr, GAIN: tl.constexpr, BIAS: tl.constexpr, ACTIVATION: tl.constexpr, OUT: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    mean, scale = _statistics(buffers, Z, m, rows, N, BLOCK_M, WIDTH)
    for t in range(part, TILES, SPLITS):
        n = t * WIDTH + tl.arange(0, WIDTH)
        y = (load_operand(buffers, Z, m, n, rows, N) - mean[:, None]) * scale[:, None]
        y = y * load_vector(a_ptr + GAIN, n, N)[None, :] + load_vector(a_ptr + BIAS, n, N)[None, :]
        store_operand(buffers, OUT, m, n, rows, N, activate(y, ACTIVATION))


@triton.jit
def _before_norm(
    a_ptr, buffers, mean, scale, m, n, rows, N: tl.constexpr, G: tl.constexpr, Z: tl.constexpr, GAIN: tl.constexpr,
    BIAS: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Of a tile of columns: x̂, the gradient g of LN's output, and g ⊙ gain, that of x̂. Zeros outside the matrix."""
    normal = (load_operand(buffers, Z, m, n, rows, N) - mean[:, None]) * scale[:, None]
    gain = load_vector(a_ptr + GAIN, n, N)[None, :]
    y = normal * gain + load_vector(a_ptr + BIAS, n, N)[None, :]
    g = load_operand(buffers, G, m, n, rows, N) * activate_gradient(y, ACTIVATION)
    return normal, g, g * gain


@triton.jit
def _norm_gradient_stage(
    a_ptr, buffers, m, rows, part, SPLITS: tl.constexpr, BLOCK_M: tl.constexpr, TILES: tl.constexpr, N: tl.constexpr,
    G: tl.constexpr, Z: tl.constexpr, GAIN: tl.constexpr, BIAS: tl.constexpr, ACTIVATION: tl.constexpr,
    OUT: tl.constexpr, D_BIAS: tl.constexpr, D_GAIN: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    # dz = (h - mean(h) - x̂ mean(h ⊙ x̂)) / standard deviation, h the gradient of x̂.
    mean, scale = _statistics(buffers, Z, m, rows, N, BLOCK_M, WIDTH)
    sum_h = tl.zeros((BLOCK_M,), tl.float32)
    sum_hx = tl.zeros((BLOCK_M,), tl.float32)
    for n0 in range(0, N, WIDTH):
        n = n0 + tl.arange(0, WIDTH)
        normal, g, h = _before_norm(a_ptr, buffers, mean, scale, m, n, rows, N, G, Z, GAIN, BIAS, ACTIVATION)
        sum_h += tl.sum(h, axis=1)
        sum_hx += tl.sum(h * normal, axis=1)
    for t in range(part, TILES, SPLITS):
        n = t * WIDTH + tl.arange(0, WIDTH)
        normal, g, h = _before_norm(a_ptr, buffers, mean, scale, m, n, rows, N, G, Z, GAIN, BIAS, ACTIVATION)
        dz = scale[:, None] * (h - (sum_h / N)[:, None] - normal * (sum_hx / N)[:, None])
        store_operand(buffers, OUT, m, n, rows, N, dz)
        store_operand(buffers, D_BIAS, m, n, rows, N, g)
        store_operand(buffers, D_GAIN, m, n, rows, N, g * normal)


@triton.jit
def _activation_gradient_stage(
    buffers, m, rows, part, SPLITS: tl.constexpr, TILES: tl.constexpr, N: tl.constexpr,
    G: tl.constexpr, Z: tl.constexpr, ACTIVATION: tl.constexpr, OUT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    for t in range(part, TILES, SPLITS):
        n = t * WIDTH + tl.arange(0, WIDTH)
        slope = activate_gradient(load_operand(buffers, Z, m, n, rows, N), ACTIVATION)
        store_operand(buffers, OUT, m, n, rows, N, load_operand(buffers, G, m, n, rows, N) * slope)


@triton.jit
def _cross_gradient_stage(
    buffers, m, rows, part, SPLITS: tl.constexpr, TILES: tl.constexpr, N: tl.constexpr,
    G: tl.constexpr, X0: tl.constexpr, Z: tl.constexpr, DZ: tl.constexpr, DX0: tl.constexpr, FIRST: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    for t in range(part, TILES, SPLITS):
        n = t * WIDTH + tl.arange(0, WIDTH)
        g = load_operand(buffers, G, m, n, rows, N)
        dx0 = g * load_operand(buffers, Z, m, n, rows, N)
        if FIRST == 0:
            dx0 += load_operand(buffers, DX0, m, n, rows, N)
        store_operand(buffers, DX0, m, n, rows, N, dx0)
        store_operand(buffers, DZ, m, n, rows, N, g * load_operand(buffers, X0, m, n, rows, N))
