"""One representation for all tasks (shared bottom; Caruana 1997, doi 10.1023/A:1007379606734). No parameters."""

from typing import Literal

from torch import Tensor

from smt.training.components.component import Component, ExpertsConfig, component


@component("experts")
class SharedBottomConfig(ExpertsConfig):
    """Every head reads the deep arch's output as it is."""

    fused = True
    type: Literal["shared_bottom"]

    def build(self, inputs: int, tasks: int) -> "SharedBottom":
        return SharedBottom(inputs, tasks)


class SharedBottom(Component):
    """[B, inputs] -> [B, tasks, inputs], a view."""

    def __init__(self, inputs: int, tasks: int) -> None:
        super().__init__()
        self.tasks = tasks
        self.outputs = inputs

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(1).expand(-1, self.tasks, -1)

    def flops(self) -> int:
        return 0
