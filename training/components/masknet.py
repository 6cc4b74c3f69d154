"""Interaction by instance-guided masks (MaskNet, arXiv 2102.07619), its parallel form.

    mask_b = W₂ relu(W₁ x + c₁) + c₂,   o_b = relu(LN(V_b (mask_b ⊙ LN_emb(x))))

for each of several blocks; the outputs lie side by side. x: the dense vector and the embeddings, not normalised.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from smt.training.components.component import Component, InteractionConfig, Width, component, matrix_flops
from smt.training.components.flat import flat
from smt.training.components.stack import Stack


@component("interaction")
class MaskNetConfig(InteractionConfig):
    """`blocks` blocks of `units` outputs; `hidden` is the width inside the masks."""

    type: Literal["masknet"]
    blocks: Annotated[int, Field(ge=1, le=64)]
    units: Width
    hidden: Width

    def build(self, width: int, slots: int, dim: int) -> "MaskNet":
        return MaskNet(width, slots, dim, self)


class MaskNet(Component):
    """dense [B, width], vectors [B, S, dim] -> [B, blocks · units]."""

    def __init__(self, width: int, slots: int, dim: int, config: MaskNetConfig) -> None:
        super().__init__()
        inputs = width + slots * dim
        self.outputs = config.blocks * config.units
        self.embedding_norm = nn.LayerNorm(dim)
        self.masks = nn.ModuleList(Stack(inputs, [config.hidden, inputs], last=False) for _ in range(config.blocks))
        self.weight = nn.ParameterList(nn.Parameter(torch.empty(config.units, inputs)) for _ in range(config.blocks))
        self.norms = nn.ModuleList(nn.LayerNorm(config.units) for _ in range(config.blocks))
        for weight in self.weight:
            nn.init.kaiming_uniform_(weight, a=5**0.5)

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        x, normed = flat(dense, vectors), flat(dense, self.embedding_norm(vectors))
        blocks = zip(self.masks, self.weight, self.norms, strict=True)
        return torch.relu(torch.cat([norm(nn.functional.linear(mask(x) * normed, w)) for mask, w, norm in blocks], 1))

    def flops(self) -> int:
        return sum(mask.flops() for mask in self.masks) + matrix_flops(*self.weight)  # type: ignore[operator]
