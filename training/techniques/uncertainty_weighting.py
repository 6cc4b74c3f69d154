"""Weights of tasks by their uncertainty (arXiv 1705.07115): Σ_t w_t (exp(-s_t) L_t + s_t / 2), with s learned."""

from typing import Literal

import torch
from torch import Tensor, nn

from smt.training.hooks import Hook, Run
from smt.training.techniques.technique import Technique, technique


@technique
class UncertaintyWeighting(Technique):
    """The scenario's weights still multiply; with one task it is a schedule of the learning rate."""

    name: Literal["uncertainty_weighting"] = "uncertainty_weighting"
    paper = "arXiv 1705.07115"
    conflicts = frozenset({"pcgrad"})

    def hook(self) -> Hook:
        return _Uncertainty()


class _Uncertainty(Hook):
    def begin(self, run: Run) -> None:
        super().begin(run)
        self.log_variance = nn.Parameter(torch.zeros(run.tasks, device=run.device))
        run.model.extra["uncertainty_weighting"] = self.log_variance

    def total(self, losses: Tensor, weights: Tensor) -> Tensor:
        return (weights * (torch.exp(-self.log_variance) * losses + self.log_variance / 2)).sum()
