"""Label smoothing (arXiv 1512.00567) towards the batch's own label rate.

y' = (1 - ε) y + ε ȳ. Towards ½, as for classes of equal size, rare labels would be overestimated; towards the rate the
mean prediction stays calibrated.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from torch import Tensor

from smt.training.hooks import Hook
from smt.training.techniques.technique import Technique, technique

if TYPE_CHECKING:
    from smt.training.data import Batch


@technique
class LabelSmoothing(Technique):
    """`epsilon` is ε."""

    name: Literal["label_smoothing"] = "label_smoothing"
    paper = "arXiv 1512.00567"
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.02

    def hook(self) -> Hook:
        return _Smoothing(self.epsilon)


class _Smoothing(Hook):
    def __init__(self, epsilon: float) -> None:
        self.epsilon = epsilon

    def targets(self, targets: Tensor, labelled: Tensor, batch: "Batch") -> Tensor:
        rate = (targets * labelled).sum(dim=0) / labelled.sum(dim=0).clamp(min=1)
        return targets + self.epsilon * (rate - targets)
