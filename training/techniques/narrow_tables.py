"""Embeddings of any dimension below the template's, for protocols that fix one: the numbers behind it are zeros.

Rows of tables are whole 16 bytes, so `slots.dim` is a multiple of four. An embedding of 10 is one of 12 whose last two
numbers are zero when training begins, and have no gradient. What is published and served has the same zeros.
"""

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from smt.training.hooks import Hook, Run
from smt.training.techniques.technique import Technique, technique

if TYPE_CHECKING:
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    from smt.training.template import Template


@technique
class NarrowTables(Technique):
    """`dim`: how many of the template's `slots.dim` numbers are trained."""

    name: Literal["narrow_tables"] = "narrow_tables"
    paper = "arXiv 2009.05794"  # the benchmark whose protocols have embeddings of 10
    # They draw or take over whole rows, or train tables of another dimension.
    conflicts = frozenset({"meda", "warm_start", "mlet", "mixed_dims"})
    dim: Annotated[int, Field(ge=1, le=1023)]

    def unmet(self, template: "Template") -> str:
        dim = template.slots.dim
        return "" if self.dim < dim else f"needs a dim below {dim}, the template's slots.dim; found {self.dim}"

    def hook(self) -> Hook:
        return _Narrow(self.dim)


class _Narrow(Hook):
    def __init__(self, dim: int) -> None:
        self.dim = dim

    def begin(self, run: Run) -> None:
        super().begin(run)
        with torch.no_grad():
            for _, shards in run.model.table_shards():
                for shard in shards:
                    shard.weights[:, max(self.dim - shard.column, 0) :] = 0
        self._trained = (torch.arange(run.template.slots.dim, device=run.device) < self.dim).float()
        run.model.transforms.append(self._narrow)

    def _narrow(self, embedded: Tensor, sparse: "KeyedJaggedTensor") -> Tensor:
        """embedded [B, L, dim] -> the same values; no gradient flows into the numbers behind `self.dim`."""
        return embedded * self._trained
