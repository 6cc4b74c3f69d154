"""One representation for all tasks (shared bottom; Caruana 1997, doi 10.1023/A:1007379606734). No parameters."""

from torch import Tensor, nn


class SharedBottom(nn.Module):
    """[B, inputs] -> [B, tasks, inputs], a view."""

    def __init__(self, inputs: int, tasks: int) -> None:
        super().__init__()
        self.tasks = tasks
        self.outputs = inputs

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(1).expand(-1, self.tasks, -1)
