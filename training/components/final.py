"""Interaction by factorized layers (FINAL, doi 10.1145/3539618.3591988).

    h = W x + b,  g = V x + c,  y = h + g ⊙ h   (then the activation)

Each layer doubles the order of the interactions: k layers reach 2^k.
"""

from typing import Literal

from torch import Tensor, nn

from smt.training.components.component import Activation, Component, InteractionConfig, Units, component
from smt.training.components.flat import flat
from smt.training.components.stack import Stack


@component("interaction")
class FinalConfig(InteractionConfig):
    """Factorized layers of `units` outputs."""

    type: Literal["final"]
    units: Units
    activation: Activation = "relu"

    def build(self, width: int, slots: int, dim: int) -> "Final":
        return Final(width + slots * dim, self)


class Final(Component):
    """dense [B, width - S dim], vectors [B, S, dim] -> [B, units[-1]]."""

    def __init__(self, width: int, config: FinalConfig) -> None:
        super().__init__()
        widths = [width, *config.units]
        self.layers = nn.ModuleList(Stack(k, [2 * n], last=False) for k, n in zip(widths, config.units, strict=False))
        self.activation = config.activation
        self.outputs = config.units[-1]

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        x = flat(dense, vectors)
        for layer in self.layers:
            h, g = layer(x).chunk(2, dim=1)
            x = getattr(nn.functional, self.activation)(h + g * h)
        return x

    def flops(self) -> int:
        return sum(layer.flops() for layer in self.layers)  # type: ignore[operator]
