"""Where grouped layers lie in an arena and in buffers, and what an op on an arena means in plain PyTorch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from smt.kernels.mlp.reference import ACTIVATIONS
from smt.kernels.triton_stages import Blocks
from smt.kernels.triton_support import ACTIVATION_CODES, ints, one_slot

ACTIVATION_NAMES = {code: name for name, code in ACTIVATION_CODES.items()}


@dataclass(frozen=True)
class Layer:
    """G linear layers [G, N, K] whose weights and biases begin at these elements of the arena."""

    weight: int
    bias: int
    groups: int
    outputs: int
    inputs: int


@dataclass(frozen=True)
class Columns:
    """Where a layer's inputs or outputs lie in a buffer of one row per row of the batch.

    `activation` is the code of the one that the reader applies (0: none).
    """

    buffer: Tensor
    first: int = 0
    group: int = 0
    activation: int = 0

    @property
    def stride(self) -> int:
        return self.buffer.stride(0)


def grouped_layers(widths: Sequence[int], weights: Sequence[int], biases: Sequence[int], groups: int) -> list[Layer]:
    """The grouped layers of widths[0] inputs and widths[l + 1] outputs, at these offsets of the arena."""
    places = zip(ints(weights), ints(biases), pairwise(ints(widths)), strict=True)
    return [Layer(weight, bias, groups, n, k) for weight, bias, (k, n) in places]


def hidden_columns(z: Tensor, layers: Sequence[Layer], activation: int) -> list[Columns]:
    """Where each layer's pre-activations lie in `z` [B, Σ_l G N_l]."""
    places, first = [], 0
    for layer in layers:
        places.append(Columns(z, first, layer.outputs, activation))
        first += layer.groups * layer.outputs
    return places


def spans(layers: Sequence[Layer]) -> list[tuple[int, int]]:
    """(first element, elements) of every weight and bias."""
    weights = [(layer.weight, layer.groups * layer.outputs * layer.inputs) for layer in layers]
    return weights + [(layer.bias, layer.groups * layer.outputs) for layer in layers]


def grouped_blocks(blocks: Blocks, x: Tensor, layers: Sequence[Layer], activation: int) -> Tensor:
    """The layers and activations in plain PyTorch, [blocks, G or 1, row_block, K] -> [blocks, G, row_block, N]."""
    act = ACTIVATIONS[ACTIVATION_NAMES[activation]]
    for layer in layers:
        weight = blocks.weight(layer.weight, layer.groups, layer.outputs, layer.inputs)
        x = act(x @ weight.mT + blocks.weight(layer.bias, layer.groups, 1, layer.outputs))
    return x


def check_one_slot(op: str, arena: Tensor) -> None:
    """Raises ValueError when gradients are asked for of an arena with several scenarios."""
    if arena.shape[0] != 1:
        raise ValueError(f"{op}: the arena has {arena.shape[0]} slots; gradients are of an arena of one slot")


def gradients_by_slot(
    function: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor, arena: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of an arena of one slot, and of x, for function(x, arena, block_slot with blocks of BLOCK_M rows)."""
    with torch.enable_grad():
        inputs = x.detach().requires_grad_(), arena.detach().requires_grad_()
        out = function(*inputs, one_slot(x.shape[0], x.device))
        dx, darena = torch.autograd.grad(out, inputs, gradient)
    return darena.float(), dx
