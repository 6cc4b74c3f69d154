"""First-order branch (logistic regression, the wide part of arXiv 1606.07792) on the dense input and the embeddings.

logit_t += w_t · [dense; vectors] + b_t
"""

from typing import Literal

import torch
from torch import Tensor, nn

from smt.training.components.component import BranchConfig, Component, component, matrix_flops
from smt.training.components.flat import flat


@component("branch")
class LinearConfig(BranchConfig):
    """One weight per task, dense value and element of the embeddings."""

    type: Literal["linear"]

    def build(self, dense: int, slots: int, dim: int, tasks: int) -> "Linear":
        return Linear(dense + slots * dim, tasks)


class Linear(Component):
    """dense [B, D], vectors [B, S, dim] -> [B, tasks]. Begins at zero, so that it disturbs no initialisation."""

    def __init__(self, inputs: int, tasks: int) -> None:
        super().__init__()
        self.outputs = tasks
        self.weight = nn.Parameter(torch.zeros(tasks, inputs))
        self.bias = nn.Parameter(torch.zeros(tasks))

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        return nn.functional.linear(flat(dense, vectors), self.weight, self.bias)

    def flops(self) -> int:
        return matrix_flops(self.weight)
