"""The kernel of a whole template on the GPU: stages of triton_stage_kernel.py, and those that only a template has.

triton.py makes the programs. The kinds of this file are the gather of pooled embeddings, dot products of pairs
of vectors, the mixture of experts by their gates, and the last layer of the heads.
"""

import triton
import triton.language as tl

from smt.kernels.embedding.triton import pooled_rows
from smt.kernels.triton_stage_kernel import run_stage
from smt.kernels.triton_support import slot_offset

# Kinds of stages, after those of triton_stage_kernel.py.
GATHER = tl.constexpr(6)
DOT = tl.constexpr(7)
MIX = tl.constexpr(8)
OUTPUT = tl.constexpr(9)


@triton.jit
def rank_kernel(
    arena_ptr, slot_ptr, x_ptr, s_ptr, y_ptr, pool_ptr, base_ptr, ids_ptr, offsets_ptr, bags_ptr, rows, pool_rows, bags,
    STAGES: tl.constexpr, ELEMENTS: tl.constexpr, ROW_BLOCK: tl.constexpr, SPLITS: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Program p runs tile of rows p // SPLITS, and of each stage the tiles of columns p % SPLITS, + SPLITS, ..."""
    tile = tl.program_id(0) // SPLITS
    part = tl.program_id(0) % SPLITS
    m = tile.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    a_ptr = arena_ptr + slot_offset(slot_ptr, tile * BLOCK_M, ROW_BLOCK, ELEMENTS)
    buffers = (x_ptr, s_ptr, y_ptr, y_ptr)
    for i in tl.static_range(len(STAGES)):
        if STAGES[i][0] < GATHER:
            run_stage(a_ptr, buffers, m, rows, STAGES, i, SPLITS, BLOCK_M)
        elif STAGES[i][0] == GATHER:
            base = tl.load(base_ptr + tl.load(slot_ptr + tile * BLOCK_M // ROW_BLOCK))
            _gather_stage(
                s_ptr, pool_ptr, base, pool_rows, ids_ptr, offsets_ptr, bags_ptr, bags, tile, rows, part,
                SPLITS, BLOCK_M,
                STAGES[i][1], STAGES[i][3], STAGES[i][4], STAGES[i][5], STAGES[i][6], STAGES[i][7], STAGES[i][8],
            )  # fmt: skip
        elif STAGES[i][0] == DOT:
            _dot_stage(
                s_ptr, m, rows, part, SPLITS, BLOCK_M,
                STAGES[i][1], STAGES[i][3], STAGES[i][4], STAGES[i][5], STAGES[i][6], STAGES[i][7], STAGES[i][8],
            )  # fmt: skip
        elif STAGES[i][0] == MIX:
            _mix_stage(
                s_ptr, m, rows, part, SPLITS, BLOCK_M,
                STAGES[i][1], STAGES[i][3], STAGES[i][4], STAGES[i][5], STAGES[i][6], STAGES[i][7], STAGES[i][8],
            )  # fmt: skip
        else:
            _output_stage(
                a_ptr, s_ptr, y_ptr, m, rows, part, SPLITS, BLOCK_M,
                STAGES[i][1], STAGES[i][3], STAGES[i][4], STAGES[i][5], STAGES[i][6], STAGES[i][7], STAGES[i][8],
                STAGES[i][9], STAGES[i][10],
            )  # fmt: skip
        tl.debug_barrier()


@triton.jit
def _gather_stage(
    s_ptr, pool_ptr, base, pool_rows, ids_ptr, offsets_ptr, bags_ptr, bags, tile, rows, part,
    SPLITS: tl.constexpr, BLOCK_M: tl.constexpr, TILES: tl.constexpr, OUT: tl.constexpr, SLOTS: tl.constexpr,
    DIM: tl.constexpr, MEAN: tl.constexpr, BLOCK_SLOTS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # Pairs of (row, slot) side by side, so that the loads of all of them are under way at once.
    p = tl.arange(0, BLOCK_M * BLOCK_SLOTS)
    row = tile.to(tl.int64) * BLOCK_M + p // BLOCK_SLOTS
    for t in range(part, TILES, SPLITS):
        slot = t * BLOCK_SLOTS + p % BLOCK_SLOTS
        inside = (row < rows) & (slot < SLOTS)
        bag = tl.load(bags_ptr + row * SLOTS + slot, mask=inside, other=-1)
        known = (bag >= 0) & (bag < bags)
        begin = tl.load(offsets_ptr + bag, mask=known, other=0)
        end = tl.load(offsets_ptr + bag + 1, mask=known, other=0)
        for d0 in range(0, DIM, BLOCK_D):
            d = d0 + tl.arange(0, BLOCK_D)
            pooled = pooled_rows(
                pool_ptr + base * DIM, pool_ptr, pool_ptr, pool_rows - base, ids_ptr, begin, end, d, DIM, MEAN, False,
                BLOCK_M * BLOCK_SLOTS, BLOCK_D,
            )  # fmt: skip
            at = s_ptr + ((OUT >> 24) & 0xFFFFFF) + row * (OUT & 0xFFFFFF) + slot * DIM
            where = inside[:, None] & (d < DIM)[None, :]
            tl.store(at[:, None] + d[None, :], pooled.to(s_ptr.dtype.element_ty), mask=where)


@triton.jit
def _dot_stage(
    s_ptr, m, rows, part, SPLITS: tl.constexpr, BLOCK_M: tl.constexpr, VECTORS: tl.constexpr,
    X: tl.constexpr, DIM: tl.constexpr, OUT: tl.constexpr, FIRST: tl.constexpr, BLOCK_V: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    x_ptr = s_ptr + ((X >> 24) & 0xFFFFFF) + m * (X & 0xFFFFFF)
    y_ptr = s_ptr + ((OUT >> 24) & 0xFFFFFF) + m * (OUT & 0xFFFFFF)
    in_rows = m < rows
    for i in range(part, VECTORS, SPLITS):
        for j0 in range(0, i, BLOCK_V):
            j = j0 + tl.arange(0, BLOCK_V)
            products = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
            for d0 in range(0, DIM, BLOCK_D):
                d = d0 + tl.arange(0, BLOCK_D)
                in_dim = in_rows[:, None] & (d < DIM)[None, :]
                a = tl.load(x_ptr[:, None] + i * DIM + d[None, :], mask=in_dim, other=0.0).to(tl.float32)
                b = tl.load(
                    x_ptr[:, None, None] + j[None, :, None] * DIM + d[None, None, :],
                    mask=in_dim[:, None, :] & (j < i)[None, :, None], other=0.0,
                ).to(tl.float32)  # fmt: skip
                products += tl.sum(a[:, None, :] * b, axis=2)
            column = FIRST + i * (i - 1) // 2 + j
            where = in_rows[:, None] & (j < i)[None, :]
            tl.store(y_ptr[:, None] + column[None, :], products.to(s_ptr.dtype.element_ty), mask=where)
        if FIRST > 0:  # noqa: SIM102 (a constexpr, which `and` would turn into a run-time condition)
            if i == 0:
                for d0 in range(0, DIM, BLOCK_D):
                    d = d0 + tl.arange(0, BLOCK_D)
                    in_dim = in_rows[:, None] & (d < DIM)[None, :]
                    first = tl.load(x_ptr[:, None] + d[None, :], mask=in_dim, other=0.0)
                    tl.store(y_ptr[:, None] + d[None, :], first, mask=in_dim)


@triton.jit
def _mix_stage(
    s_ptr, m, rows, part, SPLITS: tl.constexpr, BLOCK_M: tl.constexpr, TILES: tl.constexpr,
    GATES: tl.constexpr, H: tl.constexpr, EXPERTS: tl.constexpr, N: tl.constexpr, OUT: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    PER_TASK: tl.constexpr = (N + WIDTH - 1) // WIDTH
    gate_ptr = s_ptr + ((GATES >> 24) & 0xFFFFFF) + m * (GATES & 0xFFFFFF)
    h_ptr = s_ptr + ((H >> 24) & 0xFFFFFF) + m * (H & 0xFFFFFF)
    y_ptr = s_ptr + ((OUT >> 24) & 0xFFFFFF) + m * (OUT & 0xFFFFFF)
    for t in range(part, TILES, SPLITS):
        task = t // PER_TASK
        n = (t % PER_TASK) * WIDTH + tl.arange(0, WIDTH)
        where = (m < rows)[:, None] & (n < N)[None, :]
        largest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
        for e in range(EXPERTS):
            gate = tl.load(gate_ptr + task * EXPERTS + e, mask=m < rows, other=0.0).to(tl.float32)
            largest = tl.maximum(largest, gate)
        total = tl.zeros((BLOCK_M,), tl.float32)
        mixed = tl.zeros((BLOCK_M, WIDTH), tl.float32)
        for e in range(EXPERTS):
            gate = tl.load(gate_ptr + task * EXPERTS + e, mask=m < rows, other=0.0).to(tl.float32)
            share = tl.exp(gate - largest)
            total += share
            h = tl.load(h_ptr[:, None] + e * N + n[None, :], mask=where, other=0.0).to(tl.float32)
            mixed += share[:, None] * h
        mixed /= total[:, None]
        tl.store(y_ptr[:, None] + task * N + n[None, :], mixed.to(s_ptr.dtype.element_ty), mask=where)


@triton.jit
def _output_stage(
    a_ptr, s_ptr, y_ptr, m, rows, part, SPLITS: tl.constexpr, BLOCK_M: tl.constexpr, TASKS: tl.constexpr,
    X: tl.constexpr, X_GROUP: tl.constexpr, K: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr,
    PROBABILITY: tl.constexpr, WIDTH: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    x_ptr = s_ptr + ((X >> 24) & 0xFFFFFF) + m * (X & 0xFFFFFF)
    for task in range(part, TASKS, SPLITS):
        logit = tl.zeros((BLOCK_M,), tl.float32) + tl.load(a_ptr + BIAS + task).to(tl.float32)
        if RESIDUAL > 0:
            logit += tl.load(a_ptr + BIAS + RESIDUAL + task).to(tl.float32)
        for k0 in range(0, K, WIDTH):
            k = k0 + tl.arange(0, WIDTH)
            where = (m < rows)[:, None] & (k < K)[None, :]
            x = tl.load(x_ptr[:, None] + task * X_GROUP + k[None, :], mask=where, other=0.0).to(tl.float32)
            w = tl.load(a_ptr + WEIGHT + task * K + k, mask=k < K, other=0.0).to(tl.float32)
            if RESIDUAL > 0:
                w += tl.load(a_ptr + WEIGHT + RESIDUAL + task * K + k, mask=k < K, other=0.0).to(tl.float32)
            logit += tl.sum(x * w[None, :], axis=1)
        if PROBABILITY:
            logit = tl.sigmoid(logit)
        tl.store(y_ptr + m * TASKS + task, logit, mask=m < rows)
