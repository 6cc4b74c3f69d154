"""Gradient surgery between tasks (PCGrad, arXiv 2001.06782), at the output of the deep arch.

Where the gradients g_i, g_j of two tasks contradict each other, g_i·g_j < 0, g_i loses its part along g_j. The paper
works on the shared parameters; as MGDA-UB (arXiv 1810.04650) does, we work on the representation that all tasks share,
which takes one backward pass through the trunk instead of one per task, and tables are updated once.
"""

from typing import Literal

import torch
from torch import Tensor

from smt.training.hooks import Hook, Run
from smt.training.techniques.technique import Technique, technique


@technique
class PcGrad(Technique):
    """With one task it does nothing."""

    name: Literal["pcgrad"] = "pcgrad"
    paper = "arXiv 2001.06782"
    conflicts = frozenset({"uncertainty_weighting"})

    def hook(self) -> Hook:
        return _PcGrad()


class _PcGrad(Hook):
    shared: Tensor | None = None

    def begin(self, run: Run) -> None:
        super().begin(run)
        run.model.net.deep.register_forward_hook(self._capture)

    def _capture(self, module: torch.nn.Module, inputs: object, output: Tensor) -> None:
        self.shared = output if output.requires_grad else None

    def total(self, losses: Tensor, weights: Tensor) -> Tensor | None:
        shared, self.shared = self.shared, None
        if shared is None or len(losses) < 2:
            return None
        each = [weight * loss for weight, loss in zip(weights, losses, strict=True)]
        gradients = [torch.autograd.grad(loss, shared, retain_graph=True)[0].flatten() for loss in each]
        surgery = torch.stack(project(gradients)).sum(dim=0).view_as(shared)
        shared.register_hook(lambda _: surgery)  # type: ignore[no-untyped-call]
        return (losses * weights).sum()


def project(gradients: list[Tensor]) -> list[Tensor]:
    """Each gradient without its parts against the others, which are met in a random order."""
    projected = []
    for i, gradient in enumerate(gradients):
        for j in torch.randperm(len(gradients)).tolist():
            along = gradient @ gradients[j]
            if j != i and along < 0:
                gradient = gradient - along / gradients[j].square().sum() * gradients[j]
        projected.append(gradient)
    return projected
