"""CAdam (arXiv 2411.19647): Adam that moves a weight only where momentum and gradient agree.

    m <- β₁ m + (1 - β₁) g,  v <- β₂ v + (1 - β₂) g²,  w <- w - lr m̂ / (√v̂ + ε) where m g > 0, else w

A gradient against the momentum may be noise, or a change of the distribution: the weight waits until they agree. Decay
is decoupled, as AdamW's.
"""

from torch import Tensor

from smt.training.optimizers.adam_like import AdamLike


class CAdam(AdamLike):
    """Adam's state and no more."""

    def vary(self, change: Tensor, gradient: Tensor, state: dict[str, Tensor], step: int, decay: float) -> Tensor:
        return change * (state["exp_avg"] * gradient > 0)
