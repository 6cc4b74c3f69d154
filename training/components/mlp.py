"""Dense arch and deep arch: a stack of linear layers.

    h = drop(act(norm(W h + b))), layer after layer

norm is nothing, layer normalisation (arXiv 1607.06450) or batch normalisation (arXiv 1502.03167). The latter is
γ (Wh + b - μ) / σ + β with running statistics in serving, which is linear: it is folded into W and b at export and
costs nothing there. Dropout (doi 10.5555/2627435.2670313) is of training alone.
"""

import itertools
import math
import operator
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from smt.kernels.linear import linear
from smt.kernels.mlp import ACTIVATIONS, LAYER_NORM_EPS, mlp
from smt.training.components.component import Activation, Component, DenseConfig, Units, component, matrix_flops
from smt.training.components.dropout import Dropout
from smt.training.config import mistake


@component("dense")
class MlpConfig(DenseConfig):
    """Linear layers of `units` outputs, each followed by a normalisation, if asked for, the activation and dropout."""

    fused = True
    type: Literal["mlp"]
    units: Units
    activation: Activation = "relu"
    # Left out of dumps when off, so that templates without it keep the ABI hash that they had before it existed.
    layer_norm: Annotated[bool, Field(exclude_if=operator.not_)] = False
    batch_norm: Annotated[bool, Field(exclude_if=operator.not_)] = False
    dropout: Annotated[float, Field(ge=0, lt=1, exclude_if=operator.not_)] = 0.0

    @model_validator(mode="after")
    def _one_norm(self) -> Self:
        if self.layer_norm and self.batch_norm:
            raise mistake("both layer_norm and batch_norm", "one of them")
        return self

    def serving(self) -> "MlpConfig":
        return self.model_copy(update={"batch_norm": False, "dropout": 0.0})

    def build(self, inputs: int) -> "Mlp":
        return Mlp(inputs, self)


class Mlp(Component):
    """[B, inputs] -> [B, units[-1]]."""

    def __init__(self, inputs: int, config: MlpConfig) -> None:
        super().__init__()
        widths = [inputs, *config.units]
        self.activation = config.activation
        self.weight = nn.ParameterList(nn.Parameter(torch.empty(n, k)) for k, n in itertools.pairwise(widths))
        self.bias = nn.ParameterList(nn.Parameter(torch.zeros(n)) for n in config.units)
        normalised = config.units if config.layer_norm else []
        self.norm_gain = nn.ParameterList(nn.Parameter(torch.ones(n)) for n in normalised)
        self.norm_bias = nn.ParameterList(nn.Parameter(torch.zeros(n)) for n in normalised)
        self.batch_norm = nn.ModuleList(nn.BatchNorm1d(n) for n in config.units if config.batch_norm)
        self.dropout = Dropout(config.dropout)
        self.outputs = config.units[-1]
        for weight in self.weight:
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        if not self.batch_norm and not self.dropout.acts:
            norms = list(zip(self.norm_gain, self.norm_bias, strict=True)) or None
            return mlp(x, list(self.weight), list(self.bias), self.activation, norms)
        relu = self.activation == "relu"
        fused = relu and not self.batch_norm and not self.norm_gain  # the bias is added along with relu and dropout
        for i, (weight, bias) in enumerate(zip(self.weight, self.bias, strict=True)):
            x = linear(x, weight, None if fused else bias)
            if self.batch_norm:
                x = self.batch_norm[i](x)
            elif self.norm_gain:
                x = nn.functional.layer_norm(x, bias.shape, self.norm_gain[i], self.norm_bias[i], LAYER_NORM_EPS)
            # Neither layer nor norm needs its result again for its gradient.
            if relu:
                x = self.dropout.of_relu_(x, bias if fused else None)
            else:
                x = self.dropout(ACTIVATIONS[self.activation](x))
        return x

    def flops(self) -> int:
        return matrix_flops(*self.weight)

    def exported(self) -> dict[str, Tensor]:
        weights = {name: p for name, p in super().exported().items() if not name.startswith("batch_norm.")}
        for i, norm in enumerate(self.batch_norm):
            assert isinstance(norm, nn.BatchNorm1d)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            scale = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach()
            weights[f"weight.{i}"] = weights[f"weight.{i}"] * scale.unsqueeze(1)
            weights[f"bias.{i}"] = (weights[f"bias.{i}"] - norm.running_mean) * scale + norm.bias.detach()
        return weights
