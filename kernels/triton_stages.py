"""Stage programs: a stack of layers as constants of one Triton kernel.

A stage computes one matrix of a row per row of the batch from others: a linear layer with what follows it, a layer
normalisation, a step of a backward pass. A program is a tuple of stages, and each stage a tuple of integers, made by
the functions below. One kernel runs any range of stages, so the same code is

- one launch of all stages, tile of rows by tile of rows, where the widest matrix has at most `ONE_LAUNCH_WIDTH`
  columns: a tile's intermediates stay in L1 and L2, and the only traffic is the input, the weights (from L2) and the
  output;
- one launch per stage over tiles of rows × tiles of columns where it is wider (DLRM's 3456): a tile of rows would keep
  too few programs busy for too long, and stream all weights for 64 rows; intermediates stream through L2 and memory.

An *operand* says where a matrix lies: buffer, first column and row stride, packed into one integer, because Triton
takes tuples of numbers and tuples of those as constants, no deeper. Buffers: the input x, a scratch tensor with all
intermediates of a row side by side, the output, and the gradient of the output (in a backward pass).
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.library import wrap_triton

from smt.kernels import triton_stage_kernel as kernel
from smt.kernels.triton_stage_kernel import stages_kernel
from smt.kernels.triton_support import (
    ACTIVATION_CODES,
    BLOCK_K,
    BLOCK_M,
    BLOCK_N,
    NUM_STAGES,
    NUM_WARPS,
    Operand,
    block,
)

X, SCRATCH, OUT, GRADIENT = 0, 1, 2, 3
NOWHERE: Operand = -1

ONE_LAUNCH_WIDTH = 1024
"""Widest matrix of a program that runs in one launch: a tile of 64 rows of it is 128 KiB, so that the input and two
intermediates of the tiles on 132 SMs are about an H100's 50 MB of L2."""

Stage = tuple[int, ...]
"""(kind, tiles of columns, widest matrix, then the operands and numbers of its kind)."""


class Scratch:
    """Places intermediates side by side; each begins at a whole 16 bytes, and can take the place of one released."""

    def __init__(self) -> None:
        self.columns = 0
        self._widths: dict[int, int] = {}
        self._free: dict[int, int] = {}

    def place(self, width: int) -> int:
        """First column of a new matrix of `width` columns."""
        width = -(-width // 8) * 8
        fitting = [first for first, free in self._free.items() if free >= width]
        if fitting:
            first = min(fitting, key=lambda first: self._free[first])
            rest = self._free.pop(first) - width
            if rest:
                self._free[first + width] = rest
        else:
            first = self.columns
            self.columns += width
        self._widths[first] = width
        return first

    def release(self, first: int) -> None:
        """The matrix that begins there is read no more by stages to come."""
        end = first + self._widths.pop(first)
        for other, width in list(self._free.items()):  # joined with free neighbours
            if other + width == first or other == end:
                del self._free[other]
                first, end = min(first, other), max(end, other + width)
        self._free[first] = end - first


def linear(
    x: Operand, k: int, n: int, weight: int, bias: int, out: Operand, *,
    activation: str = "none", transposed: bool = False, before: Operand = NOWHERE,
    groups: int = 1, x_group: int = 0, out_group: int = 0, residual: int = 0,
) -> Stage:  # fmt: skip
    """out = act(x Wᵀ + b), W [n, k] row-major at element `weight` of the slot, b at `bias` (-1: none).

    transposed: W is stored as [k, n] row-major. before: also stores x Wᵀ + b there.
    groups: so many of these with consecutive weights; group g reads from column g * x_group on and writes from
        g * out_group on.
    residual: W and b are sums of what lies at `weight` and `bias` and of what lies so many elements further; 0: no.
    """
    code = ACTIVATION_CODES[activation]
    return _linear(x, k, n, weight, bias, out, kernel.PLAIN.value, code, transposed, before, NOWHERE, NOWHERE,
                   groups, x_group, out_group, residual)  # fmt: skip


def linear_cross(
    x: Operand, k: int, n: int, weight: int, bias: int, out: Operand, x0: Operand, xl: Operand,
    before: Operand = NOWHERE,
) -> Stage:  # fmt: skip
    """out = x0 ⊙ (x Wᵀ + b) + xl; `before` as in `linear`. `out` may be `xl` if `x` is another matrix."""
    return _linear(x, k, n, weight, bias, out, kernel.CROSS.value, 0, False, before, x0, xl)


def linear_add(x: Operand, k: int, n: int, weight: int, out: Operand, a: Operand, b: Operand = NOWHERE) -> Stage:
    """out = x W + a (+ b), W [k, n] row-major: the gradient that passes a linear layer, and those that pass it by."""
    return _linear(x, k, n, weight, -1, out, kernel.ADD.value, 0, True, NOWHERE, a, b)


def linear_through(x: Operand, k: int, n: int, weight: int, out: Operand, z: Operand, activation: str) -> Stage:
    """out = x W ⊙ act'(z), W [k, n] row-major: a gradient through a linear layer and the activation before it."""
    code = ACTIVATION_CODES[activation]
    return _linear(x, k, n, weight, -1, out, kernel.TIMES_ACTIVATION_GRADIENT.value, code, True, NOWHERE, z, NOWHERE)


def _linear(
    x: Operand, k: int, n: int, weight: int, bias: int, out: Operand, epilogue: int, activation: int, transposed: bool,
    before: Operand, a: Operand, b: Operand, groups: int = 1, x_group: int = 0, out_group: int = 0, residual: int = 0,
) -> Stage:  # fmt: skip
    block_n, block_k = block(n, BLOCK_N), block(k, BLOCK_K)
    strides = (1, n) if transposed else (k, 1)
    tiles = -(-n // block_n) * groups
    return (kernel.LINEAR.value, tiles, max(k, n * groups), x, x_group, k, n, weight, bias, *strides, out, out_group,
            before, epilogue, activation, a, b, block_n, block_k, residual)  # fmt: skip


def norm(z: Operand, n: int, gain: int, bias: int, activation: str, out: Operand) -> Stage:
    """out = act(LN(z)), LN with the gain and bias at these elements of the slot (arXiv 1607.06450)."""
    width = block(n, BLOCK_N)
    return (kernel.NORM.value, -(-n // width), n, z, gain, bias, ACTIVATION_CODES[activation], out, width)


def norm_gradient(
    g: Operand, z: Operand, n: int, gain: int, bias: int, activation: str, out: Operand,
    d_bias: Operand, d_gain: Operand,
) -> Stage:  # fmt: skip
    """Gradient of `norm`: out = dz; d_bias and d_gain are what sums over the rows to the gradients of bias and gain."""
    width = block(n, BLOCK_N // 2)  # four matrices at once, which have to fit the registers
    code = ACTIVATION_CODES[activation]
    return (kernel.NORM_GRADIENT.value, -(-n // width), n, g, z, gain, bias, code, out, d_bias, d_gain, width)


def activation_gradient(g: Operand, z: Operand, n: int, activation: str, out: Operand) -> Stage:
    """out = g ⊙ act'(z)."""
    width = block(n, BLOCK_N)
    return (kernel.ACTIVATION_GRADIENT.value, -(-n // width), n, g, z, ACTIVATION_CODES[activation], out, width)


def cross_gradient(g: Operand, x0: Operand, z: Operand, n: int, dz: Operand, dx0: Operand, first: bool) -> Stage:
    """Of x0 ⊙ z: dz = g ⊙ x0, and dx0 = g ⊙ z, added to what is there unless it is the first."""
    width = block(n, BLOCK_N)
    return (kernel.CROSS_GRADIENT.value, -(-n // width), n, g, x0, z, dz, dx0, int(first), width)


def launches(stages: Sequence[Stage]) -> list[tuple[int, int, int]]:
    """How a program is launched: (first stage, end, programs per tile of rows)."""
    if max(stage[2] for stage in stages) <= ONE_LAUNCH_WIDTH:
        return [(0, len(stages), 1)]
    return [(i, i + 1, stage[1]) for i, stage in enumerate(stages)]


def row_tile(row_block: int, splits: int) -> tuple[int, int]:
    """(rows, warps) of a program: larger tiles where columns are split too, for more arithmetic per byte of weights."""
    return (2 * BLOCK_M, 2 * NUM_WARPS) if splits > 1 and row_block % (2 * BLOCK_M) == 0 else (BLOCK_M, NUM_WARPS)


def run(
    stages: Sequence[Stage], arena: Tensor, block_slot: Tensor, row_block: int,
    x: Tensor, scratch: Tensor, out: Tensor, gradient: Tensor | None = None,
) -> None:  # fmt: skip
    """Runs a program on all rows of x [B, K]; writes `scratch` [B, columns] and `out`.

    arena [slots, elements] in the dtype of x; block_slot int32, one slot per `row_block` rows.
    """
    rows = x.shape[0]
    for first, end, splits in launches(stages):
        block_m, warps = row_tile(row_block, splits)
        wrap_triton(stages_kernel)[((rows + block_m - 1) // block_m * splits,)](
            arena, block_slot, x, scratch, out, x if gradient is None else gradient, rows,
            STAGES=tuple(stages[first:end]), ELEMENTS=int(arena.shape[1]), ROW_BLOCK=row_block, SPLITS=splits,
            BLOCK_M=block_m, num_warps=warps, num_stages=NUM_STAGES,
        )  # fmt: skip


def check_arena(
    op: str, x: Tensor, arena: Tensor, block_slot: Tensor, row_block: int, weights: Iterable[tuple[int, int]]
) -> None:
    """Raises ValueError when the kernels cannot read these weights, (offset, elements) each, for these rows."""
    if row_block <= 0 or row_block % BLOCK_M:
        raise ValueError(f"{op}: row_block is {row_block}; expected a multiple of {BLOCK_M}, the rows of one program")
    if x.dim() != 2:
        raise ValueError(f"{op}: the input has {x.dim()} dimensions; expected [rows, columns]")
    if arena.dtype != x.dtype or arena.dim() != 2 or not arena.is_contiguous():
        raise ValueError(
            f"{op}: the arena is {arena.dtype} {tuple(arena.shape)} with strides {arena.stride()}; expected a "
            f"contiguous [slots, elements] of {x.dtype}, the dtype of the input"
        )
    if block_slot.dtype != torch.int32 or block_slot.dim() != 1 or not block_slot.is_contiguous():
        raise ValueError(f"{op}: block_slot is {block_slot.dtype} {tuple(block_slot.shape)}; expected int32 [blocks]")
    # While a graph is traced the numbers of rows and blocks are symbols; a comparison would tie them to each other.
    rows, blocks = x.shape[0], block_slot.shape[0]
    if isinstance(rows, int) and isinstance(blocks, int) and blocks * row_block < rows:
        raise ValueError(f"{op}: {blocks} entries of block_slot for {rows} rows; expected one per {row_block} rows")
    for offset, elements in weights:
        if offset < 0 or offset + elements > arena.shape[1]:
            raise ValueError(
                f"{op}: a weight ends at element {offset + elements}, and begins at {offset}; a slot of the arena has "
                f"{arena.shape[1]} elements"
            )


def check_shapes(op: str, name: str, found: Sequence[Tensor], expected: Sequence[tuple[int, ...]]) -> None:
    """Raises ValueError naming the tensor of a list `name` whose shape is not as expected."""
    if len(found) != len(expected):
        raise ValueError(f"{op}: {len(found)} {name}; expected {len(expected)}, one per layer")
    for i, (tensor, shape) in enumerate(zip(found, expected, strict=True)):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{op}: {name}[{i}] has shape {tuple(tensor.shape)}; expected {shape}")


class Blocks:
    """A batch block by block with each block's weights: what an arena op means, for plain PyTorch.

    x: [blocks, row_block, K], zeros behind the last row. slabs: [blocks, elements].
    """

    def __init__(self, x: Tensor, arena: Tensor, block_slot: Tensor, row_block: int) -> None:
        self.rows, blocks = x.shape[0], block_slot.shape[0]
        padding = (0, 0, 0, blocks * row_block - self.rows)
        self.x = torch.nn.functional.pad(x, padding).view(blocks, row_block, x.shape[1])
        self.slabs = arena[block_slot.long()]

    def weight(self, offset: int, *shape: int) -> Tensor:
        """[blocks, *shape]: the weight at that element of each block's slab."""
        return self.slabs[:, offset : offset + math.prod(shape)].reshape(self.slabs.shape[0], *shape)

    def joined(self, y: Tensor) -> Tensor:
        """[blocks, row_block, N] -> [rows, N]."""
        return y.flatten(0, 1)[: self.rows]


def gradients_of(
    function: Callable[[Tensor, Tensor], Tensor], x: Tensor, arena: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the arena for function(x, arena), by PyTorch: where no kernels run."""
    with torch.enable_grad():
        inputs = x.detach().requires_grad_(), arena.detach().requires_grad_()
        dx, d_arena = torch.autograd.grad(function(*inputs), inputs, gradient)
    return dx, d_arena
