"""Gates from scenario and context features (PEPNet, arXiv 2302.01115).

EPNet scales the embeddings, PPNet the deep arch's output, both by what the prior says: the embeddings of the slots that
tell scenario, user or context.

    EPNet: v <- 2 σ(Gate([prior; ⊘v])) ⊙ v        PPNet: h <- 2 σ(Gate([prior; ⊘v])) ⊙ h        ⊘: no gradient
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from smt.training.components.component import Gates, GatesConfig, Width, component
from smt.training.components.stack import Stack


@component("gates")
class PepNetConfig(GatesConfig):
    """`slots`: the categorical slots of the prior. `hidden`: width inside the gates."""

    type: Literal["pepnet"]
    slots: Annotated[list[Annotated[int, Field(ge=0, le=4095)]], Field(min_length=1, max_length=256)]
    hidden: Width

    def build(self, slots: int, dim: int, deep: int) -> "PepNet":
        return PepNet(slots, dim, deep, self)


class PepNet(Gates):
    """One gate for the embeddings, one for the deep arch; both begin near 1."""

    def __init__(self, slots: int, dim: int, deep: int, config: PepNetConfig) -> None:
        super().__init__()
        self.prior = list(config.slots)
        self.outputs = deep
        inputs = (len(self.prior) + slots) * dim
        self.embedding = Stack(inputs, [config.hidden, slots * dim], last=False)
        self.deep = Stack(inputs, [config.hidden, deep], last=False)

    def _inputs(self, pooled: Tensor) -> Tensor:
        prior = torch.cat([pooled[:, slot] for slot in self.prior], dim=1)
        return torch.cat([prior, pooled.detach().flatten(1)], dim=1)

    def embedding_gate(self, pooled: Tensor) -> Tensor:
        return 2 * torch.sigmoid(self.embedding(self._inputs(pooled))).view_as(pooled) * pooled

    def deep_gate(self, pooled: Tensor, x: Tensor) -> Tensor:
        return 2 * torch.sigmoid(self.deep(self._inputs(pooled))) * x

    def flops(self) -> int:
        return self.embedding.flops() + self.deep.flops()
