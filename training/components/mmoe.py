"""Shared experts with a gate per task (MMoE, doi 10.1145/3219819.3220007): Σ_e softmax(G_t x + c_t)_e f_e(x)."""

import itertools
import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from smt.kernels.experts import experts
from smt.training.components.component import Activation, Component, ExpertsConfig, Units, component, matrix_flops


@component("experts")
class MmoeConfig(ExpertsConfig):
    """`count` experts shared by all tasks, with one softmax gate per task."""

    fused = True
    type: Literal["mmoe"]
    count: Annotated[int, Field(ge=1, le=256)]
    units: Units
    activation: Activation = "relu"

    def build(self, inputs: int, tasks: int) -> "Mmoe":
        return Mmoe(inputs, tasks, self)


class Mmoe(Component):
    """[B, inputs] -> [B, tasks, units[-1]]."""

    def __init__(self, inputs: int, tasks: int, config: MmoeConfig) -> None:
        super().__init__()
        widths = [inputs, *config.units]
        self.activation = config.activation
        self.weight = nn.ParameterList(
            nn.Parameter(torch.empty(config.count, n, k)) for k, n in itertools.pairwise(widths)
        )
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(config.count, n)) for n in config.units)
        self.gate_weight = nn.Parameter(torch.empty(tasks, config.count, inputs))
        self.gate_bias = nn.Parameter(torch.zeros(tasks, config.count))
        self.outputs = config.units[-1]
        for weight in [*self.weight, self.gate_weight]:
            for matrix in weight:
                nn.init.kaiming_uniform_(matrix, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return experts(x, list(self.weight), list(self.bias), self.gate_weight, self.gate_bias, self.activation)

    def flops(self) -> int:
        return matrix_flops(*self.weight, self.gate_weight)
