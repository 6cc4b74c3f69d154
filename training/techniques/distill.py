"""Distillation from finished runs (arXiv 1503.02531); several are an ensemble, whose mean probability teaches.

    target = (1 - α) label + α p_teacher,  where there is a label

A teacher may be of another template, bigger too, but is of the same scenario: it reads the same features.
"""

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from smt.training.hooks import Hook, Run
from smt.training.model import ServingFunction
from smt.training.techniques.runs import FinishedRun, load_run, of_scenario
from smt.training.techniques.technique import Technique, technique

if TYPE_CHECKING:
    from smt.training.data import Batch


@technique
class Distill(Technique):
    """`teachers`: run directories, seen from the working directory, {scenario} in them its name. `weight` is α."""

    name: Literal["distill"] = "distill"
    paper = "arXiv 1503.02531"
    teachers: Annotated[list[str], Field(min_length=1, max_length=64)]
    weight: Annotated[float, Field(gt=0, le=1)] = 0.5

    def hook(self) -> Hook:
        return _Distill(self)


class Teacher:
    """A finished run that scores the student's batches."""

    def __init__(self, source: FinishedRun, run: Run) -> None:
        def inputs(spec: object) -> object:
            return [(f.name, f.slot, f.encode) for f in spec.categorical], [f.steps for f in spec.dense]  # type: ignore[attr-defined]

        if inputs(source.spec) != inputs(run.spec) or source.template.slots.dense != run.template.slots.dense:
            raise ValueError(
                f"{source.path}: the teacher reads other features than {run.scenario.name}; distill needs runs of the "
                f"same scenario, with the same dense and categorical slots"
            )
        self.function = ServingFunction(source.template).to(run.device)
        self.slab, self.table = source.slab.to(run.device), source.table.to(run.device)
        self.spec = source.spec
        self.slots = source.template.slots.categorical

    @torch.no_grad()
    def __call__(self, batch: "Batch") -> Tensor:
        """[B, teacher's heads] probabilities."""
        rows = len(batch.dense)
        ids, lengths = [], []
        # Bag 0 is empty, for slots without a feature; then the bags of one feature after the other.
        bag_index = torch.zeros(rows, self.slots, dtype=torch.int64, device=self.slab.device)
        for i, feature in enumerate(self.spec.categorical):
            jagged = batch.sparse[feature.name]
            ids.append(jagged.values() + feature.first_row)
            lengths.append(jagged.lengths().long())
            bag_index[:, feature.slot] = torch.arange(rows, device=self.slab.device) + 1 + i * rows
        empty = torch.zeros(2, dtype=torch.int64, device=self.slab.device)
        offsets = torch.cat([empty, torch.cat(lengths).cumsum(0)]) if lengths else empty
        all_ids = torch.cat(ids) if ids else empty[:0]
        scores: Tensor = self.function(self.slab, self.table, batch.dense, all_ids, offsets, bag_index)
        return scores


class _Distill(Hook):
    def __init__(self, config: Distill) -> None:
        self.config = config

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.teachers = [Teacher(load_run(of_scenario(path, run)), run) for path in self.config.teachers]

    def targets(self, targets: Tensor, labelled: Tensor, batch: "Batch") -> Tensor:
        scores = torch.stack([teacher(batch)[:, : targets.shape[1]] for teacher in self.teachers]).mean(dim=0)
        return torch.lerp(targets, scores, self.config.weight)
