"""Optimizer of the dense weights, and the learning rates over the course of training."""

import math
from typing import Any, Literal

import torch
from torch import nn

from smt.training.template import Template

# The share of the learning rate that is left when the schedule ends, and in every epoch added after that.
FINAL_SHARE = 0.02
# Parameters with one slice per task. The slices of heads that the scenario does not use have gradients of exactly
# zero; without decay they then keep their initial values.
_PER_TASK = ("heads.", "experts.gate_")


def dense_optimizer(net: nn.Module, template: Template, tasks: int) -> torch.optim.Optimizer:
    """Adam or AdamW over the network's parameters.

    Args:
        tasks: number of the scenario's tasks; with fewer than the template's heads, what belongs to single tasks is
            not decayed.
    """
    config = template.recipe.dense_optimizer
    per_task: list[nn.Parameter] = []
    shared: list[nn.Parameter] = []
    for name, parameter in net.named_parameters():
        (per_task if name.startswith(_PER_TASK) else shared).append(parameter)
    decay = config.weight_decay if tasks == template.tasks else 0.0
    groups: list[dict[str, Any]] = [{"params": shared}, {"params": per_task, "weight_decay": decay}]
    kind = torch.optim.AdamW if config.type == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)


def lr_share(decay: Literal["none", "cosine"], step: int, steps: int) -> float:
    """The share of its learning rate that each optimizer uses in a step.

    Args:
        step: counts from 0. steps: those of the planned epochs; the share stays where it is after them.
    """
    if decay == "none":
        return 1.0
    done = min(step / max(steps, 1), 1.0)
    return FINAL_SHARE + (1 - FINAL_SHARE) * (1 + math.cos(math.pi * done)) / 2
