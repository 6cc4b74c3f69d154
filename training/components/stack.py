"""Plain linear layers inside components that are served by Inductor."""

import itertools
import math

import torch
from torch import Tensor, nn

from smt.kernels.linear import linear
from smt.training.components.component import Activation, matrix_flops


class Stack(nn.Module):
    """x [..., inputs] -> [..., units[-1]]: linear layers, the activation after every one, or all but the last."""

    def __init__(self, inputs: int, units: list[int], activation: Activation = "relu", *, last: bool = True) -> None:
        super().__init__()
        self.weight = nn.ParameterList(nn.Parameter(torch.empty(n, k)) for k, n in itertools.pairwise([inputs, *units]))
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(n)) for n in units)
        self.activation, self.last = activation, last
        for weight in self.weight:
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        for i, (weight, bias) in enumerate(zip(self.weight, self.bias, strict=True)):
            x = linear(x, weight, bias)
            if self.last or i + 1 < len(self.weight):
                x = getattr(nn.functional, self.activation)(x)
        return x

    def flops(self) -> int:
        """Of one vector."""
        return matrix_flops(*self.weight)
