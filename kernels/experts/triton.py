"""Triton kernels of the `experts` op (MMoE, doi 10.1145/3219819.3220007): forward and backward.

A program owns a tile of rows. It computes the gates of all tasks, then block of columns by block of columns each expert
once, adding it to the mixtures of all tasks while it is in registers: no expert's output is read again in the forward.
Layers before the last one are `grouped_linear` launches.
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
    shared_input_gradient,
)
from smt.kernels.triton_stages import Blocks, check_arena
from smt.kernels.triton_support import (
    ACTIVATION_CODES,
    BLOCK_M,
    NUM_STAGES,
    NUM_WARPS,
    activate,
    activate_gradient,
    arena_of,
    block,
    compute_dtype,
    load_tile,
    load_vector,
    one_slot,
    slot_offset,
    store_tile,
)

MIX_WARPS = 8
MIX_COLUMNS = 256
"""Columns of mixtures (tasks × outputs) that a program sums at a time: 64 registers a thread with eight warps."""


@triton.jit
def gate_tile(
    x_ptr, X_STRIDE: tl.constexpr, w_ptr, bias_ptr, gates_ptr, m, rows,
    K: tl.constexpr, EXPERTS: tl.constexpr, TASKS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """gates[m, t * EXPERTS + e] = softmax over e of (w[t, e] x[m] + bias[t, e])."""
    columns = tl.arange(0, BLOCK_T * BLOCK_E)
    e = columns % BLOCK_E
    for t0 in range(0, TASKS, BLOCK_T):
        t = t0 + columns // BLOCK_E
        inside = (t < TASKS) & (e < EXPERTS)
        gate = t * EXPERTS + e
        score = tl.zeros((BLOCK_M, BLOCK_T * BLOCK_E), tl.float32)
        for k0 in range(0, K, BLOCK_K):
            k = k0 + tl.arange(0, BLOCK_K)
            x = load_tile(x_ptr, X_STRIDE, m, k, rows, K)
            w = tl.load(w_ptr + gate[:, None] * K + k[None, :], mask=inside[:, None] & (k < K)[None, :], other=0.0)
            score = tl.dot(x, tl.trans(w), score, input_precision="ieee")
        score += tl.load(bias_ptr + gate, mask=inside, other=0.0).to(tl.float32)[None, :]
        score = tl.where((e < EXPERTS)[None, :], score, float("-inf"))
        score = tl.reshape(score, (BLOCK_M, BLOCK_T, BLOCK_E))
        score = tl.exp(score - tl.max(score, axis=2)[:, :, None])
        score = tl.reshape(score / tl.sum(score, axis=2)[:, :, None], (BLOCK_M, BLOCK_T * BLOCK_E))
        where = (m < rows)[:, None] & inside[None, :]
        tl.store(gates_ptr + m[:, None] * (TASKS * EXPERTS) + gate[None, :], score, mask=where)


@triton.jit
def mix_tile(
    x_ptr, X_STRIDE: tl.constexpr, X_GROUP: tl.constexpr, w_ptr, bias_ptr, gates_ptr, z_ptr, Z_STRIDE: tl.constexpr,
    mix_ptr, m, rows,
    K: tl.constexpr, N: tl.constexpr, EXPERTS: tl.constexpr, TASKS: tl.constexpr,
    X_ACTIVATION: tl.constexpr, ACTIVATION: tl.constexpr, SAVE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """mix[m, t, :] = Σ_e gates[m, t, e] act(z_e[m]), z_e = act(x_e[m]) w_eᵀ + bias_e; with SAVE, z is stored too."""
    # A shared input of few columns stays in shared memory for all experts.
    ONE_INPUT: tl.constexpr = (K <= BLOCK_K) and (X_GROUP == 0) and (X_ACTIVATION == 0)
    if ONE_INPUT:
        k = tl.arange(0, BLOCK_K)
        x = load_tile(x_ptr, X_STRIDE, m, k, rows, K)
    for t0 in range(0, TASKS, BLOCK_T):
        t = t0 + tl.arange(0, BLOCK_T)
        for n0 in range(0, N, BLOCK_N):
            n = n0 + tl.arange(0, BLOCK_N)
            mix = tl.zeros((BLOCK_M, BLOCK_T, BLOCK_N), tl.float32)
            for expert in range(EXPERTS):
                if ONE_INPUT:
                    w = load_tile(w_ptr + expert * N * K, K, n, k, N, K)
                    z = tl.dot(x, tl.trans(w), input_precision="ieee")
                else:
                    z = linear_tile(
                        x_ptr + expert * X_GROUP, X_STRIDE, w_ptr + expert * N * K, m, n, rows, N, K,
                        X_ACTIVATION, BLOCK_M, BLOCK_N, BLOCK_K,
                    )  # fmt: skip
                z += load_vector(bias_ptr + expert * N, n, N)[None, :]
                if SAVE:
                    store_tile(z_ptr + expert * N, Z_STRIDE, m, n, rows, N, z)
                gate = load_tile(gates_ptr + expert, TASKS * EXPERTS, m, t * EXPERTS, rows, TASKS * EXPERTS)
                mix += gate[:, :, None] * activate(z, ACTIVATION)[:, None, :]
            where = (m < rows)[:, None, None] & (t < TASKS)[None, :, None] & (n < N)[None, None, :]
            tl.store(
                mix_ptr + m[:, None, None] * (TASKS * N) + t[None, :, None] * N + n[None, None, :],
                mix.to(mix_ptr.dtype.element_ty),
                mask=where,
            )


@triton.jit
def experts_kernel(
    x_ptr, h_ptr, arena_ptr, block_slot_ptr, gates_ptr, z_ptr, mix_ptr, rows,
    ROW_BLOCK: tl.constexpr, ELEMENTS: tl.constexpr,
    GATE_WEIGHT: tl.constexpr, GATE_BIAS: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr,
    X_STRIDE: tl.constexpr, INPUTS: tl.constexpr,
    H_STRIDE: tl.constexpr, H_COLUMN: tl.constexpr, H_GROUP: tl.constexpr, H_ACTIVATION: tl.constexpr,
    Z_STRIDE: tl.constexpr, Z_COLUMN: tl.constexpr,
    K: tl.constexpr, N: tl.constexpr, EXPERTS: tl.constexpr, TASKS: tl.constexpr, ACTIVATION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK_X: tl.constexpr, BLOCK_E: tl.constexpr, GATE_T: tl.constexpr,
):  # fmt: skip
    """Gates from x, the last layer of the experts from h (x itself when there is one layer), and their mixtures."""
    first = tl.program_id(0).to(tl.int64) * BLOCK_M
    m, rows = tl.arange(0, BLOCK_M), (rows - first).to(tl.int32)
    arena_ptr += slot_offset(block_slot_ptr, first, ROW_BLOCK, ELEMENTS)
    gates_ptr += first * (TASKS * EXPERTS)
    gate_tile(
        x_ptr + first * X_STRIDE, X_STRIDE, arena_ptr + GATE_WEIGHT, arena_ptr + GATE_BIAS, gates_ptr, m, rows,
        INPUTS, EXPERTS, TASKS, BLOCK_M, BLOCK_X, BLOCK_E, GATE_T,
    )  # fmt: skip
    tl.debug_barrier()
    mix_tile(
        h_ptr + first * H_STRIDE + H_COLUMN, H_STRIDE, H_GROUP, arena_ptr + WEIGHT, arena_ptr + BIAS, gates_ptr,
        z_ptr + first * Z_STRIDE + Z_COLUMN, Z_STRIDE, mix_ptr + first * (TASKS * N), m, rows,
        K, N, EXPERTS, TASKS, H_ACTIVATION, ACTIVATION, True, BLOCK_M, BLOCK_N, BLOCK_K, BLOCK_T,
    )  # fmt: skip


@triton.jit
def mix_backward_kernel(
    dmix_ptr, gates_ptr, z_ptr, dz_ptr, dscore_ptr, rows,
    Z_STRIDE: tl.constexpr, Z_COLUMN: tl.constexpr, N: tl.constexpr,
    EXPERTS: tl.constexpr, TASKS: tl.constexpr, ACTIVATION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """From the gradient of the mixtures to those of the experts' pre-activations and of the gates' scores."""
    first = tl.program_id(0).to(tl.int64) * BLOCK_M
    m, rows = tl.arange(0, BLOCK_M), (rows - first).to(tl.int32)
    dmix_ptr += first * (TASKS * N)
    gates_ptr += first * (TASKS * EXPERTS)
    dscore_ptr += first * (TASKS * EXPERTS)
    z_ptr += first * Z_STRIDE + Z_COLUMN
    dz_ptr += first * Z_STRIDE + Z_COLUMN
    t, e = tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_E)
    dgate = tl.zeros((BLOCK_M, BLOCK_T, BLOCK_E), tl.float32)
    for n0 in range(0, N, BLOCK_N):
        n = n0 + tl.arange(0, BLOCK_N)
        where = (m < rows)[:, None, None] & (t < TASKS)[None, :, None] & (n < N)[None, None, :]
        at = m[:, None, None] * (TASKS * N) + t[None, :, None] * N + n[None, None, :]
        dmix = tl.load(dmix_ptr + at, mask=where, other=0.0).to(tl.float32)
        for expert in range(EXPERTS):
            z = load_tile(z_ptr + expert * N, Z_STRIDE, m, n, rows, N).to(tl.float32)
            gate = load_tile(gates_ptr + expert, TASKS * EXPERTS, m, t * EXPERTS, rows, TASKS * EXPERTS)
            dz = tl.sum(dmix * gate[:, :, None], axis=1) * activate_gradient(z, ACTIVATION)
            store_tile(dz_ptr + expert * N, Z_STRIDE, m, n, rows, N, dz)
            part = tl.sum(dmix * activate(z, ACTIVATION)[:, None, :], axis=2)
            dgate += tl.where((e == expert)[None, None, :], part[:, :, None], 0.0)
    where = (m < rows)[:, None, None] & (t < TASKS)[None, :, None] & (e < EXPERTS)[None, None, :]
    at = m[:, None, None] * (TASKS * EXPERTS) + t[None, :, None] * EXPERTS + e[None, None, :]
    gates = tl.load(gates_ptr + at, mask=where, other=0.0)
    dscore = gates * (dgate - tl.sum(gates * dgate, axis=2)[:, :, None])
    tl.store(dscore_ptr + at, dscore.to(dscore_ptr.dtype.element_ty), mask=where)


def experts_by_slot(
    x: Tensor, arena: Tensor, block_slot: Tensor, layers: Sequence[Layer], gate: Layer, tasks: int, activation: int,
    row_block: int,
) -> Tensor:  # fmt: skip
    """[B, T N_last], what the kernels compute, in plain PyTorch; reference.py specifies each block."""
    blocks, count = Blocks(x, arena, block_slot, row_block), layers[0].groups
    score = torch.einsum("brk,btek->brte", blocks.x, blocks.weight(gate.weight, tasks, count, gate.inputs))
    gates = torch.softmax(score + blocks.weight(gate.bias, 1, tasks, count), dim=-1)
    mixed = torch.einsum("brte,bern->brtn", gates, grouped_blocks(blocks, blocks.x.unsqueeze(1), layers, activation))
    return blocks.joined(mixed.flatten(2))


def mix_blocks(layer: Layer, inputs: int, tasks: int) -> dict[str, int]:
    """Block sizes of `mix_tile` and `gate_tile`."""
    block_t = min(16, triton.next_power_of_2(tasks))
    block_e = triton.next_power_of_2(layer.groups)
    return {
        "BLOCK_M": BLOCK_M,
        "BLOCK_N": block(layer.outputs, max(16, MIX_COLUMNS // block_t)),
        "BLOCK_K": block(layer.inputs, 256 if layer.inputs <= 256 else 64),
        "BLOCK_T": block_t,
        "BLOCK_X": block(inputs, 64),
        "BLOCK_E": block_e,
        "GATE_T": max(1, max(16, min(64, triton.next_power_of_2(tasks) * block_e)) // block_e),
    }


@triton_op("smt::experts_triton", mutates_args={})
def _experts(
    arena: Tensor, block_slot: Tensor, x: Tensor, widths: Sequence[int], weights: Sequence[int], biases: Sequence[int],
    gate_weight: int, gate_bias: int, count: int, tasks: int, activation: int, row_block: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """-> mixtures [B, T, N_last]; and for the backward: gates [B, T E] float32, pre-activations [B, Σ_l E N_l]."""
    layers = grouped_layers(widths, weights, biases, count)
    rows, last = x.shape[0], layers[-1]
    gate = Layer(int(gate_weight), int(gate_bias), 1, tasks * count, layers[0].inputs)
    check_arena("experts", x, arena, block_slot, row_block, spans([*layers, gate]))
    if not on_kernels(x):
        mix = experts_by_slot(x, arena, block_slot, layers, gate, tasks, activation, row_block)
        return mix.view(rows, tasks, last.outputs), x.new_empty(0, dtype=torch.float32), x.new_empty(0)
    mix = x.new_empty((rows, tasks, last.outputs))
    gates = x.new_empty((rows, tasks * count), dtype=torch.float32)
    z = x.new_empty((rows, count * sum(widths[1:])))
    places = hidden_columns(z, layers, activation)
    inputs = [Columns(x), *places[:-1]]
    for layer, source, target in zip(layers[:-1], inputs, places, strict=False):
        grouped_linear(arena, block_slot, source, target, layer, row_block)
    source, target = inputs[-1], places[-1]
    wrap_triton(experts_kernel)[((rows + BLOCK_M - 1) // BLOCK_M,)](
        x, source.buffer, arena, block_slot, gates, z, mix, rows,
        row_block, int(arena.shape[1]), gate.weight, gate.bias, last.weight, last.bias,
        x.stride(0), gate.inputs, source.stride, source.first, source.group, source.activation,
        target.stride, target.first, last.inputs, last.outputs, count, tasks, activation,
        **mix_blocks(last, gate.inputs, tasks), num_warps=MIX_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
    return mix, gates, z


@triton_op("smt::experts_triton_backward", mutates_args={})
def _experts_backward(
    dmix: Tensor, arena: Tensor, x: Tensor, gates: Tensor, z: Tensor,
    widths: Sequence[int], weights: Sequence[int], biases: Sequence[int],
    gate_weight: int, gate_bias: int, count: int, tasks: int, activation: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """-> gradients of the arena [1, elements] float32 and of x [B, K]."""
    layers = grouped_layers(widths, weights, biases, count)
    rows, last = x.shape[0], layers[-1]
    gate = Layer(int(gate_weight), int(gate_bias), 1, tasks * count, layers[0].inputs)
    dz, dscore, dx = torch.empty_like(z), x.new_empty((rows, tasks * count)), x.new_empty(x.shape)
    parts = gradient_parts(arena)
    places = hidden_columns(z, layers, activation)
    gradients = hidden_columns(dz, layers, 0)
    block_t, block_e = triton.next_power_of_2(tasks), triton.next_power_of_2(count)
    wrap_triton(mix_backward_kernel)[((rows + 15) // 16,)](
        dmix, gates, z, dz, dscore, rows, z.stride(0), places[-1].first, last.outputs, count, tasks, activation,
        16, min(triton.next_power_of_2(last.outputs), max(1, 512 // block_t)), block_t, block_e, num_warps=NUM_WARPS,
    )  # fmt: skip
    for i in range(len(layers) - 1, 0, -1):
        grouped_weight_gradient(parts, gradients[i], places[i - 1], layers[i])
        grouped_input_gradient(arena, gradients[i], places[i - 1], gradients[i - 1], layers[i])
    grouped_weight_gradient(parts, gradients[0], Columns(x), layers[0])
    grouped_weight_gradient(parts, Columns(dscore), Columns(x), gate)
    shared_input_gradient(arena, gradients[0], dscore, Columns(dx), layers[0], gate.weight)
    return parts.sum(0, keepdim=True), dx


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    arena, _, x, *ctx.constants, _ = inputs
    ctx.save_for_backward(arena, x, *output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dmix: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    arena, x, gates, z = ctx.saved_tensors
    check_one_slot("experts", arena)
    if on_kernels(x):
        darena, dx = torch.ops.smt.experts_triton_backward(dmix.contiguous(), arena, x, gates, z, *ctx.constants)
    else:
        widths, weights, biases, gate_weight, gate_bias, count, tasks, activation = ctx.constants
        layers = grouped_layers(widths, weights, biases, count)
        gate = Layer(gate_weight, gate_bias, 1, tasks * count, widths[0])
        darena, dx = gradients_by_slot(
            lambda x, arena, slot: experts_by_slot(x, arena, slot, layers, gate, tasks, activation, BLOCK_M),
            x, arena, dmix.flatten(1),
        )  # fmt: skip
    return (darena.to(arena.dtype), None, dx, *[None] * (len(ctx.constants) + 1))


_experts.register_autograd(_backward, setup_context=_setup_context)


@dataclass(frozen=True)
class ExpertsLayout:
    """Where the weights of `experts` lie in a slot of the arena, in elements.

    Attributes:
        widths: K, N_0 … N_last.
        weights, biases: first elements of each layer's [E, N_l, N_{l-1}] and [E, N_l].
        gate_weight, gate_bias: first elements of [T, E, K] and [T, E].
        count, tasks: E and T.
        activation: a key of `ACTIVATION_CODES`.
    """

    widths: tuple[int, ...]
    weights: tuple[int, ...]
    biases: tuple[int, ...]
    gate_weight: int
    gate_bias: int
    count: int
    tasks: int
    activation: str

    @staticmethod
    def of(weights: Sequence[Tensor], gate_weight: Tensor, offsets: Sequence[int], activation: str) -> "ExpertsLayout":
        """The layout of an arena made of the weights, the biases, gate_weight and gate_bias, at `offsets`."""
        tasks, count, inputs = gate_weight.shape
        layers = len(weights)
        return ExpertsLayout(
            (inputs, *(weight.shape[1] for weight in weights)),
            tuple(offsets[:layers]), tuple(offsets[layers : 2 * layers]), offsets[2 * layers], offsets[2 * layers + 1],
            count, tasks, activation,
        )  # fmt: skip


def experts_arena(
    arena: Tensor, block_slot: Tensor, x: Tensor, layout: ExpertsLayout, row_block: int = BLOCK_M
) -> Tensor:
    """`experts` with weights from an arena; differentiable when the arena has one slot.

    Args:
        arena: [slots, elements] bfloat16 (float32 in the interpreter).
        block_slot: [ceil(B / row_block)] int32, the slot of each block of rows.
        x: [B, K] of the arena's dtype, each row contiguous.
        layout: where the weights lie in every slot.
        row_block: rows that share a slot, a multiple of BLOCK_M.

    Returns:
        [B, T, N_last] of the arena's dtype.
    """
    mix: Tensor = torch.ops.smt.experts_triton(
        arena, block_slot, x, layout.widths, layout.weights, layout.biases, layout.gate_weight, layout.gate_bias,
        layout.count, layout.tasks, ACTIVATION_CODES[layout.activation], row_block,
    )[0]  # fmt: skip
    return mix


def experts(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], gate_weight: Tensor, gate_bias: Tensor,
    activation: str,
) -> Tensor:  # fmt: skip
    """See reference.py. Computes in bfloat16 on a GPU; the result has the dtype of x."""
    dtype = compute_dtype(x.device)
    arena, offsets = arena_of([*weights, *biases, gate_weight, gate_bias], dtype)
    layout = ExpertsLayout.of(weights, gate_weight, offsets, activation)
    return experts_arena(arena, one_slot(x.shape[0], x.device), x.to(dtype).contiguous(), layout).to(x.dtype)
