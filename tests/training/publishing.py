"""A publisher that only remembers, for the tests of publishing while training."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from smt.training.features import FeatureSpec
from smt.training.publication import Outcome


@dataclass
class Recorder:
    """Applies what it is given, as a registry's readers do; refuses at these steps."""

    refused: Collection[int] = ()
    slab: Tensor = field(default_factory=lambda: torch.empty(0))
    table: Tensor = field(default_factory=lambda: torch.empty(0))
    spec: FeatureSpec | None = None
    steps: list[int] = field(default_factory=list)  # at which it was asked
    counts: list[int] = field(default_factory=list)  # rows of each delta that it took

    def start(self, spec: FeatureSpec) -> None:
        self.spec = spec

    def whole(self, slab: Tensor, table: Tensor, step: int) -> Outcome:
        assert not len(self.table), "a second whole version"
        self.steps.append(step)
        if step in self.refused:
            return Outcome(False, "refused")
        self.slab, self.table = slab, table.clone()
        return Outcome(True, "whole")

    def changed(self, slab: Tensor, rows: Tensor, values: Tensor, step: int) -> Outcome:
        self.steps.append(step)
        assert rows.dtype == torch.int64
        assert bool((rows.diff() > 0).all())
        if step in self.refused:
            return Outcome(False, "refused")
        self.slab = slab
        self.table[rows] = values
        self.counts.append(len(rows))
        return Outcome(True, f"{len(rows)} rows")
