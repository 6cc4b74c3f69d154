"""Stochastic weight averaging (arXiv 1803.05407): the mean of the weights at the ends of epochs.

Helps where the learning rate stays high enough for epochs to end in different places.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from pydantic import Field

from smt.training.hooks import Hook
from smt.training.techniques.averaging import AveragingHook
from smt.training.techniques.technique import Technique, technique


@technique
class Swa(Technique):
    """Averages from the end of epoch `start` on."""

    name: Literal["swa"] = "swa"
    paper = "arXiv 1803.05407"
    conflicts = frozenset({"ema", "meda"})
    start: Annotated[int, Field(ge=1, le=10_000)] = 1

    def hook(self) -> Hook:
        return _Swa(self.start)


class _Swa(AveragingHook):
    def __init__(self, start: int) -> None:
        self.start = start
        self.number = 0
        self.count = 0

    def epoch(self, number: int) -> None:
        self.number = number

    @contextmanager
    def served(self) -> Iterator[None]:
        # Entered once, when the epoch has ended.
        if self.number >= self.start:
            self.count += 1
            self.blend(1 / self.count)
        with super().served():
            yield

    def state(self) -> dict[str, Any]:
        return {**super().state(), "count": self.count} if self.count else {}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.count = int(state["count"])
