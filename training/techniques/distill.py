"""Distillation from finished runs (arXiv 1503.02531); several are an ensemble, whose mean probability teaches.

    target = (1 - α) label + α p_teacher,  where there is a label

A teacher may be of another template, bigger too, but is of the same scenario: it reads the same features.
"""

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from smt.training.hooks import Hook, Run
from smt.training.scoring import Scorer
from smt.training.techniques.runs import FinishedRun, load_run, of_scenario
from smt.training.techniques.technique import Technique, technique

if TYPE_CHECKING:
    from smt.training.data import Batch
    from smt.training.features import FeatureSpec


@technique
class Distill(Technique):
    """`teachers`: run directories, seen from the working directory, {scenario} in them its name. `weight` is α."""

    name: Literal["distill"] = "distill"
    paper = "arXiv 1503.02531"
    teachers: Annotated[list[str], Field(min_length=1, max_length=64)]
    weight: Annotated[float, Field(gt=0, le=1)] = 0.5

    def hook(self) -> Hook:
        return _Distill(self)


def teacher(source: FinishedRun, run: Run) -> Scorer:
    """A finished run that scores the student's batches. Raises ValueError: it reads other features."""

    def inputs(spec: "FeatureSpec") -> object:
        return [(f.name, f.slot, f.encode, f.sequence) for f in spec.categorical], [f.steps for f in spec.dense]

    if inputs(source.spec) != inputs(run.spec) or source.template.slots.dense != run.template.slots.dense:
        raise ValueError(
            f"{source.path}: the teacher reads other features than {run.scenario.name}; distill needs runs of the "
            f"same scenario, with the same dense and categorical slots"
        )
    return Scorer(source, run.device)


class _Distill(Hook):
    def __init__(self, config: Distill) -> None:
        self.config = config

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.teachers = [teacher(load_run(of_scenario(path, run)), run) for path in self.config.teachers]

    def targets(self, targets: Tensor, labelled: Tensor, batch: "Batch") -> Tensor:
        scores = torch.stack([score(batch)[:, : targets.shape[1]] for score in self.teachers]).mean(dim=0)
        return torch.lerp(targets, scores, self.config.weight)
