"""Publishes a scenario's weights while they are trained: a whole version or what changed, through a light gate.

    train(scenario, run_dir, publisher=DeltaPublisher(registry, scenario), publish_every=Every.parse("10m"))

The gate is for weights that are a few minutes apart: they are finite, and on a sample of the validation split, scored
by the template binary, no task's normalized entropy is more than MAX_NE_RISE above that of the version published last.
Where nothing was published before there is nothing to fall behind. What it refuses is published with the next weights
that pass.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smt.kernels.transform import FeatureTransform, TransformedBatch, columns_from_arrow
from smt.serving.binary import BinaryRunner, Weights
from smt.serving.delta import Delta, DeltaError, changed_rows, publish_delta
from smt.serving.delta_rows import not_finite
from smt.serving.manifest import SnapshotManifest
from smt.serving.registry import Registry, RegistryError
from smt.serving.snapshot import load_weights, publish_weights
from smt.training.features import FeatureSpec
from smt.training.metrics import TaskMetrics, evaluate
from smt.training.model import abi_hash
from smt.training.publication import Outcome
from smt.training.reading import iter_batches
from smt.training.scenario import Scenario

SAMPLE_ROWS = 20_000
# Relative. Above what a few steps more change by chance, below what a learning rate gone wrong does.
MAX_NE_RISE = 0.02


class DeltaPublisher:
    """A `Publisher` of one run. Holds a copy of the table that was published last."""

    def __init__(
        self,
        registry: Registry,
        scenario: Scenario,
        *,
        max_ne_rise: float = MAX_NE_RISE,
        sample_rows: int = SAMPLE_ROWS,
        target: str = "cpu",
    ) -> None:
        self._registry = registry
        self._scenario = scenario
        self._template = scenario.template
        self._tasks = [task.name for task in scenario.tasks]
        self._max_ne_rise = max_ne_rise
        self._sample_rows = sample_rows
        self._target = target
        self._published: SnapshotManifest | None = None
        self._weights = Weights(torch.empty(0), torch.empty(0))  # of self._published
        self._ne: dict[str, float | None] = {}  # of self._published

    def start(self, spec: FeatureSpec) -> None:
        """Raises RegistryError: there is no binary of the template; DataError: no validation row."""
        template = self._template
        self._features: dict[str, Any] = spec.to_json()
        self._transform = FeatureTransform(self._features)
        self._runner = BinaryRunner.load(self._registry, template.name, abi_hash(template), self._target)
        self._labels, self._batches = self._sample()

    def whole(self, slab: Tensor, table: Tensor, step: int) -> Outcome:
        """As a delta on what is current, if that has the same features: then it is in the chain of what is served."""
        # A table of fewer rows than the binary's smallest one.
        table = torch.cat([table, table.new_zeros(max(2 - len(table), 0), table.shape[1])])
        weights = Weights(slab, table)
        try:
            base = self._base()
            if base is None:
                return self._offer(weights, None, step)
            before = load_weights(self._registry, base)
            self._published, self._weights, self._ne = base, before, self._measure(before)[1]
            rows = changed_rows(before.table, table)
            return self._offer(weights, Delta(slab, rows, table[rows]), step)
        except RegistryError as error:
            self._published = None
            return Outcome(False, str(error))

    def changed(self, slab: Tensor, rows: Tensor, values: Tensor, step: int) -> Outcome:
        # In place and back: a second copy of a large table for every publication would be felt.
        table = self._weights.table
        before = table[rows]
        table[rows] = values
        outcome = Outcome(False, "interrupted")
        try:
            outcome = self._offer(Weights(slab, table), Delta(slab, rows, values), step)
        except RegistryError as error:
            outcome = Outcome(False, str(error))
        finally:
            if not outcome.published:
                table[rows] = before
        return outcome

    def _offer(self, weights: Weights, delta: Delta | None, step: int) -> Outcome:
        new = weights.table if delta is None else delta.values
        if not_finite(weights.slab) or not_finite(new):
            return Outcome(False, "weights that are NaN or Inf; lower the learning rates of the template's recipe")
        metrics, ne = self._measure(weights)
        problems = self._problems(ne)
        if problems:
            return Outcome(False, "; ".join(problems))
        seen = {"sample": {task: found.to_json() for task, found in metrics.items()}, "sample_ne_before": self._ne}
        lineage = {"scenario_sha256": self._scenario.sha256, "step": step, "while_training": True}
        name = self._scenario.name
        if delta is None or self._published is None:
            manifest = publish_weights(
                self._registry,
                self._template,
                name,
                self._tasks,
                self._features,
                weights,
                metrics=seen,
                lineage=lineage,
            )
        else:
            base = self._published.version
            manifest = publish_delta(self._registry, self._template, name, base, delta, metrics=seen, lineage=lineage)
        self._published, self._weights, self._ne = manifest, weights, ne
        kind = f"a delta of {len(delta.rows):,} rows" if delta is not None and manifest.base else "whole"
        return Outcome(True, f"published {manifest.version}, {kind}")

    def _base(self) -> SnapshotManifest | None:
        """The current version, if a delta may build on it."""
        if self._registry.current(self._scenario.name) is None:
            return None
        manifest = self._registry.snapshot(self._scenario.name)
        same = manifest.abi_hash == abi_hash(self._template) and manifest.task_names() == self._tasks
        return manifest if same and manifest.features == self._features else None

    def _problems(self, ne: dict[str, float | None]) -> list[str]:
        found = []
        for task, after in ne.items():
            before = self._ne.get(task)
            if before is None or after is None:
                continue
            limit = before * (1 + self._max_ne_rise)
            if not after <= limit:
                found.append(
                    f"task {task!r}: NE {after:.4f} on {len(self._labels):,} validation rows, {before:.4f} in version "
                    f"{self._version()}: at most {limit:.4f} is published"
                )
        return found

    def _version(self) -> str:
        return self._published.version if self._published else ""

    def _measure(self, weights: Weights) -> tuple[dict[str, TaskMetrics], dict[str, float | None]]:
        scores = np.concatenate([self._runner.score(weights, batch) for batch in self._batches])
        metrics = evaluate(self._tasks, self._labels, scores[:, : len(self._tasks)])
        return metrics, {task: found.ne for task, found in metrics.items()}

    def _sample(self) -> tuple[NDArray[np.float32], list[TransformedBatch]]:
        """Row groups of the validation split in a random but fixed order, up to so many rows."""
        labels: list[NDArray[np.float32]] = []
        batches: list[TransformedBatch] = []
        left = self._sample_rows
        for batch in iter_batches(self._scenario, "valid", seed=0, batch_size=min(left, 4096)):
            columns = columns_from_arrow(batch.columns, self._scenario.inputs, self._transform.inputs)
            batches.append(self._transform.apply(batch.rows, columns))
            labels.append(batch.labels)
            left -= batch.rows
            if left <= 0:
                break
        if not labels:
            raise DeltaError(f"{self._scenario.path}: no row of data.valid passes the filter; nothing can be measured")
        return np.concatenate(labels), batches
