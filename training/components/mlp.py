"""Dense arch and deep arch: a stack of linear layers."""

import itertools
import math

import torch
from torch import Tensor, nn

from smt.kernels.mlp import mlp
from smt.training.components.config import MlpConfig


class Mlp(nn.Module):
    """[B, inputs] -> [B, units[-1]]; layer normalisation (arXiv 1607.06450), if asked for, and the activation after
    every layer."""

    def __init__(self, inputs: int, config: MlpConfig) -> None:
        super().__init__()
        widths = [inputs, *config.units]
        self.activation = config.activation
        self.weight = nn.ParameterList(nn.Parameter(torch.empty(n, k)) for k, n in itertools.pairwise(widths))
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(n)) for n in config.units)
        normalised = config.units if config.layer_norm else []
        self.norm_gain = nn.ParameterList(nn.Parameter(torch.ones(n)) for n in normalised)
        self.norm_bias = nn.ParameterList(nn.Parameter(torch.zeros(n)) for n in normalised)
        self.outputs = config.units[-1]
        for weight in self.weight:
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        norms = list(zip(self.norm_gain, self.norm_bias, strict=True)) or None
        return mlp(x, list(self.weight), list(self.bias), self.activation, norms)
