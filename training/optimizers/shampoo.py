"""Shampoo (arXiv 1802.09568): gradients of matrices, preconditioned from both sides, with Adam's step length.

    L <- β L + (1 - β) G Gᵀ,  R <- β R + (1 - β) Gᵀ G,  direction = L^(-1/4) M R^(-1/4)

M is the momentum of G. The direction is scaled to the norm of Adam's step (grafting, arXiv 2002.11803), so that
learning rates mean what they mean there. The roots are renewed every few steps. Vectors, and matrices with a side above
`max_side`, take Adam's step. Tensors of more dimensions are stacks of matrices.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from smt.training.optimizers.adam_like import AdamLike


class Shampoo(AdamLike):
    """State of a matrix, beside Adam's: left, right, left_root, right_root."""

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        every: int = 20,
        max_side: int = 1024,
    ) -> None:
        self.every, self.max_side = every, max_side
        super().__init__(params, lr, betas, eps, weight_decay)

    def initial_state(self, parameter: Tensor) -> dict[str, Tensor]:
        state = super().initial_state(parameter)
        if parameter.dim() > 1 and max(parameter.shape[-2:]) <= self.max_side and min(parameter.shape[-2:]) > 1:
            *stack, rows, columns = parameter.shape
            for side, size in (("left", rows), ("right", columns)):
                state[side] = parameter.new_zeros(*stack, size, size)
                state[f"{side}_root"] = torch.eye(size, device=parameter.device).expand(*stack, size, size).clone()
        return state

    def vary(self, change: Tensor, gradient: Tensor, state: dict[str, Tensor], step: int, decay: float) -> Tensor:
        if "left" not in state:
            return change
        state["left"].lerp_(gradient @ gradient.mT, 1 - decay)
        state["right"].lerp_(gradient.mT @ gradient, 1 - decay)
        if step == 1 or step % self.every == 0:
            for side in ("left", "right"):
                state[f"{side}_root"].copy_(inverse_fourth_root(state[side] / (1 - decay**step)))
        direction = state["left_root"] @ state["exp_avg"] @ state["right_root"]
        grafted: Tensor = direction * (change.norm() / direction.norm().clamp(min=1e-30))
        return grafted


def inverse_fourth_root(matrix: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Of positive semi-definite matrices [..., n, n]; eigenvalues count as at least `epsilon` of the largest."""
    values, vectors = torch.linalg.eigh(matrix.double())
    floor = (epsilon * values[..., -1:]).clamp(min=1e-30)
    roots = torch.maximum(values, floor).pow(-0.25)
    root: Tensor = (vectors * roots.unsqueeze(-2)) @ vectors.mT
    return root.to(matrix.dtype)
