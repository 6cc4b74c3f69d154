"""`mlp` in Triton: a stack of linear layers, layer normalisations (arXiv 1607.06450) and activations, both directions.

The kernel form reads weights from an arena, so a batch can carry rows of many scenarios:

    y = torch.ops.smt.mlp_triton(x, arena, block_slot, units, offsets, activation, normalised, row_block)

Forward: one launch up to `ONE_LAUNCH_WIDTH` columns, one per layer above (triton_stages.py).
Backward: keeps x alone. It recomputes what each activation saw and gave, goes back layer by layer in the same kernel,
and sums the weights' gradients over the rows in one more launch.
"""

import itertools
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.library import triton_op

from smt.kernels.backend import on_kernels
from smt.kernels.mlp.reference import ACTIVATIONS, LAYER_NORM_EPS
from smt.kernels.triton_stages import (
    GRADIENT,
    NOWHERE,
    OUT,
    SCRATCH,
    Blocks,
    Scratch,
    Stage,
    X,
    activation_gradient,
    check_arena,
    check_shapes,
    gradients_of,
    linear,
    linear_through,
    norm,
    norm_gradient,
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


def mlp(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activation: str,
    norms: Sequence[tuple[Tensor, Tensor]] | None = None,
) -> Tensor:
    """The public function `mlp` on weights as lists.

    Computes in bfloat16 (float32 in the interpreter); differentiable in all arguments.
    Raises ValueError naming the tensor whose shape does not fit.
    """
    if not weights:
        return x
    units = [int(weight.shape[0]) for weight in weights]
    vectors: list[tuple[int, ...]] = [(n,) for n in units]
    check_shapes("mlp", "weights", weights, list(zip(units, [int(x.shape[1]), *units], strict=False)))
    check_shapes("mlp", "biases", biases, vectors)
    for i, name in enumerate(("gains", "biases of norms") if norms is not None else ()):
        check_shapes("mlp", name, [norm[i] for norm in norms or ()], vectors)
    dtype = compute_dtype(x.device)
    pairs = list(itertools.chain.from_iterable(norms or ()))
    arena, offsets = arena_of([*weights, *biases, *pairs[::2], *pairs[1::2]], dtype)
    slots = one_slot(x.shape[0], x.device, ROW_BLOCK)
    y: Tensor = _mlp(x.to(dtype), arena, slots, units, offsets, activation, norms is not None, ROW_BLOCK)
    return y.to(x.dtype)


@triton_op("smt::mlp_triton", mutates_args=())
def _mlp(
    x: Tensor,
    arena: Tensor,
    block_slot: Tensor,
    units: Sequence[int],
    offsets: Sequence[int],
    activation: str,
    normalised: bool,
    row_block: int,
) -> Tensor:
    """Layers with weights from an arena.

    Args:
        x: [B, K] bfloat16 (float32 in the interpreter).
        arena: [slots, elements] in the dtype of x.
        block_slot: [ceil(B / row_block)] int32, the slot of each block of rows.
        units: outputs of each layer.
        offsets: elements in a slot where the weights begin, multiples of 8 for speed: all weights, all biases, and with
            `normalised` all gains and all biases of the normalisations.
        activation: after every layer.
        normalised: whether every layer's output is normalised before its activation.
        row_block: a multiple of 64.

    Returns:
        [B, units[-1]] in the dtype of x.

    Raises:
        ValueError: row_block, a dtype or the number of offsets is not as said here.
    """
    _check(x, arena, block_slot, units, offsets, normalised, row_block)
    out = x.new_empty((x.shape[0], units[-1]))
    if x.shape[0] == 0:
        return out
    if not on_kernels(x):
        return _by_slot(x, arena, block_slot, units, offsets, activation, normalised, row_block)
    stages, columns = _forward_program(int(x.shape[1]), ints(units), ints(offsets), activation, normalised)
    run(stages, arena, block_slot, row_block, x.contiguous(), x.new_empty((x.shape[0], columns)), out)
    return out


@triton_op("smt::mlp_triton_backward", mutates_args=())
def _mlp_backward(
    gradient: Tensor,
    x: Tensor,
    arena: Tensor,
    block_slot: Tensor,
    units: Sequence[int],
    offsets: Sequence[int],
    activation: str,
    normalised: bool,
    row_block: int,
) -> tuple[Tensor, Tensor]:
    """(dx [B, K] in the dtype of x, d arena [1, elements] float32) for an arena of one slot."""
    x, gradient = x.contiguous(), gradient.contiguous()
    dx, rows = torch.empty_like(x), x.shape[0]
    if rows == 0:
        return dx, arena.new_zeros(arena.shape, dtype=torch.float32)
    stages, columns, jobs = _backward_program(int(x.shape[1]), ints(units), ints(offsets), activation, normalised)
    scratch = x.new_empty((rows, columns))
    run(stages, arena, block_slot, row_block, x, scratch, dx, gradient)
    return dx, weight_gradients(jobs, x, scratch, int(arena.shape[1]))


def _setup(ctx, inputs, output):
    x, arena, block_slot, *ctx.rest = inputs
    ctx.save_for_backward(x, arena, block_slot)


def _backward(ctx, gradient):
    x, arena, block_slot = ctx.saved_tensors
    if arena.shape[0] != 1:
        raise ValueError(f"mlp: the arena has {arena.shape[0]} slots; gradients are of an arena of one slot")
    if on_kernels(x):
        dx, d_arena = _mlp_backward(gradient, x, arena, block_slot, *ctx.rest)
    else:
        dx, d_arena = gradients_of(lambda x, arena: _by_slot(x, arena, block_slot, *ctx.rest), x, arena, gradient)
    return dx, d_arena.to(arena.dtype), None, None, None, None, None, None


_mlp.register_autograd(_backward, setup_context=_setup)


def _check(
    x: Tensor,
    arena: Tensor,
    block_slot: Tensor,
    units: Sequence[int],
    offsets: Sequence[int],
    normalised: bool,
    row_block: int,
) -> None:
    lists = 4 if normalised else 2
    if not units or len(offsets) != lists * len(units):
        raise ValueError(f"mlp: {len(offsets)} offsets for {len(units)} layers; expected {lists} per layer")
    sizes = [n * k for k, n in itertools.pairwise([x.shape[-1], *units])] + list(units) * (lists - 1)
    check_arena("mlp", x, arena, block_slot, row_block, zip(offsets, sizes, strict=True))


def _by_slot(
    x: Tensor,
    arena: Tensor,
    block_slot: Tensor,
    units: Sequence[int],
    offsets: Sequence[int],
    activation: str,
    normalised: bool,
    row_block: int,
) -> Tensor:
    """What the kernels compute, in plain PyTorch; reference.py specifies each block."""
    blocks, layers = Blocks(x, arena, block_slot, row_block), len(units)
    state = blocks.x
    for layer, (k, n) in enumerate(itertools.pairwise([x.shape[1], *units])):
        weight, bias, *norm = (offsets[i * layers + layer] for i in range(4 if normalised else 2))
        shift = blocks.weight(bias, n).unsqueeze(1)
        state = torch.baddbmm(shift, state, blocks.weight(weight, n, k).mT)
        if normalised:
            gain, shift = (blocks.weight(at, n).unsqueeze(1) for at in norm)
            state = torch.nn.functional.layer_norm(state, (n,), eps=LAYER_NORM_EPS) * gain + shift
        state = ACTIVATIONS[activation](state)
    return blocks.joined(state)


@lru_cache(maxsize=256)
def _forward_program(
    inputs: int, units: tuple[int, ...], offsets: tuple[int, ...], activation: str, normalised: bool
) -> tuple[list[Stage], int]:
    """(stages, columns of the scratch)."""
    scratch = Scratch()
    layers, widths = len(units), [inputs, *units]
    before = [scratch.place(n) if normalised else 0 for n in units]
    after = [scratch.place(n) for n in units[:-1]]
    states = [
        operand(X, 0, inputs),
        *(operand(SCRATCH, at, scratch.columns) for at in after),
        operand(OUT, 0, units[-1]),
    ]
    stages: list[Stage] = []
    for i in range(layers):
        k, n, weight, bias = widths[i], units[i], offsets[i], offsets[layers + i]
        if normalised:
            z = operand(SCRATCH, before[i], scratch.columns)
            stages.append(linear(states[i], k, n, weight, bias, z))
            stages.append(norm(z, n, offsets[2 * layers + i], offsets[3 * layers + i], activation, states[i + 1]))
        else:
            stages.append(linear(states[i], k, n, weight, bias, states[i + 1], activation=activation))
    return stages, scratch.columns


@lru_cache(maxsize=256)
def _backward_program(
    inputs: int, units: tuple[int, ...], offsets: tuple[int, ...], activation: str, normalised: bool
) -> tuple[list[Stage], int, list[GradientJob]]:
    """(stages, columns of the scratch, weight gradients)."""
    scratch = Scratch()
    layers, widths = len(units), [inputs, *units]
    # The derivative of ReLU can be told from its output, so that is kept alone.
    by_output = activation == "relu" and not normalised
    columns = {
        name: [scratch.place(n) for n in units]
        for name in ("y", "dz", *(() if by_output else ("z",)), *(("d_bias", "d_gain", "g") if normalised else ()))
    }

    def at(name: str, layer: int) -> Operand:
        return operand(SCRATCH, columns[name][layer], scratch.columns)

    x = operand(X, 0, inputs)
    stages: list[Stage] = []
    for i in range(layers):
        source, k, n, weight, bias = at("y", i - 1) if i else x, widths[i], units[i], offsets[i], offsets[layers + i]
        if normalised:
            stages.append(linear(source, k, n, weight, bias, at("z", i)))
            if i + 1 < layers:
                gain, shift = offsets[2 * layers + i], offsets[3 * layers + i]
                stages.append(norm(at("z", i), n, gain, shift, activation, at("y", i)))
        elif by_output or i + 1 < layers:
            before = NOWHERE if by_output else at("z", i)
            stages.append(linear(source, k, n, weight, bias, at("y", i), activation=activation, before=before))
        else:
            stages.append(linear(source, k, n, weight, bias, at("z", i)))

    seen = "y" if by_output else "z"
    jobs: list[GradientJob] = []
    for i in reversed(range(layers)):
        k, n, weight, bias = widths[i], units[i], offsets[i], offsets[layers + i]
        g = operand(GRADIENT, 0, n) if i + 1 == layers else at("g", i) if normalised else NOWHERE
        if normalised:
            gain, shift = offsets[2 * layers + i], offsets[3 * layers + i]
            stages.append(
                norm_gradient(g, at("z", i), n, gain, shift, activation, at("dz", i), at("d_bias", i), at("d_gain", i))
            )
            # The sum over the rows of what is in d_bias (d_gain) is a bias' gradient, of a layer without a matrix.
            jobs.append((at("d_bias", i), x, n, 0, -1, shift))
            jobs.append((at("d_gain", i), x, n, 0, -1, gain))
        elif i + 1 == layers:
            stages.append(activation_gradient(g, at(seen, i), n, activation, at("dz", i)))
        jobs.append((at("dz", i), at("y", i - 1) if i else x, n, k, weight, bias))
        if i == 0:
            stages.append(linear(at("dz", i), n, k, weight, -1, operand(OUT, 0, inputs), transposed=True))
        elif normalised:
            stages.append(linear(at("dz", i), n, k, weight, -1, at("g", i - 1), transposed=True))
        else:
            stages.append(linear_through(at("dz", i), n, k, weight, at("dz", i - 1), at(seen, i - 1), activation))
    return stages, scratch.columns, jobs
