"""Task towers."""

import itertools
import math

import torch
from torch import Tensor, nn

from smt.kernels.heads import heads
from smt.training.components.config import TowerConfig


class Towers(nn.Module):
    """[B, tasks, inputs] -> [B, tasks] logits."""

    def __init__(self, inputs: int, config: TowerConfig) -> None:
        super().__init__()
        widths = [inputs, *config.units]
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
