"""The negative control: heads begin a little elsewhere. Nothing that could help, nothing that it costs.

A cycle that adopts it takes noise for a gain.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field

from smt.training.hooks import Hook, Run
from smt.training.techniques.technique import Technique, technique


@technique
class HeadNoise(Technique):
    """`scale` is the deviation, relative to that of each weight matrix."""

    name: Literal["head_noise"] = "head_noise"
    paper = "none: a control that is known to be useless"
    scale: Annotated[float, Field(gt=0, le=1)] = 0.05

    def hook(self) -> Hook:
        return _Noise(self.scale)


class _Noise(Hook):
    def __init__(self, scale: float) -> None:
        self.scale = scale

    def begin(self, run: Run) -> None:
        super().begin(run)
        generator = torch.Generator().manual_seed(run.template.recipe.seed + 1)
        with torch.no_grad():
            for parameter in run.model.net.heads.parameters():
                deviation = parameter.std().nan_to_num() * self.scale
                parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.device) * deviation)
