"""L2 on the embeddings that a batch reads, the regulariser that open benchmarks tune first (BARS, arXiv 2009.05794).

loss += λ/2 · mean over rows of Σ_s ‖e_s‖². A value is pulled as often as it is read: frequent ones most; mba_reg evens
that out.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from torch import Tensor

from smt.training.hooks import Hook, Run
from smt.training.techniques.technique import Technique, technique

Strength = Annotated[float, Field(gt=0, le=100)]

if TYPE_CHECKING:
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


@technique
class EmbeddingL2(Technique):
    """`strength` is λ."""

    name: Literal["embedding_l2"] = "embedding_l2"
    paper = "arXiv 2009.05794"
    conflicts = frozenset({"mba_reg"})
    strength: Strength = 1e-4

    def hook(self) -> Hook:
        return NormHook(self.strength)


class NormHook(Hook):
    """Adds the squared norms of a batch's embeddings, each weighed as `weigh` says."""

    def __init__(self, strength: float) -> None:
        self.strength = strength
        self._penalty: Tensor | None = None

    def begin(self, run: Run) -> None:
        super().begin(run)
        run.model.transforms.append(self._measure)

    def weigh(self, norms: Tensor, sparse: "KeyedJaggedTensor") -> Tensor:
        """norms [B, L], in the order of the spec's lookups -> [B, L]."""
        return norms

    def _measure(self, embedded: Tensor, sparse: "KeyedJaggedTensor") -> Tensor:
        norms = self.weigh(embedded.square().sum(dim=2), sparse)
        self._penalty = self.strength / 2 * norms.sum() / max(len(norms), 1)
        return embedded

    def penalty(self) -> Tensor | None:
        penalty, self._penalty = self._penalty, None
        return penalty
