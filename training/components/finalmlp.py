"""Interaction of two MLP streams with bilinear fusion (FinalMLP, arXiv 2304.00902).

    x_i = 2 σ(Gate_i(x)) ⊙ x,   o_i = MLP_i(x_i),   fused_h = o_1hᵀ W_h o_2h   for h of k groups of both outputs

The paper's logit is w_1ᵀ o_1 + w_2ᵀ o_2 + Σ_h fused_h: with `deep: {type: identity}` and towers without hidden layers,
which read [o_1; o_2; fused], exactly that, per task.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from smt.training.components.component import Activation, Component, InteractionConfig, Units, component, matrix_flops
from smt.training.components.flat import flat
from smt.training.components.stack import Stack
from smt.training.config import mistake


@component("interaction")
class FinalMlpConfig(InteractionConfig):
    """Streams of the given widths; `gates` is the hidden width of the feature gates, 0 for none."""

    type: Literal["finalmlp"]
    first: Units
    second: Units
    groups: Annotated[int, Field(ge=1, le=1024)] = 1
    gates: Annotated[int, Field(ge=0, le=65536)] = 0
    activation: Activation = "relu"

    @model_validator(mode="after")
    def _divisible(self) -> "FinalMlpConfig":
        if self.first[-1] % self.groups or self.second[-1] % self.groups:
            found = f"{self.groups} groups of streams that end in {self.first[-1]} and {self.second[-1]} units"
            raise mistake(found, "a number of groups that divides both")
        return self

    def build(self, width: int, slots: int, dim: int) -> "FinalMlp":
        return FinalMlp(width + slots * dim, self)


class FinalMlp(Component):
    """dense [B, width - S dim], vectors [B, S, dim] -> [B, first[-1] + second[-1] + groups]."""

    def __init__(self, width: int, config: FinalMlpConfig) -> None:
        super().__init__()
        self.groups = config.groups
        gates = [config.gates, width] if config.gates else []
        self.gates = nn.ModuleList(Stack(width, gates, last=False) for _ in range(2) if gates)
        self.streams = nn.ModuleList(Stack(width, units, config.activation) for units in (config.first, config.second))
        one, two = config.first[-1], config.second[-1]
        self.fusion = nn.Parameter(torch.empty(config.groups, one // config.groups, two // config.groups))
        for matrix in self.fusion:
            nn.init.xavier_normal_(matrix)
        self.outputs = one + two + config.groups

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        x = flat(dense, vectors)
        inputs = [2 * torch.sigmoid(gate(x)) * x for gate in self.gates] or [x, x]
        one, two = (stream(part) for stream, part in zip(self.streams, inputs, strict=True))
        groups = (one.unflatten(1, (self.groups, -1)), self.fusion, two.unflatten(1, (self.groups, -1)))
        return torch.cat([one, two, torch.einsum("bgi,gij,bgj->bg", *groups)], dim=1)

    def flops(self) -> int:
        stacks: int = sum(part.flops() for part in [*self.gates, *self.streams])
        return stacks + matrix_flops(self.fusion)
