"""Towers whose tasks depend on one another (ESMM, arXiv 1804.07931): p(child) = p(parent) · p(child | parent).

    log p_t = Σ log σ(z) over t and its ancestors,   logit_t = log p_t - log(1 - p_t)

So a conversion is trained over all impressions, and is never more probable than its click.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from smt.training.components.component import Activation, HeadsConfig, Width, component
from smt.training.components.tower import TowerConfig, Towers
from smt.training.config import mistake


@component("heads")
class EsmmConfig(HeadsConfig):
    """Towers as `tower` has; `parents` names for each head the head that it depends on, an earlier one, or -1."""

    type: Literal["esmm"]
    tasks: Annotated[int, Field(ge=1, le=256)]
    parents: Annotated[list[int], Field(min_length=1, max_length=256)]
    units: Annotated[list[Width], Field(max_length=16)] = Field(default_factory=list)
    activation: Activation = "relu"

    @model_validator(mode="after")
    def _earlier(self) -> "EsmmConfig":
        if len(self.parents) != self.tasks:
            raise mistake(f"{len(self.parents)} parents of {self.tasks} heads", "one for each head, -1 for none")
        for head, parent in enumerate(self.parents):
            if not -1 <= parent < head:
                raise mistake(f"head {parent} as the parent of head {head}", "an earlier head, or -1 for none")
        return self

    def build(self, inputs: int) -> "Esmm":
        return Esmm(inputs, self)


class Esmm(Towers):
    """[B, tasks, inputs] -> [B, tasks] logits of the tasks themselves, not given their parents."""

    def __init__(self, inputs: int, config: EsmmConfig) -> None:
        tower = TowerConfig(type="tower", tasks=config.tasks, units=config.units, activation=config.activation)
        super().__init__(inputs, tower)
        self.parents = config.parents

    def forward(self, x: Tensor) -> Tensor:
        own = super().forward(x)
        logs: list[Tensor] = []  # log probabilities
        logits = []
        for head, parent in enumerate(self.parents):
            log = -torch.nn.functional.softplus(-own[:, head])
            if parent < 0:
                logits.append(own[:, head])
            else:
                log = log + logs[parent]
                # Next to p = 1, where 1 - p is lost, the logit is bounded instead of infinite.
                logits.append(log - torch.log((-torch.expm1(log)).clamp(min=1e-12)))
            logs.append(log)
        return torch.stack(logits, dim=1)
