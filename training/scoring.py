"""What a finished run's exported weights predict, by the function that the template binary computes, in fp32.

score_split(load_run(Path("build/runs/income_workers")), scenario, "test")
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from smt.training.model import ServingFunction
from smt.training.techniques.runs import FinishedRun

if TYPE_CHECKING:
    from smt.training.data import Batch
    from smt.training.metrics import TaskMetrics
    from smt.training.scenario import Scenario, Split

_ROWS = 4096


class Scorer:
    """A finished run as a function of batches."""

    def __init__(self, source: FinishedRun, device: torch.device) -> None:
        self.function = ServingFunction(source.template).to(device)
        self.slab, self.table = source.slab.to(device), source.table.to(device)
        self.spec = source.spec
        self.slots = source.template.slots.categorical

    @torch.no_grad()
    def __call__(self, batch: "Batch") -> Tensor:
        """[B, heads of the run's template] probabilities."""
        rows = len(batch.dense)
        ids, lengths = [], []
        # Bag 0 is empty, for slots without a feature; then the bags of one lookup after the other.
        bag_index = torch.zeros(rows, self.slots, dtype=torch.int64, device=self.slab.device)
        for i, (key, feature, slot) in enumerate(self.spec.lookups):
            jagged = batch.sparse[key]
            ids.append(jagged.values() + feature.first_row)
            lengths.append(jagged.lengths().long())
            bag_index[:, slot] = torch.arange(rows, device=self.slab.device) + 1 + i * rows
        empty = torch.zeros(2, dtype=torch.int64, device=self.slab.device)
        offsets = torch.cat([empty, torch.cat(lengths).cumsum(0)]) if lengths else empty
        all_ids = torch.cat(ids) if ids else empty[:0]
        scores: Tensor = self.function(self.slab, self.table, batch.dense, all_ids, offsets, bag_index)
        return scores


def score_split(source: FinishedRun, scenario: "Scenario", split: "Split") -> "dict[str, TaskMetrics]":
    """Figures of each task on a split of the run's scenario.

    Raises:
        ConfigError, DataError, InputError: the data does not fit the scenario.
    """
    # Imported here: templates have techniques, some of which score; and metrics need TorchRec, compiling does without.
    from smt.training.data import Loader
    from smt.training.metrics import evaluate

    scorer = Scorer(source, torch.device("cpu"))
    labels, scores = [], []
    for batch in Loader(scenario, source.spec, split, _ROWS).epoch(None):
        labels.append(batch.labels.numpy())
        scores.append(scorer(batch).numpy())
    return evaluate([task.name for task in scenario.tasks], np.concatenate(labels), np.concatenate(scores))
