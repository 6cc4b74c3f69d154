"""Interaction of stacked ensembles of interactions (DHEN, arXiv 2203.11014).

    X_{l+1} = LN(Σ_m module_m(X_l) + X_l),   X [n, d]: the dense vector, projected, and the embeddings

Modules, each ending in a map back to [n, d]: `dot` (all pairs of vectors), `linear` (W X, across vectors), `cross`
(x ⊙ (U Vᵀ x + b)) and `mlp`.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from smt.training.components.component import Component, InteractionConfig, Width, component, matrix_flops
from smt.training.components.stack import Stack
from smt.training.components.tokens import Tokens

Module = Literal["dot", "linear", "cross", "mlp"]


@component("interaction")
class DhenConfig(InteractionConfig):
    """`layers` layers of the given modules; `hidden` is the rank of cross and the width inside dot and mlp."""

    type: Literal["dhen"]
    layers: Annotated[int, Field(ge=1, le=16)]
    modules: Annotated[list[Module], Field(min_length=1, max_length=4)]
    hidden: Width

    def build(self, width: int, slots: int, dim: int) -> "Dhen":
        return Dhen(width, slots, dim, self)


class _Layer(nn.Module):
    def __init__(self, n: int, dim: int, config: DhenConfig) -> None:
        super().__init__()
        self.names = config.modules
        self.n, self.dim = n, dim
        width, hidden = n * dim, config.hidden
        inputs = {"dot": n * n, "cross": width, "mlp": width}
        self.maps = nn.ModuleDict({m: Stack(inputs[m], [hidden, width], last=False) for m in self.names if m in inputs})
        self.linear = nn.ParameterList(nn.Parameter(torch.empty(n, n)) for m in self.names if m == "linear")
        self.norm = nn.LayerNorm(dim)
        for matrix in self.linear:
            nn.init.xavier_normal_(matrix)

    def forward(self, x: Tensor) -> Tensor:
        flat, out = x.flatten(1), x
        for name in self.names:
            if name == "linear":
                out = out + torch.matmul(self.linear[0], x)
                continue
            y = self.maps[name]((x @ x.transpose(1, 2)).flatten(1) if name == "dot" else flat)
            out = out + (flat * y if name == "cross" else y).unflatten(1, (self.n, self.dim))
        return self.norm(out)  # type: ignore[no-any-return]

    def flops(self) -> int:
        pairs = 2 * self.n * self.n * self.dim if "dot" in self.names else 0
        maps: int = sum(part.flops() for part in self.maps.values())  # type: ignore[operator]
        return pairs + maps + self.dim * matrix_flops(*self.linear)


class Dhen(Component):
    """dense [B, width], vectors [B, S, dim] -> [B, (S + 1) · dim]."""

    def __init__(self, width: int, slots: int, dim: int, config: DhenConfig) -> None:
        super().__init__()
        self.tokens = Tokens(width, dim)
        self.layers = nn.ModuleList(_Layer(slots + 1, dim, config) for _ in range(config.layers))
        self.outputs = (slots + 1) * dim

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        x: Tensor = self.tokens(dense, vectors)
        for layer in self.layers:
            x = layer(x)
        return x.flatten(1)

    def flops(self) -> int:
        return self.tokens.flops() + sum(layer.flops() for layer in self.layers)  # type: ignore[operator]
