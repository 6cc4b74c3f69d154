"""Target attention over a behaviour sequence (DIN, arXiv 1706.06978, equation 3).

    v = Σ_j a(e_j, t) e_j,   a = MLP([e_j; t; e_j - t; e_j ⊙ t])

e_j: vectors of what somebody did before; t: that of the candidate. The weights are no distribution, as in the paper:
how much is alike is part of the signal. A slot without a value is a vector of zeros and adds nothing, whatever its
weight.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from smt.training.components.component import Activation, Component, SequenceConfig, Units, component
from smt.training.components.stack import Stack


@component("sequence")
class DinConfig(SequenceConfig):
    """`units`: widths of the hidden layers that weigh a vector."""

    type: Literal["din"]
    target: Annotated[int, Field(ge=0, le=4095)]
    first: Annotated[int, Field(ge=0, le=4095)]
    length: Annotated[int, Field(ge=1, le=4096)]
    units: Units
    activation: Activation = "relu"

    def build(self, dim: int) -> "Din":
        return Din(dim, self)


class Din(Component):
    """vectors [B, S, dim] -> [B, S - length + 1, dim]: those of the sequence give way to one, which is the last."""

    def __init__(self, dim: int, config: DinConfig) -> None:
        super().__init__()
        self.target, self.first, self.length = config.target, config.first, config.length
        self.dim = dim
        self.weigh = Stack(4 * dim, [*config.units, 1], config.activation, last=False)

    def forward(self, vectors: Tensor) -> Tensor:
        end = self.first + self.length
        before = vectors[:, self.first : end]
        target = vectors[:, self.target].unsqueeze(1).expand_as(before)
        weights = self.weigh(torch.cat([before, target, before - target, before * target], dim=2))
        pooled = (weights * before).sum(dim=1, keepdim=True)
        return torch.cat([vectors[:, : self.first], vectors[:, end:], pooled], dim=1)

    def flops(self) -> int:
        return self.length * (self.weigh.flops() + 2 * self.dim)
