"""Triton kernels of the `heads` op, forward and backward, and of experts and heads in one launch (forward).

A program owns a tile of rows of one task, or of all tasks in the fused kernel. The last hidden layer is reduced to the
logit while it is in registers. Layers before it are `grouped_linear` launches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from smt.kernels.backend import on_kernels
from smt.kernels.experts.arena import (
    Columns,
    Layer,
    check_one_slot,
    gradients_by_slot,
    grouped_blocks,
    grouped_layers,
    hidden_columns,
    spans,
)
from smt.kernels.experts.grouped import (
    gradient_parts,
    grouped_input_gradient,
    grouped_linear,
    grouped_weight_gradient,
    linear_tile,
)
from smt.kernels.experts.triton import (
    MIX_WARPS,
    ExpertsLayout,
    experts_arena,
    experts_by_slot,
    gate_tile,
    mix_blocks,
    mix_tile,
)
from smt.kernels.triton_stages import Blocks, check_arena
from smt.kernels.triton_support import (
    ACTIVATION_CODES,
    BLOCK_K,
    BLOCK_M,
    NUM_STAGES,
    NUM_WARPS,
    activate,
    arena_of,
    block,
    compute_dtype,
    load_tile,
    load_vector,
    one_slot,
    slot_offset,
    store_tile,
)

TOWER_COLUMNS = 64
"""Columns of a tower's last hidden layer that a program computes at a time."""


@triton.jit
def tower_tile(
    x_ptr, X_STRIDE: tl.constexpr, w_ptr, bias_ptr, out_w_ptr, out_bias_ptr, z_ptr, Z_STRIDE: tl.constexpr, m, rows,
    K: tl.constexpr, N: tl.constexpr, X_ACTIVATION: tl.constexpr, ACTIVATION: tl.constexpr,
    HIDDEN: tl.constexpr, SAVE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """[m] float32 logits of one task: ⟨out_w, act(z)⟩ + out_bias, z = act(x) wᵀ + bias; ⟨out_w, x⟩ without HIDDEN."""
    logit = tl.zeros((BLOCK_M,), tl.float32)
    if HIDDEN:
        for n0 in range(0, N, BLOCK_N):
            n = n0 + tl.arange(0, BLOCK_N)
            z = linear_tile(x_ptr, X_STRIDE, w_ptr, m, n, rows, N, K, X_ACTIVATION, BLOCK_M, BLOCK_N, BLOCK_K)
            z += load_vector(bias_ptr, n, N)[None, :]
            if SAVE:
                store_tile(z_ptr, Z_STRIDE, m, n, rows, N, z)
            logit += tl.sum(activate(z, ACTIVATION) * load_vector(out_w_ptr, n, N)[None, :], axis=1)
    else:
        for k0 in range(0, K, BLOCK_K):
            k = k0 + tl.arange(0, BLOCK_K)
            x = load_tile(x_ptr, X_STRIDE, m, k, rows, K).to(tl.float32)
            logit += tl.sum(x * load_vector(out_w_ptr, k, K)[None, :], axis=1)
    return logit + tl.load(out_bias_ptr).to(tl.float32)


@triton.jit
def heads_kernel(
    x_ptr, arena_ptr, block_slot_ptr, z_ptr, out_ptr, rows,
    ROW_BLOCK: tl.constexpr, ELEMENTS: tl.constexpr,
    WEIGHT: tl.constexpr, BIAS: tl.constexpr, OUT_WEIGHT: tl.constexpr, OUT_BIAS: tl.constexpr,
    X_STRIDE: tl.constexpr, X_COLUMN: tl.constexpr, X_GROUP: tl.constexpr, X_ACTIVATION: tl.constexpr,
    Z_STRIDE: tl.constexpr, Z_COLUMN: tl.constexpr,
    K: tl.constexpr, N: tl.constexpr, TASKS: tl.constexpr, ACTIVATION: tl.constexpr, HIDDEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Logits [B, T] from the input of the towers' last hidden layer. Grid: blocks of rows, T."""
    first, task = tl.program_id(0).to(tl.int64) * BLOCK_M, tl.program_id(1)
    m, rows = tl.arange(0, BLOCK_M), (rows - first).to(tl.int32)
    arena_ptr += slot_offset(block_slot_ptr, first, ROW_BLOCK, ELEMENTS)
    logit = tower_tile(
        x_ptr + first * X_STRIDE + X_COLUMN + task * X_GROUP, X_STRIDE,
        arena_ptr + WEIGHT + task * N * K, arena_ptr + BIAS + task * N,
        arena_ptr + OUT_WEIGHT + task * N, arena_ptr + OUT_BIAS + task,
        z_ptr + first * Z_STRIDE + Z_COLUMN + task * N, Z_STRIDE, m, rows,
        K, N, X_ACTIVATION, ACTIVATION, HIDDEN, True, BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip
    tl.store(out_ptr + first * TASKS + m * TASKS + task, logit, mask=m < rows)


@triton.jit
def experts_heads_kernel(
    x_ptr, arena_ptr, block_slot_ptr, gates_ptr, mix_ptr, out_ptr, rows,
    ROW_BLOCK: tl.constexpr, ELEMENTS: tl.constexpr,
    GATE_WEIGHT: tl.constexpr, GATE_BIAS: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr,
    TOWER_WEIGHT: tl.constexpr, TOWER_BIAS: tl.constexpr, OUT_WEIGHT: tl.constexpr, OUT_BIAS: tl.constexpr,
    X_STRIDE: tl.constexpr, K: tl.constexpr, N: tl.constexpr, HIDDEN: tl.constexpr, EXPERTS: tl.constexpr,
    TASKS: tl.constexpr, ACTIVATION: tl.constexpr, TOWER_ACTIVATION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK_X: tl.constexpr, BLOCK_E: tl.constexpr, GATE_T: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_MIX: tl.constexpr,
):  # fmt: skip
    """Probabilities [B, T] of one-layer experts of N outputs and towers of HIDDEN units (0: none) on their mixtures.

    Gates and mixtures of a tile go through `gates_ptr` and `mix_ptr`, and stay in L2.
    """
    first = tl.program_id(0).to(tl.int64) * BLOCK_M
    m, rows = tl.arange(0, BLOCK_M), (rows - first).to(tl.int32)
    arena_ptr += slot_offset(block_slot_ptr, first, ROW_BLOCK, ELEMENTS)
    x_ptr += first * X_STRIDE
    gates_ptr += first * (TASKS * EXPERTS)
    mix_ptr += first * (TASKS * N)
    gate_tile(
        x_ptr, X_STRIDE, arena_ptr + GATE_WEIGHT, arena_ptr + GATE_BIAS, gates_ptr, m, rows,
        K, EXPERTS, TASKS, BLOCK_M, BLOCK_X, BLOCK_E, GATE_T,
    )  # fmt: skip
    tl.debug_barrier()
    mix_tile(
        x_ptr, X_STRIDE, 0, arena_ptr + WEIGHT, arena_ptr + BIAS, gates_ptr, mix_ptr, 0, mix_ptr, m, rows,
        K, N, EXPERTS, TASKS, 0, ACTIVATION, False, BLOCK_M, BLOCK_N, BLOCK_K, BLOCK_T,
    )  # fmt: skip
    tl.debug_barrier()
    out_ptr += first * TASKS
    WIDTH: tl.constexpr = HIDDEN if HIDDEN > 0 else N
    for task in range(TASKS):
        logit = tower_tile(
            mix_ptr + task * N, TASKS * N,
            arena_ptr + TOWER_WEIGHT + task * HIDDEN * N, arena_ptr + TOWER_BIAS + task * HIDDEN,
            arena_ptr + OUT_WEIGHT + task * WIDTH, arena_ptr + OUT_BIAS + task, mix_ptr, 0, m, rows,
            N, WIDTH, 0, TOWER_ACTIVATION, HIDDEN > 0, False, BLOCK_M, BLOCK_H, BLOCK_MIX,
        )  # fmt: skip
        tl.store(out_ptr + m * TASKS + task, tl.sigmoid(logit), mask=m < rows)


def heads_by_slot(
    x: Tensor, arena: Tensor, block_slot: Tensor, layers: Sequence[Layer], logit: Layer, activation: int, row_block: int
) -> Tensor:
    """[B, T] float32 logits, what the kernels compute, in plain PyTorch; reference.py specifies each block."""
    blocks, tasks = Blocks(x.flatten(1), arena, block_slot, row_block), logit.groups
    by_task = blocks.x.view(*blocks.x.shape[:2], tasks, -1).transpose(1, 2)
    h = grouped_blocks(blocks, by_task, layers, activation)
    logits = (h * blocks.weight(logit.weight, tasks, 1, logit.inputs)).sum(-1) + blocks.weight(logit.bias, tasks, 1)
    return blocks.joined(logits.transpose(1, 2)).float()


@triton_op("smt::heads_triton", mutates_args={})
def _heads(
    arena: Tensor, block_slot: Tensor, x: Tensor, widths: Sequence[int], weights: Sequence[int], biases: Sequence[int],
    out_weight: int, out_bias: int, activation: int, row_block: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """-> logits [B, T] float32, pre-activations [B, Σ_l T N_l]."""
    rows, tasks = x.shape[0], int(x.shape[1])
    layers = grouped_layers(widths, weights, biases, tasks)
    logit = Layer(int(out_weight), int(out_bias), tasks, 1, int(widths[-1]))
    check_arena("heads", x[:, 0], arena, block_slot, row_block, spans([*layers, logit]))
    if not on_kernels(x):
        return heads_by_slot(x, arena, block_slot, layers, logit, activation, row_block), x.new_empty(0)
    logits = x.new_empty((rows, tasks), dtype=torch.float32)
    z = x.new_empty((rows, tasks * sum(widths[1:])))
    places = hidden_columns(z, layers, activation)
    inputs = [Columns(x, 0, x.stride(1)), *places[:-1]]
    for layer, source, target in zip(layers[:-1], inputs, places, strict=False):
        grouped_linear(arena, block_slot, source, target, layer, row_block)
    source, width = inputs[-1], logit.inputs
    last = layers[-1] if layers else Layer(0, 0, tasks, width, width)
    target = places[-1] if places else Columns(x)
    wrap_triton(heads_kernel)[((rows + BLOCK_M - 1) // BLOCK_M, tasks)](
        source.buffer, arena, block_slot, z, logits, rows,
        row_block, int(arena.shape[1]), last.weight, last.bias, logit.weight, logit.bias,
        source.stride, source.first, source.group, source.activation, target.stride, target.first,
        last.inputs, width, tasks, activation, bool(layers),
        BLOCK_M, block(width, TOWER_COLUMNS), block(last.inputs, BLOCK_K), num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
    return logits, z


@triton_op("smt::heads_triton_backward", mutates_args={})
def _heads_backward(
    dlogit: Tensor, arena: Tensor, x: Tensor, z: Tensor, widths: Sequence[int], weights: Sequence[int],
    biases: Sequence[int], out_weight: int, out_bias: int, activation: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """-> gradients of the arena [1, elements] float32 and of x [B, T, K]."""
    tasks = int(x.shape[1])
    layers = grouped_layers(widths, weights, biases, tasks)
    # The logit is one more layer, of one output per task.
    logit = Layer(int(out_weight), int(out_bias), tasks, 1, int(widths[-1]))
    dz, dx, parts = torch.empty_like(z), x.new_empty(x.shape), gradient_parts(arena)
    layers.append(logit)
    inputs = [Columns(x, 0, x.stride(1)), *hidden_columns(z, layers[:-1], activation)]
    gradients = [*hidden_columns(dz, layers[:-1], 0), Columns(dlogit)]
    for i in range(len(layers) - 1, 0, -1):
        grouped_weight_gradient(parts, gradients[i], inputs[i], layers[i])
        grouped_input_gradient(arena, gradients[i], inputs[i], gradients[i - 1], layers[i])
    grouped_weight_gradient(parts, gradients[0], inputs[0], layers[0])
    grouped_input_gradient(arena, gradients[0], inputs[0], Columns(dx), layers[0])
    return parts.sum(0, keepdim=True), dx


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    arena, _, x, *ctx.constants, _ = inputs
    ctx.save_for_backward(arena, x, output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dlogit: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    arena, x, z = ctx.saved_tensors
    check_one_slot("heads", arena)
    if on_kernels(x):
        dlogit = dlogit.to(arena.dtype).contiguous()
        darena, dx = torch.ops.smt.heads_triton_backward(dlogit, arena, x, z, *ctx.constants)
    else:
        widths, weights, biases, out_weight, out_bias, activation = ctx.constants
        tasks = x.shape[1]
        layers, logit = (
            grouped_layers(widths, weights, biases, tasks),
            Layer(out_weight, out_bias, tasks, 1, widths[-1]),
        )
        darena, dx = gradients_by_slot(
            lambda x, arena, slot: heads_by_slot(x, arena, slot, layers, logit, activation, BLOCK_M), x, arena, dlogit
        )
    return (darena.to(arena.dtype), None, dx, *[None] * (len(ctx.constants) + 1))


_heads.register_autograd(_backward, setup_context=_setup_context)


@triton_op("smt::experts_heads_triton", mutates_args={})
def _experts_heads(
    arena: Tensor, block_slot: Tensor, x: Tensor, width: int, hidden: int, weight: int, bias: int,
    gate_weight: int, gate_bias: int, tower_weight: int, tower_bias: int, out_weight: int, out_bias: int,
    count: int, tasks: int, activation: int, tower_activation: int, row_block: int,
) -> Tensor:  # fmt: skip
    """-> probabilities [B, T] float32."""
    rows, inputs = x.shape[0], int(x.shape[1])
    experts = Layer(int(weight), int(bias), count, int(width), inputs)
    gate = Layer(int(gate_weight), int(gate_bias), 1, tasks * count, inputs)
    towers = [Layer(int(tower_weight), int(tower_bias), tasks, int(hidden), int(width))] if hidden else []
    logit = Layer(int(out_weight), int(out_bias), tasks, 1, int(hidden or width))
    check_arena("experts_heads", x, arena, block_slot, row_block, spans([experts, gate, *towers, logit]))
    if not on_kernels(x):
        mix = experts_by_slot(x, arena, block_slot, [experts], gate, tasks, activation, row_block)
        mix = mix.view(rows, tasks, width)
        return torch.sigmoid(heads_by_slot(mix, arena, block_slot, towers, logit, tower_activation, row_block))
    gates = x.new_empty((rows, tasks * count), dtype=torch.float32)
    mix = x.new_empty((rows, tasks * width))
    out = x.new_empty((rows, tasks), dtype=torch.float32)
    wrap_triton(experts_heads_kernel)[((rows + BLOCK_M - 1) // BLOCK_M,)](
        x, arena, block_slot, gates, mix, out, rows,
        row_block, int(arena.shape[1]), gate_weight, gate_bias, weight, bias,
        tower_weight, tower_bias, out_weight, out_bias,
        x.stride(0), inputs, width, hidden, count, tasks, activation, tower_activation,
        **mix_blocks(experts, inputs, tasks), BLOCK_H=block(hidden, TOWER_COLUMNS), BLOCK_MIX=block(width, BLOCK_K),
        num_warps=MIX_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
    return out


@dataclass(frozen=True)
class HeadsLayout:
    """Where the weights of `heads` lie in a slot of the arena, in elements.

    Attributes:
        widths: K, N_0 … N_last; K alone for heads without hidden layers.
        weights, biases: first elements of each layer's [T, N_l, N_{l-1}] and [T, N_l].
        out_weight, out_bias: first elements of [T, N_last] and [T].
        tasks: T.
        activation: a key of `ACTIVATION_CODES`.
    """

    widths: tuple[int, ...]
    weights: tuple[int, ...]
    biases: tuple[int, ...]
    out_weight: int
    out_bias: int
    tasks: int
    activation: str

    @staticmethod
    def of(
        weights: Sequence[Tensor], out_weight: Tensor, inputs: int, offsets: Sequence[int], activation: str
    ) -> "HeadsLayout":
        """The layout of an arena made of the weights, the biases, out_weight and out_bias, at `offsets`."""
        layers = len(weights)
        return HeadsLayout(
            (inputs, *(weight.shape[1] for weight in weights)),
            tuple(offsets[:layers]), tuple(offsets[layers : 2 * layers]), offsets[2 * layers], offsets[2 * layers + 1],
            out_weight.shape[0], activation,
        )  # fmt: skip


def heads_arena(arena: Tensor, block_slot: Tensor, x: Tensor, layout: HeadsLayout, row_block: int = BLOCK_M) -> Tensor:
    """`heads` with weights from an arena; differentiable when the arena has one slot.

    Args:
        arena, block_slot, row_block: as for `experts_arena`.
        x: [B, T, K] of the arena's dtype, each [K] contiguous; all tasks may share it (a stride of 0).
        layout: where the weights lie in every slot.

    Returns:
        [B, T] float32 logits.
    """
    logits: Tensor = torch.ops.smt.heads_triton(
        arena, block_slot, x, layout.widths, layout.weights, layout.biases, layout.out_weight, layout.out_bias,
        ACTIVATION_CODES[layout.activation], row_block,
    )[0]  # fmt: skip
    return logits


def experts_heads_arena(
    arena: Tensor, block_slot: Tensor, x: Tensor, experts: ExpertsLayout, heads: HeadsLayout, row_block: int = BLOCK_M
) -> Tensor:
    """Experts and heads down to the probabilities, arguments as for `experts_arena`.

    One launch when nothing is differentiated, the experts have one layer, and the towers at most one hidden layer;
    otherwise the two ops one after the other.

    Returns:
        [B, T] float32 probabilities.
    """
    training = torch.is_grad_enabled() and (arena.requires_grad or x.requires_grad)
    if training or len(experts.weights) > 1 or len(heads.weights) > 1:
        mix = experts_arena(arena, block_slot, x, experts, row_block)
        return torch.sigmoid(heads_arena(arena, block_slot, mix, heads, row_block))
    probabilities: Tensor = torch.ops.smt.experts_heads_triton(
        arena, block_slot, x, experts.widths[1], sum(heads.widths[1:]), experts.weights[0], experts.biases[0],
        experts.gate_weight, experts.gate_bias, sum(heads.weights), sum(heads.biases), heads.out_weight, heads.out_bias,
        experts.count, experts.tasks, ACTIVATION_CODES[experts.activation], ACTIVATION_CODES[heads.activation],
        row_block,
    )  # fmt: skip
    return probabilities


def heads(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], out_weight: Tensor, out_bias: Tensor,
    activation: str,
) -> Tensor:  # fmt: skip
    """See reference.py. Computes in bfloat16 on a GPU; the result has the dtype of x."""
    dtype = compute_dtype(x.device)
    arena, offsets = arena_of([*weights, *biases, out_weight, out_bias], dtype)
    layout = HeadsLayout.of(weights, out_weight, x.shape[2], offsets, activation)
    narrow = x.to(dtype)
    if narrow.stride(2) != 1:
        narrow = narrow.contiguous()
    return heads_arena(arena, one_slot(x.shape[0], x.device), narrow, layout).to(x.dtype)


def experts_heads(
    x: Tensor,
    expert_weights: Sequence[Tensor], expert_biases: Sequence[Tensor],
    gate_weight: Tensor, gate_bias: Tensor, expert_activation: str,
    head_weights: Sequence[Tensor], head_biases: Sequence[Tensor],
    out_weight: Tensor, out_bias: Tensor, head_activation: str,
) -> Tensor:  # fmt: skip
    """See `smt.kernels.heads.experts_heads`. Computes in bfloat16 on a GPU; the result has the dtype of x."""
    dtype = compute_dtype(x.device)
    of_experts = [*expert_weights, *expert_biases, gate_weight, gate_bias]
    arena, offsets = arena_of([*of_experts, *head_weights, *head_biases, out_weight, out_bias], dtype)
    experts = ExpertsLayout.of(expert_weights, gate_weight, offsets[: len(of_experts)], expert_activation)
    heads = HeadsLayout.of(head_weights, out_weight, experts.widths[-1], offsets[len(of_experts) :], head_activation)
    slots = one_slot(x.shape[0], x.device)
    return experts_heads_arena(arena, slots, x.to(dtype).contiguous(), experts, heads).to(x.dtype)
