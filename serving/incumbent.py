"""The version being served, to compare a new one with: scores the same rows, by its own features and weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from smt.kernels.transform import FeatureTransform, InputError, SpecError, columns_from_arrow
from smt.serving.binary import BinaryRunner, Weights
from smt.serving.drift import drift
from smt.serving.gate import Comparison
from smt.serving.manifest import SnapshotManifest
from smt.serving.registry import Registry, RegistryError
from smt.serving.snapshot import load_weights

# Rows that are compared, evenly spread over the split: enough for a share of a per cent.
SAMPLE_ROWS = 20_000


@dataclass(frozen=True)
class Incumbent:
    manifest: SnapshotManifest
    weights: Weights
    transform: FeatureTransform
    runner: BinaryRunner

    @classmethod
    def load(cls, registry: Registry, scenario: str, target: str, newer: BinaryRunner) -> Self | None:
        """The current version; None if nothing was published yet.

        Args:
            newer: the new version's binary, which is the incumbent's too unless the template has changed.

        Raises:
            RegistryError: it cannot be loaded; the message says why.
        """
        if registry.current(scenario) is None:
            return None
        manifest = registry.snapshot(scenario)
        try:
            transform = FeatureTransform(manifest.features)
        except SpecError as error:
            raise RegistryError(f"features: {error}") from error
        runner = newer
        if manifest.abi_hash != newer.manifest.abi_hash:
            runner = BinaryRunner.load(registry, manifest.template.name, manifest.abi_hash, target)
        return cls(manifest, load_weights(registry, manifest), transform, runner)

    def score(self, columns: pa.RecordBatch) -> NDArray[np.float32]:
        """Probabilities, [rows, heads]. Raises RegistryError where it reads other columns than these."""
        try:
            raw = columns_from_arrow(columns, [i.name for i in self.transform.inputs], self.transform.inputs)
            return self.runner.score(self.weights, self.transform.apply(columns.num_rows, raw))
        except InputError as error:
            raise RegistryError(f"its features do not fit the rows: {error}") from error


class DriftSample:
    """Collects predictions of both versions for a sample of rows, and compares them.

    What cannot be compared is no reason not to publish, or a damaged version could not be replaced: it is said.
    """

    def __init__(self, registry: Registry, scenario: str, target: str, newer: BinaryRunner, rows: int) -> None:
        """rows: about how many there will be."""
        self._step = max(1, rows // SAMPLE_ROWS)
        self._skip = 0
        self._old: list[NDArray[np.float32]] = []
        self._new: list[NDArray[np.float32]] = []
        self._incumbent: Incumbent | None = None
        self._why_not = ""
        try:
            self._incumbent = Incumbent.load(registry, scenario, target, newer)
            if self._incumbent is None:
                self._why_not = "nothing was published before"
        except RegistryError as error:
            self._why_not = str(error)

    def add(self, columns: pa.RecordBatch, scores: NDArray[np.float32]) -> None:
        """Takes every so manieth row of a batch; `scores` are the new version's, [rows, heads]."""
        if self._incumbent is None:
            return
        chosen = np.arange(self._skip, columns.num_rows, self._step)
        self._skip = (self._skip - columns.num_rows) % self._step
        if not len(chosen):
            return
        try:
            self._old.append(self._incumbent.score(columns.take(pa.array(chosen))))
            self._new.append(scores[chosen])
        except RegistryError as error:
            self._why_not, self._incumbent = f"{self._incumbent.manifest.version}: {error}", None

    def compare(self, tasks: list[str]) -> Comparison:
        """Drift of the tasks (head i computes task i) that both versions have."""
        if self._incumbent is None or not self._old:
            return Comparison(why_not=self._why_not or "no row")
        manifest = self._incumbent.manifest
        heads = {task.name: task.head for task in manifest.tasks}
        old, new = np.concatenate(self._old), np.concatenate(self._new)
        found = {task: drift(old[:, heads[task]], new[:, i]) for i, task in enumerate(tasks) if task in heads}
        return Comparison(manifest.version, found, "" if found else f"{manifest.version} has none of the tasks")
