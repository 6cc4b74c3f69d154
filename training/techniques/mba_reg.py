"""Mini-batch aware regularisation (DIN, arXiv 1706.06978, equations 6 to 8): L2 by how often a value occurs.

loss += λ/2 · mean over rows of Σ_s ‖e_s‖² / n(value), with n the value's occurrences so far. So a value is pulled about
equally strongly in an epoch however frequent it is: rare ones, which overfit, much more per update than under plain L2.
Of a multi-valued feature the pooled embedding is taken, with the smallest n of the row's values.
"""

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from smt.training.hooks import Hook, Run
from smt.training.techniques.embedding_l2 import NormHook, Strength
from smt.training.techniques.technique import Technique, technique

if TYPE_CHECKING:
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


@technique
class MbaReg(Technique):
    """`strength` is λ."""

    name: Literal["mba_reg"] = "mba_reg"
    paper = "arXiv 1706.06978"
    conflicts = frozenset({"embedding_l2"})
    strength: Strength = 1e-2

    def hook(self) -> Hook:
        return _MbaReg(self.strength)


class _MbaReg(NormHook):
    counts: dict[str, Tensor]

    def begin(self, run: Run) -> None:
        super().begin(run)
        features = run.spec.categorical
        self.counts = {feature.name: torch.zeros(feature.rows, device=run.device) for feature in features}

    def weigh(self, norms: Tensor, sparse: "KeyedJaggedTensor") -> Tensor:
        columns = []
        for key, feature, _ in self.run.spec.lookups:
            count, jagged = self.counts[feature.name], sparse[key]
            ids, lengths = jagged.values(), jagged.lengths()
            count.index_add_(0, ids, torch.ones_like(ids, dtype=count.dtype))
            rarest = torch.segment_reduce(count[ids], "min", lengths=lengths.long(), initial=float("inf"))
            columns.append(1 / rarest)
        return norms * torch.stack(columns, dim=1)

    def state(self) -> dict[str, Any]:
        return {"counts": self.counts}

    def restore(self, state: dict[str, Any]) -> None:
        for name, count in state["counts"].items():
            self.counts[name].copy_(count)
