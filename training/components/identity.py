"""No deep arch: experts and heads read the interaction's output as it is. No parameters."""

from typing import Literal

from torch import Tensor

from smt.training.components.component import Component, DenseConfig, component


@component("dense")
class IdentityConfig(DenseConfig):
    """For interactions that end in layers of their own, such as finalmlp."""

    type: Literal["identity"]

    def build(self, inputs: int) -> "Identity":
        return Identity(inputs)


class Identity(Component):
    """[B, inputs] -> [B, inputs]."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.outputs = inputs

    def forward(self, x: Tensor) -> Tensor:
        return x

    def flops(self) -> int:
        return 0
