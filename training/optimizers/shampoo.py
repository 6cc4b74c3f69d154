"""Shampoo (arXiv 1802.09568): gradients of matrices, preconditioned from both sides, with Adam's step length.

    L <- β L + (1 - β) G Gᵀ,  R <- β R + (1 - β) Gᵀ G,  direction = L^(-1/4) M R^(-1/4)

M is the momentum of G. The direction is scaled to the norm of Adam's step (grafting, arXiv 2002.11803), so that
learning rates mean what they mean there. The roots are renewed every few steps. Vectors, and matrices with a side above
`max_side`, take Adam's step. Tensors of more dimensions are stacks of matrices.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Shampoo(torch.optim.Optimizer):
    """State of a parameter: step, exp_avg, exp_avg_sq, and of matrices left, right, left_root, right_root."""

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
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def initial_state(self, parameter: Tensor) -> dict[str, Tensor]:
        state = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
        if parameter.dim() > 1 and max(parameter.shape[-2:]) <= self.max_side and min(parameter.shape[-2:]) > 1:
            *stack, rows, columns = parameter.shape
            for side, size in (("left", rows), ("right", columns)):
                state[side] = parameter.new_zeros(*stack, size, size)
                state[f"{side}_root"] = torch.eye(size, device=parameter.device).expand(*stack, size, size).clone()
        return state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        if not self.state[parameter]:
            self.state[parameter] = self.initial_state(parameter)
        state = self.state[parameter]
        first, second = group["betas"]
        state["step"] += 1
        step = int(state["step"])
        mean = state["exp_avg"].lerp_(gradient, 1 - first)
        square = state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        change = mean / (1 - first**step) / (square / (1 - second**step)).sqrt_().add_(group["eps"])
        if "left" in state:
            state["left"].lerp_(gradient @ gradient.mT, 1 - second)
            state["right"].lerp_(gradient.mT @ gradient, 1 - second)
            if step == 1 or step % self.every == 0:
                for side in ("left", "right"):
                    state[f"{side}_root"].copy_(inverse_fourth_root(state[side] / (1 - second**step)))
            direction = state["left_root"] @ mean @ state["right_root"]
            change = direction * (change.norm() / direction.norm().clamp(min=1e-30))
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(change, alpha=group["lr"])


def inverse_fourth_root(matrix: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Of positive semi-definite matrices [..., n, n]; eigenvalues count as at least `epsilon` of the largest."""
    values, vectors = torch.linalg.eigh(matrix.double())
    floor = (epsilon * values[..., -1:]).clamp(min=1e-30)
    roots = torch.maximum(values, floor).pow(-0.25)
    root: Tensor = (vectors * roots.unsqueeze(-2)) @ vectors.mT
    return root.to(matrix.dtype)
