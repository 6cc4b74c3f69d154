"""Cross entropy and a ranking loss together (combined-pair; arXiv 2403.14144 says why it helps where labels are rare).

loss_t += λ · mean of softplus(z⁻ - z⁺) over pairs of a positive and a negative row of the batch (RankNet). Each
positive meets a few negatives, drawn anew in every step.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from smt.training.hooks import Hook
from smt.training.techniques.technique import Technique, technique


@technique
class PairwiseLoss(Technique):
    """`weight` is λ, `negatives` the number per positive."""

    name: Literal["pairwise_loss"] = "pairwise_loss"
    paper = "arXiv 2403.14144"
    weight: Annotated[float, Field(gt=0, le=100)] = 0.2
    negatives: Annotated[int, Field(ge=1, le=1024)] = 4

    def hook(self) -> Hook:
        return _Pairwise(self)


class _Pairwise(Hook):
    def __init__(self, config: PairwiseLoss) -> None:
        self.config = config

    def losses(self, losses: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        return losses + self.config.weight * torch.stack([self._rank(*task) for task in zip(logits.T, labels.T)])  # noqa: B905

    def _rank(self, logits: Tensor, labels: Tensor) -> Tensor:
        positive, negative = logits[labels > 0.5], logits[labels <= 0.5]
        if not len(positive) or not len(negative):
            return logits.new_zeros(())
        drawn = torch.randint(len(negative), (len(positive), self.config.negatives), device=logits.device)
        return torch.nn.functional.softplus(negative[drawn] - positive.unsqueeze(1)).mean()
