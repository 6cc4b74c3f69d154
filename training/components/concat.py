"""No interaction: the feature vectors side by side, as a plain multi-layer perceptron reads them (arXiv 1606.07792)."""

from typing import Literal

from torch import Tensor

from smt.training.components.component import Component, InteractionConfig, component
from smt.training.components.flat import flat


@component("interaction")
class ConcatConfig(InteractionConfig):
    """The dense vector and the embeddings, one after the other."""

    type: Literal["concat"]

    def build(self, width: int, slots: int, dim: int) -> "Concat":
        return Concat(width + slots * dim)


class Concat(Component):
    """dense [B, width], vectors [B, S, dim] -> [B, width + S dim]. No parameters."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        return flat(dense, vectors)

    def flops(self) -> int:
        return 0
