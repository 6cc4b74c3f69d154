"""Shared experts with a gate per task (MMoE, doi 10.1145/3219819.3220007)."""

import itertools
import math

import torch
from torch import Tensor, nn

from smt.kernels.experts import experts
from smt.training.components.config import MmoeConfig


class Mmoe(nn.Module):
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
