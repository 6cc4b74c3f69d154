"""Warm-up of the learning rates (arXiv 1706.02677) and what follows it: nothing, cosine (arXiv 1608.03983) or linear.

Without it, `recipe.lr_decay` alone decides.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from smt.training.hooks import Hook
from smt.training.techniques.technique import Technique, technique

if TYPE_CHECKING:
    from smt.training.template import Template


@technique
class LrSchedule(Technique):
    """`warmup`: the share of the planned steps in which rates rise linearly. `decay` replaces the recipe's lr_decay."""

    name: Literal["lr_schedule"] = "lr_schedule"
    paper = "arXiv 1706.02677"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    decay: Literal["none", "cosine", "linear"] = "cosine"

    def change(self, template: "Template") -> "Template":
        decay = "cosine" if self.decay == "cosine" else "none"
        return template.model_copy(update={"recipe": template.recipe.model_copy(update={"lr_decay": decay})})

    def hook(self) -> Hook:
        return _Schedule(self)


class _Schedule(Hook):
    def __init__(self, config: LrSchedule) -> None:
        self.config = config

    def lr_share(self, share: float, step: int, steps: int) -> float:
        rising = self.config.warmup * steps
        if step < rising:
            return share * (step + 1) / (rising + 1)
        if self.config.decay == "linear":
            return share * max(0.02, 1 - (step - rising) / max(steps - rising, 1))
        return share
