"""Dropout of whole embeddings (arXiv 1512.05287): a row does without a feature, so that none is leant on alone.

In training each of a row's embeddings is zero with probability p, and divided by 1 - p otherwise.
"""

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from smt.training.hooks import Hook, Run
from smt.training.techniques.technique import Technique, technique

if TYPE_CHECKING:
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


@technique
class EmbeddingDropout(Technique):
    """`p` is the probability."""

    name: Literal["embedding_dropout"] = "embedding_dropout"
    paper = "arXiv 1512.05287"
    p: Annotated[float, Field(gt=0, lt=1)] = 0.1

    def hook(self) -> Hook:
        return _Dropout(self.p)


class _Dropout(Hook):
    def __init__(self, p: float) -> None:
        self.p = p

    def begin(self, run: Run) -> None:
        super().begin(run)
        run.model.transforms.append(self._drop)

    def _drop(self, embedded: Tensor, sparse: "KeyedJaggedTensor") -> Tensor:
        keep = torch.rand(embedded.shape[:2], device=embedded.device) >= self.p
        return embedded * (keep / (1 - self.p)).unsqueeze(2)
