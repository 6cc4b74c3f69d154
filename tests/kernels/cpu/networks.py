"""Random networks for tests of the CPU kernels: the program, its weights, and what the specifications say it computes.

net = Network(inputs=13)
net.mlp([64, 16], "relu").cross_low_rank(layers=2, rank=8).heads(2, [32], "relu", shared=True)
batch = net.batch(rows=33, slabs=[net.slab(seed=1)])
out = batch.run("bf16")
assert (out - batch.reference()).abs().max() <= batch.tolerance("bf16")
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from smt.kernels import cpu
from smt.kernels.cross import cross_full, cross_low_rank
from smt.kernels.embedding import dequantise_rows, pooled_embedding, quantise_rows
from smt.kernels.embedding.pool import pool_rows
from smt.kernels.experts import experts
from smt.kernels.heads import heads
from smt.kernels.interaction import dot
from smt.kernels.mlp import mlp

ALL_KERNELS = (*cpu.available(), "emulated_amx")
"""What can run here, and the tile code of AMX with its instructions emulated."""

ROWS = (0, 1, 5, 15, 16, 17, 33, 97, 200)
"""None, fewer than a row block, exact blocks, one row more, several tiles."""


@contextmanager
def using(kernels: str) -> Iterator[None]:
    before = cpu.current()
    cpu.use(kernels)
    try:
        yield
    finally:
        cpu.use(before)


class Exact:
    """Leaves values as they are."""

    def weight(self, w: Tensor) -> Tensor:
        return w

    def activation(self, x: Tensor) -> Tensor:
        """What multiplies a weight."""
        return x

    def stored(self, x: Tensor) -> Tensor:
        """What a step leaves for the next."""
        return x


EXACT = Exact()


class Noise(Exact):
    """Disturbs values as much as roundings of a precision can: a run with noise shows what they do to the result.

    bf16 has 8 bits of mantissa: rounding moves a value by at most 2^-9 of itself. A product is rounded in both factors,
    which counts as 2^-8 of the weight. int8 moves a weight by half a step, 1/254 of the column's largest, an activation
    by 1/254 of the row's largest; again both count for the weight.
    """

    def __init__(self, precision: str, seed: int) -> None:
        self.int8 = precision == "int8"
        self.generator = torch.Generator().manual_seed(seed)

    def _uniform(self, like: Tensor) -> Tensor:
        return torch.rand(like.shape, generator=self.generator, dtype=torch.float64) * 2 - 1

    def weight(self, w: Tensor) -> Tensor:
        size = w.abs().amax(dim=-1, keepdim=True) / 127 if self.int8 else w.abs() / 256
        return w + size * self._uniform(w)

    def stored(self, x: Tensor) -> Tensor:
        return x + x.abs() / 512 * self._uniform(x)

    def activation(self, x: Tensor) -> Tensor:
        x = self.stored(x)
        if self.int8 and x.numel():
            x = x + x.abs().amax(dim=-1, keepdim=True) / 254 * self._uniform(x)
        return x


@dataclass(frozen=True)
class Weight:
    """A tensor of the slab, at element `first`."""

    first: int
    shape: tuple[int, ...]
    scale: float
    shift: float = 0.0

    def of(self, slab: Tensor) -> Tensor:
        return slab[self.first : self.first + math.prod(self.shape)].view(self.shape)


Forward = Callable[[Tensor, Tensor, Tensor, Exact], Tensor]
"""(slab float64, x, pooled embeddings [B, slots * dim], rounding) -> x."""


class Network:
    """Built step by step, like `TileProgram`; every step also records what its specification computes."""

    def __init__(self, inputs: int, groups: int = 1) -> None:
        self.inputs, self.groups, self.width = inputs, groups, inputs // groups
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.forward: list[Forward] = []
        self.weights: list[Weight] = []
        self.elements = 0
        self.table: tuple[int, int, str, str] | None = None  # slots, dim, pooling, table type

    def program(self, precision: cpu.Precision) -> cpu.TileProgram:
        program = cpu.TileProgram(precision, self.inputs, self.groups)
        for name, arguments, keywords in self.calls:
            getattr(program, name)(*arguments, **keywords)
        return program

    def slab(self, seed: int) -> Tensor:
        """[elements] float32: weights that keep activations near 1."""
        generator = torch.Generator().manual_seed(seed)
        slab = torch.full((self.elements,), math.nan)  # what lies between the weights must not be read
        for weight in self.weights:
            values = torch.randn(weight.shape, generator=generator) * weight.scale + weight.shift
            weight.of(slab).copy_(values)
        return slab

    def _weight(self, *shape: int, scale: float | None = None, shift: float = 0.0) -> Weight:
        weight = Weight(self.elements, shape, scale or 1 / math.sqrt(shape[-1]), shift)
        self.elements += -(-math.prod(shape) // 16) * 16
        self.weights.append(weight)
        return weight

    def _add(self, forward: Forward, name: str, *arguments: Any, **keywords: Any) -> Network:
        self.forward.append(forward)
        self.calls.append((name, arguments, keywords))
        return self

    def mlp(self, units: Sequence[int], activation: str, norm: bool = False, *, exact: bool = False) -> Network:
        layers = []
        for n in units:
            weight, bias = self._weight(n, self.width), self._weight(n, scale=0.5)
            gain = self._weight(n, scale=0.3, shift=1.0) if norm else None
            layers.append((weight, bias, gain, self._weight(n, scale=0.5) if norm else None))
            self.width = n

        def forward(slab: Tensor, x: Tensor, _: Tensor, rounding: Exact) -> Tensor:
            rounding = EXACT if exact else rounding
            return mlp(
                rounding.activation(x),
                [rounding.weight(w.of(slab)) for w, _, _, _ in layers],
                [b.of(slab) for _, b, _, _ in layers],
                activation,
                [(g.of(slab), s.of(slab)) for _, _, g, s in layers if g and s] if norm else None,
            )

        described = [
            cpu.Linear(n, w.first, b.first, g and g.first, s and s.first)
            for n, (w, b, g, s) in zip(units, layers, strict=True)
        ]
        return self._add(forward, "mlp", described, activation, exact=exact)

    def gather(self, slots: int, dim: int, pooling: str = "sum", table: str = "fp32") -> Network:
        self.table = (slots, dim, pooling, table)
        self.width += slots * dim
        return self._add(
            lambda slab, x, pooled, rounding: torch.cat([x, pooled], dim=1), "gather", slots, dim, pooling, table
        )

    def cross_low_rank(self, layers: int, rank: int) -> Network:
        stack = [
            (self._weight(rank, self.width), self._weight(self.width, rank), self._weight(self.width, scale=0.2))
            for _ in range(layers)
        ]

        def forward(slab: Tensor, x: Tensor, _: Tensor, rounding: Exact) -> Tensor:
            down, up, bias = ([weight.of(slab) for weight in weights] for weights in zip(*stack, strict=True))
            weights = [[rounding.weight(w) for w in matrices] for matrices in (down, up)]
            return cross_low_rank(rounding.activation(x), *weights, bias)

        return self._add(forward, "cross_low_rank", rank, [tuple(w.first for w in layer) for layer in stack])

    def cross_full(self, layers: int) -> Network:
        stack = [(self._weight(self.width, self.width), self._weight(self.width, scale=0.2)) for _ in range(layers)]

        def forward(slab: Tensor, x: Tensor, _: Tensor, rounding: Exact) -> Tensor:
            matrices = [rounding.weight(w.of(slab)) for w, _ in stack]
            return cross_full(rounding.activation(x), matrices, [b.of(slab) for _, b in stack])

        return self._add(forward, "cross_full", [(w.first, b.first) for w, b in stack])

    def dot(self, dim: int, dense_first: bool) -> Network:
        vectors = self.width // dim
        self.width = dense_first * dim + vectors * (vectors - 1) // 2

        def forward(slab: Tensor, x: Tensor, _: Tensor, rounding: Exact) -> Tensor:
            return dot(rounding.activation(x).view(-1, vectors, dim), concat_first=dense_first)

        return self._add(forward, "dot", vectors, dim, dense_first)

    def _grouped(self, groups: int, units: Sequence[int]) -> tuple[list[tuple[Weight, Weight]], list[cpu.Linear]]:
        layers = []
        for n in units:
            layers.append((self._weight(groups, n, self.width), self._weight(groups, n, scale=0.5)))
            self.width = n
        return layers, [cpu.Linear(n, w.first, b.first) for n, (w, b) in zip(units, layers, strict=True)]

    def experts(self, tasks: int, count: int, units: Sequence[int], activation: str) -> Network:
        gate, gate_bias = self._weight(tasks, count, self.width), self._weight(tasks, count, scale=0.5)
        layers, described = self._grouped(count, units)

        def forward(slab: Tensor, x: Tensor, _: Tensor, rounding: Exact) -> Tensor:
            return experts(
                rounding.activation(x),
                [rounding.weight(w.of(slab)) for w, _ in layers],
                [b.of(slab) for _, b in layers],
                rounding.weight(gate.of(slab)),
                gate_bias.of(slab),
                activation,
            ).flatten(1)

        return self._add(forward, "experts", tasks, count, described, activation, (gate.first, gate_bias.first))

    def heads(
        self, tasks: int, units: Sequence[int], activation: str, *, shared: bool, probability: bool = False
    ) -> Network:
        width = self.width
        layers, described = self._grouped(tasks, units)
        out, out_bias = self._weight(tasks, self.width), self._weight(tasks, scale=0.5)

        def forward(slab: Tensor, x: Tensor, _: Tensor, rounding: Exact) -> Tensor:
            x = rounding.activation(x.view(-1, 1, width).expand(-1, tasks, -1) if shared else x.view(-1, tasks, width))
            logits = heads(
                x,
                [rounding.weight(w.of(slab)) for w, _ in layers],
                [b.of(slab) for _, b in layers],
                out.of(slab),
                out_bias.of(slab),
                activation,
            )
            return torch.sigmoid(logits) if probability else logits

        return self._add(
            forward, "heads", tasks, described, activation, (out.first, out_bias.first), shared=shared,
            probability=probability,
        )  # fmt: skip

    def batch(self, rows: int, slabs: Sequence[Tensor], seed: int = 0) -> Batch:
        """Random features; the row blocks take the slabs in random order; half of the bags are of all rows' context."""
        generator = torch.Generator().manual_seed(seed)

        def randint(high: int, *shape: int) -> Tensor:
            return torch.randint(high, shape, generator=generator)

        x = torch.randn(rows, self.inputs, generator=generator)
        block_slot = randint(len(slabs), -(-rows // cpu.ROW_BLOCK)).int()
        if self.table is None:
            return Batch(self, list(slabs), x, block_slot)
        slots, dim, _, kind = self.table
        sizes = [3 + s for s in range(len(slabs))]
        values = torch.randn(sum(sizes), dim, generator=generator)
        pool, table = store_table(values, kind)
        bags = 1 + rows
        lengths = randint(4, bags)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        bag_index = torch.where(torch.rand(rows, slots, generator=generator) < 0.5, 0, randint(bags, rows, slots))
        bases = [sum(sizes[:s]) for s in range(len(slabs))]
        # Ids of the smallest table are valid in all.
        return Batch(
            self, list(slabs), x, block_slot, pool, torch.tensor(bases), randint(3, int(offsets[-1])), offsets,
            bag_index, table,
        )  # fmt: skip


def store_table(values: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """values [R, dim] float32 -> (rows of the pool, what they stand for as float64)."""
    if kind == "int8":
        q, scale, bias = quantise_rows(values)
        return pool_rows((q, scale, bias)), dequantise_rows(q, scale.double(), bias.double())
    stored = values.half() if kind == "fp16" else values
    return stored, stored.double()


EMPTY = torch.zeros(0)


@dataclass(frozen=True)
class Batch:
    """The inputs of one call."""

    net: Network
    slabs: list[Tensor]
    x: Tensor
    block_slot: Tensor
    pool: Tensor = EMPTY
    pool_base: Tensor = EMPTY
    ids: Tensor = EMPTY
    offsets: Tensor = EMPTY
    bag_index: Tensor = EMPTY
    table: Tensor = EMPTY
    arenas: dict[str, Tensor] = field(default_factory=dict, compare=False)

    def arena(self, precision: cpu.Precision) -> Tensor:
        key = f"{precision} for {cpu.current()}"  # each packs as its own kernels read
        if key not in self.arenas:
            program = self.net.program(precision)
            self.arenas[key] = torch.stack([cpu.pack(slab, program) for slab in self.slabs])
        return self.arenas[key]

    def run(self, precision: cpu.Precision) -> Tensor:
        values = self.net.program(precision).values()
        arena = self.arena(precision)
        if self.net.table is None:
            out: Tensor = torch.ops.smt.tile_program(arena, self.block_slot, self.x, values)
        else:
            lookup = (self.pool, self.pool_base, self.x, self.ids, self.offsets, self.bag_index)
            out = torch.ops.smt.rank(arena, self.block_slot, *lookup, values)
        return out

    def slice(self, first: int, last: int) -> Batch:
        """The rows [first, last); `first` is a multiple of the row block."""
        blocks = slice(first // cpu.ROW_BLOCK, -(-last // cpu.ROW_BLOCK))
        index = self.bag_index if self.net.table is None else self.bag_index[first:last].contiguous()
        return replace(
            self, x=self.x[first:last].contiguous(), block_slot=self.block_slot[blocks].contiguous(), bag_index=index
        )

    def reference(self, rounding: Exact = EXACT) -> Tensor:
        """[rows, outputs] float64, row block by row block."""
        outputs = torch.ops.smt.outputs(self.net.program("fp32").values())
        blocks = [torch.zeros(0, outputs, dtype=torch.float64)]
        for first in range(0, len(self.x), cpu.ROW_BLOCK):
            slot = int(self.block_slot[first // cpu.ROW_BLOCK])
            rows = slice(first, first + cpu.ROW_BLOCK)
            x, pooled, slab = self.x[rows].double(), EMPTY, self.slabs[slot].double()
            if self.net.table is not None:
                table = self.table[int(self.pool_base[slot]) :]
                index = self.bag_index[rows]
                pooled = pooled_embedding(table, self.ids, self.offsets, index, self.net.table[2]).flatten(1)
            for forward in self.net.forward:
                x = rounding.stored(forward(slab, x, pooled, rounding))
            blocks.append(x)
        return torch.cat(blocks)

    def tolerance(self, precision: cpu.Precision) -> float:
        """How far a result may lie from the reference.

        fp32: 1e-4 of the output's scale. bf16 and int8: four times what random disturbances of the size of their
        roundings do to the reference, the worst of eight runs: that follows the network's own condition (a
        normalisation over few columns can enlarge any error, a sigmoid hide it), which a constant does not.
        """
        exact = self.reference()
        if exact.numel() == 0:
            return 0.0
        floor = 1e-4 * max(float(exact.abs().max()), 0.1)
        if precision == "fp32":
            return floor
        noisy = [self.reference(Noise(precision, seed)) for seed in range(8)]
        return floor + 4 * max(float((n - exact).abs().max()) for n in noisy)


def check(net: Network, rows: int, seed: int, slots: int = 2) -> None:
    """Runs the network with all kernels and precisions against its specification."""
    batch = net.batch(rows, [net.slab(seed + slot) for slot in range(slots)], seed)
    expected = batch.reference()
    for precision in cpu.PRECISIONS:
        tolerance = batch.tolerance(precision)
        for kernels in ALL_KERNELS:
            with using(kernels):
                out = batch.run(precision)
            assert out.shape == expected.shape
            assert out.dtype == torch.float32
            error = float((out - expected).abs().max()) if out.numel() else 0.0
            assert error <= tolerance, f"{kernels}, {precision}: off by {error}, more than {tolerance}"
