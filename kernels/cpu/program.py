"""Tile programs: what the fused CPU kernels compute, as a list of integers that an op can carry.

    program = TileProgram("bf16", inputs=13)
    program.mlp([Linear(256, weight=0, bias=3328)], "relu")
    out = torch.ops.smt.tile_program(arena, block_slot, x, program.values())

Integers, because they are constants of a compiled graph that need no parsing on the hot path; program.cc reads and
checks them. Every weight is named by its first element in the slab. The format (raise FORMAT when it changes, here and
in program.cc):

    FORMAT, precision, inputs, groups of the input, then steps, each a kind and its numbers:
    1 mlp: activation, layers, per layer: units, weight, bias, gain or -1 [, bias of the norm]
    2 gather: slots, dim, pooling, table type, 0
    3 cross, low rank: layers, rank, per layer: down, up, bias
    4 cross, full: layers, per layer: weight, bias
    5 dot: vectors, dim, dense vector first
    6 experts: activation, tasks, experts, layers, per layer: units, weight, bias; gate weight, gate bias
    7 heads: activation, tasks, shared input, probability, layers, per layer: units, weight, bias; out weight, out bias
    8 exact mlp: as mlp, in fp32 whatever the precision
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

FORMAT = 1
ROW_BLOCK = 16
"""Rows of one entry of `block_slot`: all rows of a block are of one slot of the arena."""

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
ACTIVATIONS = ("relu", "gelu", "silu")
POOLINGS = ("sum", "mean")
TABLE_TYPES = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Linear:
    """One layer of `units` outputs; `weight` and the rest are the first elements of each in the slab."""

    units: int
    weight: int
    bias: int
    gain: int | None = None
    norm_bias: int | None = None

    def values(self) -> list[int]:
        return [self.units, self.weight, self.bias]


class TileProgram:
    """Builds a program step by step, in the order of computation."""

    def __init__(self, precision: Precision, inputs: int, groups: int = 1) -> None:
        """`inputs` columns of the dense input; with groups > 1 they are that many vectors (`heads` alone)."""
        self._values = [FORMAT, PRECISIONS.index(precision), inputs, groups]

    @property
    def precision(self) -> Precision:
        return PRECISIONS[self._values[1]]

    def values(self) -> list[int]:
        return list(self._values)

    def mlp(self, layers: Sequence[Linear], activation: str, *, exact: bool = False) -> None:
        """`exact`: in fp32 whatever the precision."""
        self._values += [8 if exact else 1, ACTIVATIONS.index(activation), len(layers)]
        for layer in layers:
            self._values += layer.values()
            if layer.gain is None or layer.norm_bias is None:
                self._values.append(-1)
            else:
                self._values += [layer.gain, layer.norm_bias]

    def gather(self, slots: int, dim: int, pooling: str, table: str) -> None:
        """Puts the pooled embeddings [slots * dim] behind the columns so far."""
        self._values += [2, slots, dim, POOLINGS.index(pooling), TABLE_TYPES.index(table), 0]

    def cross_low_rank(self, rank: int, layers: Sequence[tuple[int, int, int]]) -> None:
        """`layers`: (down, up, bias) each."""
        self._values += [3, len(layers), rank]
        for layer in layers:
            self._values += layer

    def cross_full(self, layers: Sequence[tuple[int, int]]) -> None:
        """`layers`: (weight, bias) each."""
        self._values += [4, len(layers)]
        for layer in layers:
            self._values += layer

    def dot(self, vectors: int, dim: int, dense_first: bool) -> None:
        """Pairwise dot products of `vectors` vectors, behind the first of them if `dense_first`."""
        self._values += [5, vectors, dim, int(dense_first)]

    def experts(
        self, tasks: int, experts: int, layers: Sequence[Linear], activation: str, gate: tuple[int, int]
    ) -> None:
        """`gate`: (weight, bias)."""
        self._values += [6, ACTIVATIONS.index(activation), tasks, experts, len(layers)]
        for layer in layers:
            self._values += layer.values()
        self._values += gate

    def heads(
        self,
        tasks: int,
        layers: Sequence[Linear],
        activation: str,
        out: tuple[int, int],
        *,
        shared: bool,
        probability: bool,
    ) -> None:
        """The last step. `out`: (weight, bias); `shared`: every head reads the same input."""
        self._values += [7, ACTIVATIONS.index(activation), tasks, int(shared), int(probability), len(layers)]
        for layer in layers:
            self._values += layer.values()
        self._values += out
