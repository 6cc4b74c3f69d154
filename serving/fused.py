"""A template as one fused CPU op: the tile program of its components, and the function that is compiled.

    program = tile_program(template, "bf16")
    function = FusedFunction(program)       # (arena, block_slot, pool, pool_base, features) -> probabilities

Weights are arguments here as in `ServingFunction`, but packed: a slot of the arena is what `smt.kernels.cpu.pack` makes
of a slab. Rows of many scenarios can share a call: `block_slot` says whose weights each block of 16 rows reads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from smt.kernels.cpu import Linear, Precision, TileProgram
from smt.training.components.cross import CrossFullConfig, CrossLowRankConfig
from smt.training.components.dot import DotConfig
from smt.training.components.mlp import MlpConfig
from smt.training.components.mmoe import MmoeConfig
from smt.training.components.shared_bottom import SharedBottomConfig
from smt.training.components.tower import TowerConfig
from smt.training.layout import Layout
from smt.training.model import slab_layout
from smt.training.template import Template

INPUTS = ("arena", "block_slot", "pool", "pool_base", "dense", "ids", "offsets", "bag_index")


def tile_program(template: Template, precision: Precision, table: str = "fp32") -> TileProgram:
    """The template's components, ids to probabilities, with the places of their weights in the slab.

    Args:
        table: how the embedding tables are stored: "fp32", "fp16" or "int8" (row-wise).

    Raises:
        ValueError: a component has no tile program (see `without_tile_program`).
    """
    slots, components = template.slots, template.components
    at = _Places(slab_layout(template))
    interaction, deep, experts, heads = components.interaction, components.deep, components.experts, components.heads
    if missing := without_tile_program(template):
        raise ValueError(f"template {template.name!r}: no tile program for {', '.join(missing)}")
    assert isinstance(deep, MlpConfig)
    assert isinstance(heads, TowerConfig)
    program = TileProgram(precision, slots.dense)
    # The dense arch is some hundredth of the work, and its rounding errors are multiplied into everything: kept exact.
    program.mlp(at.mlp("dense_arch", components.dense_arch), components.dense_arch.activation, exact=True)
    program.gather(slots.categorical, slots.dim, slots.pooling, table)
    if isinstance(interaction, DotConfig):
        program.dot(slots.categorical + 1, slots.dim, dense_first=True)
    elif isinstance(interaction, CrossLowRankConfig):
        parts = ("down", "up", "bias")
        layers = range(interaction.layers)
        program.cross_low_rank(interaction.rank, [at.several(*(f"interaction.{p}.{i}" for p in parts)) for i in layers])
    else:
        assert isinstance(interaction, CrossFullConfig)
        layers = range(interaction.layers)
        program.cross_full([(at[f"interaction.weight.{i}"], at[f"interaction.bias.{i}"]) for i in layers])
    program.mlp(at.mlp("deep", deep), deep.activation)
    if isinstance(experts, MmoeConfig):
        gate = (at["experts.gate_weight"], at["experts.gate_bias"])
        program.experts(template.tasks, experts.count, at.layers("experts", experts.units), experts.activation, gate)
    program.heads(
        heads.tasks,
        at.layers("heads", heads.units),
        heads.activation,
        (at["heads.out_weight"], at["heads.out_bias"]),
        shared=isinstance(experts, SharedBottomConfig),
        probability=True,
    )
    return program


def without_tile_program(template: Template) -> list[str]:
    """The components that no tile program computes, as `interaction: finalmlp`; with one, views are compiled."""
    return [f"{slot}: {config.name}" for slot, config in template.components.filled() if not config.fused]


class _Places:
    """First elements of the weights in the slab, by name."""

    def __init__(self, layout: Layout) -> None:
        self._first = {entry.name: entry.first for entry in layout.entries}

    def __getitem__(self, name: str) -> int:
        return self._first[name]

    def several(self, *names: str) -> tuple[int, int, int]:
        first, second, third = (self[name] for name in names)
        return first, second, third

    def layers(self, component: str, units: list[int]) -> list[Linear]:
        return [Linear(n, self[f"{component}.weight.{i}"], self[f"{component}.bias.{i}"]) for i, n in enumerate(units)]

    def mlp(self, component: str, config: MlpConfig) -> list[Linear]:
        layers = self.layers(component, config.units)
        if not config.layer_norm:
            return layers
        norms = ((self[f"{component}.norm_gain.{i}"], self[f"{component}.norm_bias.{i}"]) for i in range(len(layers)))
        return [Linear(a.units, a.weight, a.bias, *norm) for a, norm in zip(layers, norms, strict=True)]


class FusedFunction(nn.Module):
    """The function of (packed weights, features) that a CPU binary computes; it holds no weights itself."""

    def __init__(self, program: TileProgram) -> None:
        super().__init__()
        self.program = program.values()

    def forward(
        self,
        arena: Tensor,
        block_slot: Tensor,
        pool: Tensor,
        pool_base: Tensor,
        dense: Tensor,
        ids: Tensor,
        offsets: Tensor,
        bag_index: Tensor,
    ) -> Tensor:
        """Scores a batch.

        Args:
            arena: [slots, packed bytes] uint8, 64-byte aligned: the packed weights of the resident scenarios.
            block_slot: [ceil(B / 16)] int32, the slot of each block of 16 rows.
            pool: [pool rows, dim] float32, the embedding tables of the resident scenarios.
            pool_base: [slots] int64, first row of each scenario's table in the pool.
            dense: [B, D] float32.
            ids: [N] int64 rows of the scenario's own table; offsets: [bags + 1] int64; bag_index: [B, S] int64: see
                `pooled_embedding`.

        Returns:
            [B, T] float32 probabilities.

        Raises:
            ValueError: shapes or types do not fit, block_slot or bag_index point outside.
            IndexError: an id lies outside its table.
        """
        probabilities: Tensor = torch.ops.smt.rank(
            arena, block_slot, pool, pool_base, dense, ids, offsets, bag_index, self.program
        )
        return probabilities


def fused_signature(template: Template, packed_bytes: int) -> list[dict[str, Any]]:
    """Names, dtypes and shapes of the binary's inputs in order; a string is a dynamic dimension."""
    slots = template.slots
    return [
        {"name": "arena", "dtype": "uint8", "shape": ["slots", packed_bytes]},
        {"name": "block_slot", "dtype": "int32", "shape": ["blocks"]},
        {"name": "pool", "dtype": "float32", "shape": ["pool_rows", slots.dim]},
        {"name": "pool_base", "dtype": "int64", "shape": ["slots"]},
        {"name": "dense", "dtype": "float32", "shape": ["rows", slots.dense]},
        {"name": "ids", "dtype": "int64", "shape": ["ids"]},
        {"name": "offsets", "dtype": "int64", "shape": ["bags+1"]},
        {"name": "bag_index", "dtype": "int64", "shape": ["rows", slots.categorical]},
    ]
