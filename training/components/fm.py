"""Second-order branch (factorization machine, doi 10.1109/ICDM.2010.127; its place beside a network: arXiv 1703.04247).

    logit_t += a_t · ½ ((Σ_s v_s)² - Σ_s v_s²)

The bracket, per embedding element, is the sum over all pairs of slots; a_t weighs elements per task: 1 is a plain FM.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from smt.training.components.component import BranchConfig, Component, component


@component("branch")
class FmConfig(BranchConfig):
    """All pairs of embeddings, in time linear in their number."""

    type: Literal["fm"]

    def build(self, dense: int, slots: int, dim: int, tasks: int) -> "Fm":
        return Fm(slots, dim, tasks)


class Fm(Component):
    """dense [B, D], vectors [B, S, dim] -> [B, tasks]."""

    def __init__(self, slots: int, dim: int, tasks: int) -> None:
        super().__init__()
        self.outputs = tasks
        self._operations = 4 * slots * dim
        self.weight = nn.Parameter(torch.ones(tasks, dim))

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        pairs = (vectors.sum(dim=1).square() - vectors.square().sum(dim=1)) / 2
        return nn.functional.linear(pairs, self.weight)

    def flops(self) -> int:
        return self._operations + 2 * self.weight.numel()
