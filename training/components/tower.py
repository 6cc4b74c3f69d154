"""Task towers: one MLP per task, down to its logit."""

import itertools
import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from smt.kernels.heads import heads
from smt.training.components.component import Activation, Component, HeadsConfig, Width, component, matrix_flops


@component("heads")
class TowerConfig(HeadsConfig):
    """One tower per task; `tasks` is the number of heads of the template, the most a scenario can have."""

    fused = True
    type: Literal["tower"]
    tasks: Annotated[int, Field(ge=1, le=256)]
    units: Annotated[list[Width], Field(max_length=16)] = Field(default_factory=list)
    activation: Activation = "relu"

    def build(self, inputs: int) -> "Towers":
        return Towers(inputs, self)


class Towers(Component):
    """[B, tasks, inputs] -> [B, tasks] logits."""

    def __init__(self, inputs: int, config: TowerConfig) -> None:
        super().__init__()
        widths = [inputs, *config.units]
        self.outputs = config.tasks
        self.activation = config.activation
        self.weight = nn.ParameterList(
            nn.Parameter(torch.empty(config.tasks, n, k)) for k, n in itertools.pairwise(widths)
        )
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(config.tasks, n)) for n in config.units)
        self.out_weight = nn.Parameter(torch.empty(config.tasks, widths[-1]))
        self.out_bias = nn.Parameter(torch.zeros(config.tasks))
        for weight in self.weight:
            for matrix in weight:
                nn.init.kaiming_uniform_(matrix, a=math.sqrt(5))
        bound = 1 / math.sqrt(widths[-1])
        nn.init.uniform_(self.out_weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return heads(x, list(self.weight), list(self.bias), self.out_weight, self.out_bias, self.activation)

    def flops(self) -> int:
        return matrix_flops(*self.weight, self.out_weight)
