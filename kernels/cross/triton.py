"""`cross` in Triton: a whole stack of DCNv2 layers, low-rank or full, forward and backward (arXiv 2008.13535).

The kernel form reads weights from an arena, so a batch can carry rows of many scenarios:

    y = torch.ops.smt.cross_triton(x, arena, block_slot, offsets, rank, row_block)

Forward: one launch up to `ONE_LAUNCH_WIDTH` columns, one per matrix above (triton_stages.py). x_l is updated in place,
so a tile of rows moves between registers and L2 only.
Backward: keeps x0 alone. It recomputes x_l, V^T x_l and z_l = U V^T x_l + b, then goes back layer by layer
(dz = g ⊙ x0; dx0 += g ⊙ z; dh = dz U; g += dh V^T), and sums dU, dV and db over the rows in one more launch.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.library import triton_op

from smt.kernels.backend import on_kernels
from smt.kernels.triton_stages import (
    GRADIENT,
    OUT,
    SCRATCH,
    Blocks,
    Scratch,
    Stage,
    X,
    check_arena,
    check_shapes,
    cross_gradient,
    gradients_of,
    linear,
    linear_add,
    linear_cross,
    run,
)
from smt.kernels.triton_support import (
    GradientJob,
    Operand,
    arena_of,
    compute_dtype,
    ints,
    one_slot,
    operand,
    weight_gradients,
)

ROW_BLOCK = 128
"""Rows per entry of `block_slot` where all rows are of one slot."""


def cross(
    x0: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], up: Sequence[Tensor] | None = None
) -> Tensor:
    """The public functions `cross_full` and `cross_low_rank` (`weights` is then `down`) on weights as lists.

    Computes in bfloat16 (float32 in the interpreter); differentiable in all arguments.
    Raises ValueError naming the tensor whose shape does not fit.
    """
    layers, width = len(weights), int(x0.shape[1])
    if layers == 0:
        return x0
    rank = int(weights[0].shape[0]) if up is not None else 0
    check_shapes("cross", "down" if rank else "weights", weights, [(rank or width, width)] * layers)
    check_shapes("cross", "up", up or [], [(width, rank)] * (layers if rank else 0))
    check_shapes("cross", "biases", biases, [(width,)] * layers)
    dtype = compute_dtype(x0.device)
    arena, offsets = arena_of([*weights, *(up or ()), *biases], dtype)
    slots = one_slot(x0.shape[0], x0.device, ROW_BLOCK)
    y: Tensor = _cross(x0.to(dtype), arena, slots, offsets, rank, ROW_BLOCK)
    return y.to(x0.dtype)


@triton_op("smt::cross_triton", mutates_args=())
def _cross(x: Tensor, arena: Tensor, block_slot: Tensor, offsets: Sequence[int], rank: int, row_block: int) -> Tensor:
    """Cross layers with weights from an arena.

    Args:
        x: [B, D] bfloat16 (float32 in the interpreter).
        arena: [slots, elements] in the dtype of x.
        block_slot: [ceil(B / row_block)] int32, the slot of each block of rows.
        offsets: elements in a slot where the weights begin, multiples of 8 for speed. Low-rank: all `down` [rank, D],
            all `up` [D, rank], all biases; full: all weights [D, D], all biases.
        rank: of the low-rank form; 0: full.
        row_block: a multiple of 64.

    Raises:
        ValueError: row_block, a dtype or the number of offsets is not as said here.
    """
    layers = _layers(offsets, rank)
    sizes = [math.prod(shape) for shape in _shapes(rank, x.shape[-1]) for _ in range(layers)]
    check_arena("cross", x, arena, block_slot, row_block, zip(offsets, sizes, strict=True))
    x = x.contiguous()
    out = torch.empty_like(x)
    if x.shape[0] == 0:
        return out
    if not on_kernels(x):
        return _by_slot(x, arena, block_slot, offsets, rank, row_block)
    stages, columns = _forward_program(ints(offsets), int(rank), int(x.shape[1]), layers)
    run(stages, arena, block_slot, row_block, x, x.new_empty((x.shape[0], columns)), out)
    return out


@triton_op("smt::cross_triton_backward", mutates_args=())
def _cross_backward(
    gradient: Tensor, x: Tensor, arena: Tensor, block_slot: Tensor, offsets: Sequence[int], rank: int, row_block: int
) -> tuple[Tensor, Tensor]:
    """(dx [B, D] in the dtype of x, d arena [1, elements] float32) for an arena of one slot."""
    x, gradient = x.contiguous(), gradient.contiguous()
    dx, rows = torch.empty_like(x), x.shape[0]
    if rows == 0:
        return dx, arena.new_zeros(arena.shape, dtype=torch.float32)
    stages, columns, jobs = _backward_program(ints(offsets), int(rank), int(x.shape[1]), _layers(offsets, rank))
    scratch = x.new_empty((rows, columns))
    run(stages, arena, block_slot, row_block, x, scratch, dx, gradient)
    return dx, weight_gradients(jobs, x, scratch, int(arena.shape[1]))


def _setup(ctx, inputs, output):
    x, arena, block_slot, ctx.offsets, ctx.rank, ctx.row_block = inputs
    ctx.save_for_backward(x, arena, block_slot)


def _backward(ctx, gradient):
    x, arena, block_slot = ctx.saved_tensors
    if arena.shape[0] != 1:
        raise ValueError(f"cross: the arena has {arena.shape[0]} slots; gradients are of an arena of one slot")
    constants = ctx.offsets, ctx.rank, ctx.row_block
    if on_kernels(x):
        dx, d_arena = _cross_backward(gradient, x, arena, block_slot, *constants)
    else:
        dx, d_arena = gradients_of(lambda x, arena: _by_slot(x, arena, block_slot, *constants), x, arena, gradient)
    return dx, d_arena.to(arena.dtype), None, None, None, None


_cross.register_autograd(_backward, setup_context=_setup)


def _layers(offsets: Sequence[int], rank: int) -> int:
    lists = 3 if rank else 2
    if not offsets or len(offsets) % lists:
        raise ValueError(f"cross: {len(offsets)} offsets; expected {lists} per layer")
    return len(offsets) // lists


def _shapes(rank: int, width: int) -> list[tuple[int, ...]]:
    """Of the lists of weights, in the order of their offsets."""
    return [(rank, width), (width, rank), (width,)] if rank else [(width, width), (width,)]


def _by_slot(x: Tensor, arena: Tensor, block_slot: Tensor, offsets: Sequence[int], rank: int, row_block: int) -> Tensor:
    """What the kernels compute, in plain PyTorch; reference.py specifies each block."""
    blocks, width, layers = Blocks(x, arena, block_slot, row_block), x.shape[1], _layers(offsets, rank)
    x0 = state = blocks.x
    for layer in range(layers):
        h, k, at = state, width, offsets[layer]
        if rank:
            h, k, at = h @ blocks.weight(at, rank, width).mT, rank, offsets[layers + layer]
        bias = blocks.weight(offsets[layer - layers], width).unsqueeze(1)
        state = x0 * torch.baddbmm(bias, h, blocks.weight(at, width, k).mT) + state
    return blocks.joined(state)


@lru_cache(maxsize=256)
def _forward_program(offsets: tuple[int, ...], rank: int, width: int, layers: int) -> tuple[list[Stage], int]:
    """(stages, columns of the scratch)."""
    scratch = Scratch()
    # In place in the low-rank form, where a matrix reads V^T x_l; in the full form x_l is read whole while x_{l+1} is
    # made.
    states = [scratch.place(width) for _ in range(min(layers - 1, 1 if rank else 2))]
    hidden = scratch.place(rank)
    x0: Operand = operand(X, 0, width)

    def state(layer: int) -> Operand:
        if layer in (0, layers):
            return x0 if layer == 0 else operand(OUT, 0, width)
        return operand(SCRATCH, states[layer % len(states)], scratch.columns)

    stages = []
    for layer in range(layers):
        source, bias = state(layer), offsets[-layers + layer]
        k = width
        if rank:
            down, up = offsets[layer], offsets[layers + layer]
            stages.append(linear(source, width, rank, down, -1, operand(SCRATCH, hidden, scratch.columns)))
            source, k = operand(SCRATCH, hidden, scratch.columns), rank
        weight = up if rank else offsets[layer]
        stages.append(linear_cross(source, k, width, weight, bias, state(layer + 1), x0, state(layer)))
    return stages, scratch.columns


@lru_cache(maxsize=256)
def _backward_program(
    offsets: tuple[int, ...], rank: int, width: int, layers: int
) -> tuple[list[Stage], int, list[GradientJob]]:
    """(stages, columns of the scratch, weight gradients)."""
    scratch = Scratch()
    places = {
        name: [scratch.place(0 if (name, layer) == ("x", 0) else size) for layer in range(layers)]
        for name, size in (("x", width), ("h", rank), ("z", width), ("dz", width), ("dh", rank))
    }
    dx0_at, g_at = scratch.place(width), scratch.place(width)

    def at(name: str, layer: int) -> Operand:
        return x0 if (name, layer) == ("x", 0) else operand(SCRATCH, places[name][layer], scratch.columns)

    x0: Operand = operand(X, 0, width)
    dx0: Operand = operand(SCRATCH, dx0_at, scratch.columns)
    stages: list[Stage] = []
    jobs: list[GradientJob] = []
    for layer in range(layers):
        source, k, weight, bias = at("x", layer), width, offsets[layer], offsets[-layers + layer]
        if rank:
            stages.append(linear(source, width, rank, weight, -1, at("h", layer)))
            source, k, weight = at("h", layer), rank, offsets[layers + layer]
        if layer + 1 < layers:
            state = at("x", layer + 1)
            stages.append(linear_cross(source, k, width, weight, bias, state, x0, at("x", layer), at("z", layer)))
        else:
            stages.append(linear(source, k, width, weight, bias, at("z", layer)))
    for layer in reversed(range(layers)):
        last = layer == layers - 1
        g: Operand = operand(GRADIENT, 0, width) if last else operand(SCRATCH, g_at, scratch.columns)
        dz, x = at("dz", layer), at("x", layer)
        stages.append(cross_gradient(g, x0, at("z", layer), width, dz, dx0, first=last))
        source, k, weight, bias = dz, width, offsets[layer], offsets[-layers + layer]
        if rank:
            up = offsets[layers + layer]
            stages.append(linear(dz, width, rank, up, -1, at("dh", layer), transposed=True))
            jobs.append((dz, at("h", layer), width, rank, up, bias))
            jobs.append((at("dh", layer), x, rank, width, weight, -1))
            source, k = at("dh", layer), rank
        else:
            jobs.append((dz, x, width, width, weight, bias))
        # Layer 0 gives the gradient that came through all layers; what x0 got beside them is added there.
        if layer:
            stages.append(linear_add(source, k, width, weight, operand(SCRATCH, g_at, scratch.columns), g))
        else:
            stages.append(linear_add(source, k, width, weight, operand(OUT, 0, width), g, dx0))
    return stages, scratch.columns, jobs
