"""`rank` on the GPU: a template from ids to probabilities, by the tile program that the CPU kernels take as well.

    scores = torch.ops.smt.rank_triton(
        arena, block_slot, pool, pool_base, dense, ids, offsets, bag_index, tile_program(template, "bf16").values(), 64
    )

Gather → dense arch → interaction → deep → experts → heads run tile of rows by tile of rows in one launch when no matrix
has more than `ONE_LAUNCH_WIDTH` columns: activations go through a scratch tensor that stays in L2, and each tile reads
the weights of its own slot. Wider templates (DLRM-DCNv2's 3456) take one launch per stage, over tiles of rows and of
columns; see triton_stages.py. Forward only: training differentiates the separate ops.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.library import triton_op, wrap_triton

from smt.kernels.backend import resolve
from smt.kernels.rank.triton_kernel import DOT, GATHER, MIX, OUTPUT, rank_kernel
from smt.kernels.triton_stages import (
    SCRATCH,
    Scratch,
    Stage,
    X,
    check_arena,
    launches,
    linear,
    linear_cross,
    norm,
    row_tile,
)
from smt.kernels.triton_support import BLOCK_N, NUM_STAGES, Operand, block, compute_dtype, ints, operand

FORMAT = 1
"""Of the tile programs (kernels/cpu/program.py) that are understood here."""

_ACTIVATIONS = ("relu", "gelu", "silu")
_TABLES = {0: torch.float32, 1: torch.float16}
_INT8_PRECISION = 2


@triton_op("smt::rank_triton", mutates_args=())
def rank_triton(
    arena: Tensor,
    block_slot: Tensor,
    pool: Tensor,
    pool_base: Tensor,
    dense: Tensor,
    ids: Tensor,
    offsets: Tensor,
    bag_index: Tensor,
    program: Sequence[int],
    row_block: int,
    residual: int = 0,
) -> Tensor:
    """Scores a batch.

    Args:
        arena: [slots, elements] bfloat16 (float32 in the interpreter), a slab per slot.
        block_slot: [ceil(B / row_block)] int32, the slot of each block of rows.
        pool: [pool rows, dim] float32 or float16, the embedding tables of all slots.
        pool_base: [slots] int64, first row of each slot's table in the pool.
        dense: [B, D] float32.
        ids: [N] int64 rows of the slot's own table; an id outside the pool adds nothing. offsets [bags + 1] int64 and
            bag_index [B, S] int64: see `pooled_embedding`.
        program: a `TileProgram` of an mlp, the gather, and what follows it down to the heads. Its precision is not
            used: the arena's dtype is that of the weights and of what is stored between stages. The dense input is
            not rounded: it is multiplied in two bfloat16 parts.
        row_block: a multiple of 64; tiles of wide templates have 128 rows if it is one of 128.
        residual: what to add to the offset of a weight to find what its rounding to bfloat16 left, in an arena made by
            `split_slabs`; 0: there is none. It is read for exact mlps and the heads' last layer, which are small, and
            whose errors are the largest ones in the scores.

    Returns:
        [B, tasks] float32 probabilities (or logits, as the program says).

    Raises:
        BackendError: the tensors are not on a GPU, and kernels are not interpreted.
        ValueError: a shape or dtype is not as said here, or the program has a step that cannot run here.
    """
    resolve("rank", "triton", arena.device)
    plan = Plan.of(ints(program), int(residual))
    if arena.dtype != compute_dtype(arena.device):
        raise ValueError(f"rank: the arena is {arena.dtype}; expected {compute_dtype(arena.device)}")
    # What is checked is the arena; the dense input is float32.
    check_arena("rank", arena.new_empty(dense.shape), arena, block_slot, row_block, plan.weights)
    _check("dense", dense, torch.float32, plan.inputs)
    _check("bag_index", bag_index, torch.int64, plan.slots)
    _check("pool", pool, plan.table, plan.dim)
    for name, tensor in (("pool_base", pool_base), ("ids", ids), ("offsets", offsets)):
        _check(name, tensor, torch.int64)
    rows = dense.shape[0]
    out = dense.new_empty((rows, plan.tasks))
    if rows == 0:
        return out
    scratch = arena.new_empty((rows, plan.columns))
    for first, end, splits in launches(plan.stages):
        block_m, warps = row_tile(row_block, splits)
        wrap_triton(rank_kernel)[((rows + block_m - 1) // block_m * splits,)](
            arena, block_slot, dense, scratch, out, pool, pool_base, ids, offsets, bag_index, rows, pool.shape[0],
            offsets.shape[0] - 1, STAGES=tuple(plan.stages[first:end]), ELEMENTS=int(arena.shape[1]),
            ROW_BLOCK=row_block, SPLITS=splits, BLOCK_M=block_m, num_warps=warps, num_stages=NUM_STAGES,
        )  # fmt: skip
    return out


def split_slabs(slabs: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """An arena that keeps what rounding takes from the weights.

    Args:
        slabs: [slots, elements] float32.
        dtype: of the arena, for weights rounded to bfloat16.

    Returns:
        [slots, 2 * elements]: the slabs rounded to bfloat16, and behind each what that left, for
        `rank_triton(..., residual=elements)`.
    """
    rounded = slabs.to(torch.bfloat16)
    return torch.cat([rounded, slabs - rounded.float()], dim=1).to(dtype)


def _check(name: str, tensor: Tensor, dtype: torch.dtype, columns: int | None = None) -> None:
    expected = f"{dtype} [n]" if columns is None else f"{dtype} [n, {columns}]"
    shape = tuple(tensor.shape)
    if tensor.dtype != dtype or len(shape) != (1 if columns is None else 2) or not tensor.is_contiguous():
        raise ValueError(f"rank: {name} is {tensor.dtype} {shape} with strides {tensor.stride()}; expected {expected}")
    if columns is not None and shape[1] != columns:
        raise ValueError(f"rank: {name} has {shape[1]} columns; the program has {columns}")


class Plan:
    """What a tile program is on the GPU: stages, the scratch's columns, and what the inputs have to be."""

    def __init__(self, program: Sequence[int], residual: int = 0) -> None:
        self._residual = residual
        version, precision, self.inputs, groups, *self._numbers = program
        if version != FORMAT:
            raise ValueError(f"rank: a tile program of format {version}; the GPU kernels take {FORMAT}")
        if precision == _INT8_PRECISION or groups != 1:
            raise ValueError("rank: the GPU kernels compute in bfloat16 on one dense vector; use another backend")
        self.slots = self.dim = self.tasks = 0
        self.table = torch.float32
        self.weights: list[tuple[int, int]] = []
        """(offset, elements) of every weight."""
        self._scratch = Scratch()
        # Operands hold the scratch's columns, which are known when all is placed: stages are made then.
        self._pending: list[Callable[[], Stage]] = []
        self._read()
        self.columns = self._scratch.columns
        self.stages = [make() for make in self._pending]

    @staticmethod
    @lru_cache(maxsize=64)
    def of(program: tuple[int, ...], residual: int) -> "Plan":
        """The plan of a program, made once."""
        return Plan(program, residual)

    def _read(self) -> None:
        readers = {1: self._mlp, 2: self._gather, 3: self._cross_low_rank, 4: self._cross_full, 5: self._dot,
                   6: self._experts, 7: self._heads, 8: self._exact_mlp}  # fmt: skip
        self._at, self._width = -1, self.inputs  # column of the scratch; -1 is the dense input
        self._room = 0  # columns left behind those for the gather
        while self._numbers:
            kind = self._take()
            if self.tasks or kind not in readers:
                raise ValueError(f"rank: a tile program with step {kind} {'after the heads' if self.tasks else ''}")
            readers[kind]()
        if not self.tasks or not self.slots:
            raise ValueError("rank: the tile program lacks its gather or its heads")

    def _take(self) -> int:
        return self._numbers.pop(0)

    def _weight(self, first: int, elements: int) -> int:
        self.weights.append((first, elements))
        return first

    def _place_of(self, column: int) -> Callable[[], Operand]:
        if column < 0:
            return lambda: operand(X, 0, self.inputs)
        return lambda: operand(SCRATCH, column, self._scratch.columns)

    def _linear(
        self, column: int, k: int, n: int, weight: int, bias: int, out: int, activation: str,
        groups: int = 1, x_group: int = 0, residual: int = 0,
    ) -> None:  # fmt: skip
        self._weight(weight + residual, groups * n * k)
        self._weight(bias + residual, groups * n)
        x, y = self._place_of(column), self._place_of(out)
        if x_group == 0:  # all groups read the same input, and their weights are one matrix
            n, groups = groups * n, 1
        self._pending.append(
            lambda: linear(
                x(),
                k,
                n,
                weight,
                bias,
                y(),
                activation=activation,
                groups=groups,
                x_group=x_group,
                out_group=n,
                residual=residual,
            )
        )

    def _exact_mlp(self) -> None:
        self._mlp(self._residual)

    def _mlp(self, residual: int = 0) -> None:
        activation, layers = _ACTIVATIONS[self._take()], self._take()
        for layer in range(layers):
            n, weight, bias, gain = (self._take() for _ in range(4))
            shift = self._take() if gain >= 0 else -1
            following = self._numbers[:3] if layer == layers - 1 else []
            # What the gather puts behind this layer's output lies there: concatenating costs nothing.
            self._room = following[1] * following[2] if following[:1] == [2] else 0
            out = self._scratch.place(n + self._room)
            if gain < 0:
                self._linear(self._at, self._width, n, weight, bias, out, activation, residual=residual)
            else:
                before = self._scratch.place(n)
                self._linear(self._at, self._width, n, weight, bias, before, "none", residual=residual)
                self._norm(before, n, gain, shift, activation, out)
                self._scratch.release(before)
            self._move(out, n)

    def _move(self, out: int, width: int) -> None:
        """What follows reads `out`, and nothing reads what came before it."""
        if self._at >= 0:
            self._scratch.release(self._at)
        self._at, self._width = out, width

    def _norm(self, column: int, n: int, gain: int, shift: int, activation: str, out: int) -> None:
        self._weight(gain, n)
        self._weight(shift, n)
        z, y = self._place_of(column), self._place_of(out)
        self._pending.append(lambda: norm(z(), n, gain, shift, activation, y()))

    def _gather(self) -> None:
        self.slots, self.dim, pooling, table, _ = (self._take() for _ in range(5))
        if not self._room:
            raise ValueError("rank: the gather has to follow the dense arch, an mlp")
        if table not in _TABLES:
            raise ValueError("rank: the GPU kernels read float32 and float16 tables; use another backend for int8")
        self.table = _TABLES[table]
        slots, dim, out = self.slots, self.dim, self._place_of(self._at + self._width)
        block_d = block(dim, BLOCK_N)
        per_tile = max(1, BLOCK_N // block_d)
        tiles = -(-slots // per_tile)
        # The 0 is its widest matrix: what reads the gather's columns says how many they are.
        self._pending.append(lambda: (GATHER.value, tiles, 0, out(), slots, dim, pooling, per_tile, block_d))
        self._width += slots * dim
        self._room = 0

    def _cross_low_rank(self) -> None:
        layers, rank = self._take(), self._take()
        width, x0, at = self._width, self._at, self._at
        state, hidden = self._scratch.place(width), self._scratch.place(rank)
        for _ in range(layers):
            down, up, bias = (self._take() for _ in range(3))
            self._cross(at, width, rank, down, -1, hidden, None)
            self._cross(hidden, rank, width, up, bias, state, (x0, at))
            at = state
        self._scratch.release(hidden)
        self._move(state, width)

    def _cross_full(self) -> None:
        width, x0, at = self._width, self._at, self._at
        states = [self._scratch.place(width) for _ in range(2)]
        for _ in range(self._take()):
            weight, bias = self._take(), self._take()
            self._cross(at, width, width, weight, bias, states[0], (x0, at))
            at = states[0]
            states.reverse()
        self._scratch.release(states[0])
        self._move(at, width)

    def _cross(
        self, column: int, k: int, n: int, weight: int, bias: int, out: int, combine: tuple[int, int] | None
    ) -> None:
        """x Wᵀ, or x0 ⊙ (x Wᵀ + b) + xl with combine = columns of (x0, xl)."""
        self._weight(weight, n * k)
        x, y = self._place_of(column), self._place_of(out)
        if combine is None:
            self._pending.append(lambda: linear(x(), k, n, weight, bias, y()))
            return
        self._weight(bias, n)
        x0, xl = (self._place_of(at) for at in combine)
        self._pending.append(lambda: linear_cross(x(), k, n, weight, bias, y(), x0(), xl()))

    def _dot(self) -> None:
        vectors, dim, first = (self._take() for _ in range(3))
        width = first * dim + vectors * (vectors - 1) // 2
        out = self._scratch.place(width)
        x, y, block_d = self._place_of(self._at), self._place_of(out), block(dim, BLOCK_N)
        self._pending.append(
            lambda: (DOT.value, vectors, 0, x(), dim, y(), first * dim, max(1, BLOCK_N // block_d), block_d)
        )
        self._move(out, width)

    def _experts(self) -> None:
        activation, tasks, experts, layers = _ACTIVATIONS[self._take()], self._take(), self._take(), self._take()
        source, width = self._at, self._width
        at, n = self._grouped(layers, experts, activation, source, width, shared=True)
        gate, gate_bias = self._take(), self._take()
        gates, mixed = self._scratch.place(tasks * experts), self._scratch.place(tasks * n)
        self._linear(source, width, tasks * experts, gate, gate_bias, gates, "none")
        g, h, y, block_n = self._place_of(gates), self._place_of(at), self._place_of(mixed), block(n, BLOCK_N)
        tiles = tasks * -(-n // block_n)
        self._pending.append(lambda: (MIX.value, tiles, tasks * n, g(), h(), experts, n, y(), block_n))
        self._scratch.release(at)
        self._scratch.release(gates)
        self._move(mixed, n)

    def _grouped(self, layers: int, groups: int, activation: str, at: int, width: int, shared: bool) -> tuple[int, int]:
        """Layers of `groups` experts or towers side by side; returns the last output's column and width of a group."""
        for _ in range(layers):
            n, weight, bias = (self._take() for _ in range(3))
            out = self._scratch.place(groups * n)
            self._linear(at, width, n, weight, bias, out, activation, groups, 0 if shared else width)
            if at != self._at:  # which the gates read as well
                self._scratch.release(at)
            at, width, shared = out, n, False
        return at, width

    def _heads(self) -> None:
        activation, self.tasks = _ACTIVATIONS[self._take()], self._take()
        shared, probability, layers = bool(self._take()), self._take(), self._take()
        at, k = self._grouped(layers, self.tasks, activation, self._at, self._width, shared)
        group = 0 if shared and layers == 0 else k
        weight, bias, tasks, x = self._take(), self._take(), self.tasks, self._place_of(at)
        width, residual = block(k, BLOCK_N), self._residual
        self._weight(weight + residual, tasks * k)
        self._weight(bias + residual, tasks)
        self._pending.append(
            lambda: (OUTPUT.value, tasks, 0, x(), group, k, weight, bias, probability, width, residual)
        )
