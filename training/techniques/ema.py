"""Exponential moving average of the weights (Polyak averaging, doi 10.1137/0330046; for networks, arXiv 1703.01780).

w̄ <- d w̄ + (1 - d) w. Tables are large and change slowly, so the average moves every few steps, by the share that they
add up to.
"""

from typing import Annotated, Literal

from pydantic import Field

from smt.training.hooks import Hook
from smt.training.techniques.averaging import AveragingHook
from smt.training.techniques.technique import Technique, technique


@technique
class Ema(Technique):
    """`decay` is d per step, `every` the number of steps from one update to the next."""

    name: Literal["ema"] = "ema"
    paper = "arXiv 1703.01780"
    conflicts = frozenset({"swa", "meda"})
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    every: Annotated[int, Field(ge=1, le=100_000)] = 8

    def hook(self) -> Hook:
        return _Ema(self)


class _Ema(AveragingHook):
    def __init__(self, config: Ema) -> None:
        self.config = config

    def after_step(self, step: int) -> None:
        if step % self.config.every == 0:
            # While few steps are behind, the share of 1/n, so that the initial weights leave the average soon.
            share = 1 - self.config.decay**self.config.every
            self.blend(max(share, 1 / (1 + step / self.config.every)))
