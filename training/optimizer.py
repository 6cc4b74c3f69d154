"""Optimizer of the dense weights, and the learning rates over the course of training."""

import math
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from smt.training.optimizers.adam_like import moments
from smt.training.optimizers.cadam import CAdam
from smt.training.optimizers.shampoo import Shampoo
from smt.training.sharded import ShardedModel

if TYPE_CHECKING:
    from smt.training.template import Template

# The share of the learning rate that is left when the schedule ends, and in every epoch added after that.
FINAL_SHARE = 0.02
# Parameters with one slice per task. The slices of heads that the scenario does not use have gradients of exactly
# zero; without decay they then keep their initial values.
_PER_TASK = ("heads.", "experts.gate_", "branches.")


def dense_optimizer(model: ShardedModel, template: "Template", tasks: int) -> torch.optim.Optimizer:
    """The recipe's optimizer of the dense weights; of the tables too, if they have no fused one.

    Each of its groups has `initial_lr`, which schedules multiply.

    Args:
        tasks: number of the scenario's tasks; with fewer than the template's heads, what belongs to single tasks is
            not decayed.
    """
    config, tables = template.recipe.dense_optimizer, template.recipe.embedding_optimizer
    per_task: list[Tensor] = []
    shared: list[Tensor] = []
    for name, parameter in model.dense_parameters().items():
        (per_task if name.startswith(_PER_TASK) else shared).append(parameter)
    decay = config.weight_decay if tasks == template.tasks else 0.0
    groups: list[dict[str, Any]] = [{"params": shared}, {"params": per_task, "weight_decay": decay}]
    if replicated := model.replicated_tables():
        groups.append({"params": list(replicated.values()), "lr": tables.lr, "weight_decay": tables.weight_decay})
    optimizer = _make(config.type, groups, config.lr, config.weight_decay)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def _make(kind: str, groups: list[dict[str, Any]], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    if kind == "cadam":
        return CAdam(groups, lr=lr, weight_decay=weight_decay)
    if kind == "shampoo":
        return Shampoo(groups, lr=lr, weight_decay=weight_decay)
    adam = torch.optim.AdamW if kind == "adamw" else torch.optim.Adam
    return adam(groups, lr=lr, weight_decay=weight_decay, fused=True)


def fill(optimizer: torch.optim.Optimizer) -> None:
    """Gives a fresh optimizer the state that it else creates in its first step, to load into."""
    initial = getattr(optimizer, "initial_state", moments)  # Adam has no such method
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = initial(parameter)


def lr_share(decay: Literal["none", "cosine"], step: int, steps: int) -> float:
    """The share of its learning rate that each optimizer uses in a step.

    Args:
        step: counts from 0. steps: those of the planned epochs; the share stays where it is after them.
    """
    if decay == "none":
        return 1.0
    done = min(step / max(steps, 1), 1.0)
    return FINAL_SHARE + (1 - FINAL_SHARE) * (1 + math.cos(math.pi * done)) / 2
