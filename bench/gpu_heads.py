"""Experts and task heads of a template, [B, K] to probabilities, in one launch, in two, and by PyTorch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.shapes import Shape
from smt.kernels.experts.triton import ExpertsLayout, experts_arena
from smt.kernels.heads import experts_heads
from smt.kernels.heads.triton import HeadsLayout, experts_heads_arena, heads_arena
from smt.kernels.triton_support import BLOCK_M, compute_dtype, one_slot
from smt.training.components.mlp import MlpConfig
from smt.training.components.mmoe import MmoeConfig
from smt.training.model import slab_layout

Engine = Callable[[Tensor], Tensor]


class ExpertsHeads:
    """Weights as the kernels and as PyTorch take them."""

    def __init__(self, shape: Shape, slab: Tensor) -> None:
        """slab: [elements] float32 on the device to measure. Raises ValueError for a template without experts."""
        components = shape.template.components
        if not isinstance(components.experts, MmoeConfig):
            raise ValueError(
                f"{shape.name}: experts {components.experts.name}; there is nothing to fuse with the heads"
            )
        assert isinstance(components.deep, MlpConfig)
        self._inputs = components.deep.units[-1]
        self._device, self._dtype = slab.device, compute_dtype(slab.device)
        layout = slab_layout(shape.template)
        first = {entry.name: entry.first for entry in layout.entries}

        def several(prefix: str, units: list[int]) -> tuple[int, ...]:
            return tuple(first[f"{prefix}.{i}"] for i in range(len(units)))

        experts, towers = components.experts, components.heads
        assert isinstance(experts, MmoeConfig)
        self._experts = ExpertsLayout(
            (self._inputs, *experts.units),
            several("experts.weight", experts.units), several("experts.bias", experts.units),
            first["experts.gate_weight"], first["experts.gate_bias"], experts.count, towers.tasks, experts.activation,
        )  # fmt: skip
        self._heads = HeadsLayout(
            (experts.units[-1], *towers.units),
            several("heads.weight", towers.units), several("heads.bias", towers.units),
            first["heads.out_weight"], first["heads.out_bias"], towers.tasks, towers.activation,
        )  # fmt: skip
        self._arena = slab.to(self._dtype)[None]
        self._weights = self._named(layout.views(slab.to(self._dtype)))
        self._exact_weights = self._named(layout.views(slab.double()))

    def _named(self, views: dict[str, Tensor]) -> tuple[Any, ...]:
        """The arguments of `experts_heads` after x."""

        def several(prefix: str) -> list[Tensor]:
            return [view for name, view in views.items() if name.startswith(f"{prefix}.")]

        return (
            several("experts.weight"), several("experts.bias"), views["experts.gate_weight"],
            views["experts.gate_bias"], self._experts.activation,
            several("heads.weight"), several("heads.bias"), views["heads.out_weight"], views["heads.out_bias"],
            self._heads.activation,
        )  # fmt: skip

    def random_inputs(self, rows: int, generator: torch.Generator) -> Tensor:
        """[rows, K], standard normal, in the kernels' dtype."""
        return torch.randn(rows, self._inputs, generator=generator).to(self._device, self._dtype)

    def one_launch(self) -> Engine:
        return lambda x: experts_heads_arena(self._arena, self._slots(x), x, self._experts, self._heads)

    def two_launches(self) -> Engine:
        def call(x: Tensor) -> Tensor:
            slots = self._slots(x)
            mixed = experts_arena(self._arena, slots, x, self._experts)
            return torch.sigmoid(heads_arena(self._arena, slots, mixed, self._heads))

        return call

    def _slots(self, x: Tensor) -> Tensor:
        return one_slot(x.shape[0], x.device, BLOCK_M)

    def reference(self, x: Tensor) -> Tensor:
        """The reference in the kernels' dtype, as PyTorch runs it."""
        return experts_heads(x, *self._weights)

    def compiled(self) -> Engine:
        """The reference by torch.compile (max-autotune), for each number of rows."""
        function: Engine = torch.compile(self.reference, mode="max-autotune-no-cudagraphs", dynamic=False)
        return function

    def exact(self, x: Tensor) -> Tensor:
        """[rows, T] in float64."""
        return experts_heads(x.double(), *self._exact_weights)
