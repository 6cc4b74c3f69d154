"""What optimizers that vary Adam's step (arXiv 1412.6980) share: its moments, and decay decoupled as AdamW's."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def moments(parameter: Tensor) -> dict[str, Tensor]:
    """The state with which Adam begins."""
    return {
        "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
    }


class AdamLike(torch.optim.Optimizer):
    """State of a parameter: step, exp_avg, exp_avg_sq, as Adam's; subclasses may add to it."""

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def initial_state(self, parameter: Tensor) -> dict[str, Tensor]:
        return moments(parameter)

    def vary(self, change: Tensor, gradient: Tensor, state: dict[str, Tensor], step: int, decay: float) -> Tensor:
        """Adam's change of a parameter, before the learning rate -> the one to make.

        state["exp_avg"] is the momentum, this gradient included; `decay` is β₂; steps count from 1.
        """
        raise NotImplementedError

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
        change = self.vary(change, gradient, state, step, second)
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(change, alpha=group["lr"])
