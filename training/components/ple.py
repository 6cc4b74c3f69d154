"""Shared and task-specific experts in levels (PLE, doi 10.1145/3383313.3412236).

x_t' = Σ_e softmax(G_t x_t)_e f_e(·)    task t's own experts, which read x_t, and the shared ones, which read x_s
x_s' = Σ_e softmax(G_s x_s)_e f_e(·)    all tasks' own experts and the shared ones; not in the last level
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from smt.training.components.component import Activation, Component, ExpertsConfig, Width, component, matrix_flops

Count = Annotated[int, Field(ge=1, le=64)]


@component("experts")
class PleConfig(ExpertsConfig):
    """`levels` levels of `shared` experts for all and `own` experts per task, each one layer of `units` outputs."""

    type: Literal["ple"]
    shared: Count
    own: Count
    units: Width
    levels: Annotated[int, Field(ge=1, le=8)] = 1
    activation: Activation = "relu"

    def build(self, inputs: int, tasks: int) -> "Ple":
        return Ple(inputs, tasks, self)


class _Level(nn.Module):
    def __init__(self, inputs: int, tasks: int, config: PleConfig, last: bool) -> None:
        super().__init__()
        own, shared, n = config.own, config.shared, config.units
        self.activation = config.activation
        self.own_weight = nn.Parameter(torch.empty(tasks, own, n, inputs))
        self.own_bias = nn.Parameter(torch.zeros(tasks, own, n))
        self.shared_weight = nn.Parameter(torch.empty(shared, n, inputs))
        self.shared_bias = nn.Parameter(torch.zeros(shared, n))
        self.gate_weight = nn.Parameter(torch.empty(tasks, own + shared, inputs))
        self.gate_bias = nn.Parameter(torch.zeros(tasks, own + shared))
        self.shared_gate = nn.ParameterList(
            nn.Parameter(torch.empty(tasks * own + shared, inputs)) for _ in range(not last)
        )
        with torch.no_grad():
            for weights in (self.own_weight, self.shared_weight, self.gate_weight, *self.shared_gate):
                nn.init.uniform_(weights, -(inputs**-0.5), inputs**-0.5)

    def forward(self, tasks: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
        """tasks [B, T, K], shared [B, K] -> [B, T, N], [B, N]."""
        act = getattr(nn.functional, self.activation)
        own = act(torch.einsum("btk,tenk->bten", tasks, self.own_weight) + self.own_bias)
        common = act(torch.einsum("bk,enk->ben", shared, self.shared_weight) + self.shared_bias)
        gates = torch.softmax(torch.einsum("btk,tek->bte", tasks, self.gate_weight) + self.gate_bias, dim=2)
        count = own.shape[2]
        mixed = torch.einsum("bte,bten->btn", gates[:, :, :count], own)
        mixed = mixed + torch.einsum("bte,ben->btn", gates[:, :, count:], common)
        if not self.shared_gate:
            return mixed, shared
        everyone = torch.cat([own.flatten(1, 2), common], dim=1)
        gate = torch.softmax(nn.functional.linear(shared, self.shared_gate[0]), dim=1)
        return mixed, torch.einsum("be,ben->bn", gate, everyone)

    def flops(self) -> int:
        return matrix_flops(self.own_weight, self.shared_weight, self.gate_weight, *self.shared_gate)


class Ple(Component):
    """[B, inputs] -> [B, tasks, units]."""

    def __init__(self, inputs: int, tasks: int, config: PleConfig) -> None:
        super().__init__()
        self.tasks, self.outputs = tasks, config.units
        self.levels = nn.ModuleList(
            _Level(config.units if i else inputs, tasks, config, i + 1 == config.levels) for i in range(config.levels)
        )

    def forward(self, x: Tensor) -> Tensor:
        tasks, shared = x.unsqueeze(1).expand(-1, self.tasks, -1), x
        for level in self.levels:
            tasks, shared = level(tasks, shared)
        return tasks

    def flops(self) -> int:
        return sum(level.flops() for level in self.levels)  # type: ignore[operator]
