"""Interaction by token mixing and per-token networks (RankMixer, arXiv 2507.15551).

    tokens: the input is cut into T pieces, each projected to D by a matrix of its own
    X <- LN(X + mix(X)),  mix: each token is cut into T heads; new token h is head h of all tokens. No parameters.
    X <- LN(X + FFN_t(X_t)),  a feed-forward network of its own for every token

The output is the mean of the tokens.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from smt.training.components.component import Component, InteractionConfig, component, matrix_flops
from smt.training.components.flat import flat
from smt.training.config import mistake


@component("interaction")
class RankMixerConfig(InteractionConfig):
    """`tokens` tokens of `dim` elements through `layers` layers; `hidden` is the width inside the networks."""

    type: Literal["rankmixer"]
    layers: Annotated[int, Field(ge=1, le=16)]
    tokens: Annotated[int, Field(ge=2, le=256)]
    dim: Annotated[int, Field(ge=2, le=16384)]
    hidden: Annotated[int, Field(ge=1, le=65536)]

    @model_validator(mode="after")
    def _divisible(self) -> "RankMixerConfig":
        if self.dim % self.tokens:
            raise mistake(f"{self.dim} elements in {self.tokens} heads", "a dim that is a multiple of tokens")
        return self

    def build(self, width: int, slots: int, dim: int) -> "RankMixer":
        return RankMixer(width + slots * dim, self)


class RankMixer(Component):
    """dense [B, width - S dim], vectors [B, S, dim] -> [B, config.dim]."""

    def __init__(self, width: int, config: RankMixerConfig) -> None:
        super().__init__()
        self.tokens, self.outputs = config.tokens, config.dim
        piece = -(-width // config.tokens)
        self.padding = piece * config.tokens - width
        self.cut = nn.Parameter(torch.empty(config.tokens, config.dim, piece))
        t, d, h, layers = config.tokens, config.dim, config.hidden, range(config.layers)
        self.up = nn.ParameterList(nn.Parameter(torch.empty(t, h, d)) for _ in layers)
        self.up_bias = nn.ParameterList(nn.Parameter(torch.zeros(t, h)) for _ in layers)
        self.down = nn.ParameterList(nn.Parameter(torch.empty(t, d, h)) for _ in layers)
        self.down_bias = nn.ParameterList(nn.Parameter(torch.zeros(t, d)) for _ in layers)
        self.mix_norm = nn.ModuleList(nn.LayerNorm(d) for _ in layers)
        self.norm = nn.ModuleList(nn.LayerNorm(d) for _ in layers)
        for matrices in [self.cut, *self.up, *self.down]:
            for matrix in matrices:
                nn.init.xavier_normal_(matrix)

    def mix(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]: its own inverse."""
        heads = x.view(len(x), self.tokens, self.tokens, -1)
        return heads.transpose(1, 2).flatten(2)

    def forward(self, dense: Tensor, vectors: Tensor) -> Tensor:
        x = nn.functional.pad(flat(dense, vectors), (0, self.padding)).view(len(dense), self.tokens, -1)
        x = torch.einsum("btp,tdp->btd", x, self.cut)
        layers = zip(self.up, self.up_bias, self.down, self.down_bias, self.mix_norm, self.norm, strict=True)
        for up, up_bias, down, down_bias, mix_norm, norm in layers:
            x = mix_norm(x + self.mix(x))
            h = nn.functional.gelu(torch.einsum("btd,thd->bth", x, up) + up_bias)
            x = norm(x + torch.einsum("bth,tdh->btd", h, down) + down_bias)
        return x.mean(dim=1)

    def flops(self) -> int:
        return matrix_flops(self.cut, *self.up, *self.down)
