"""Run directory -> snapshot, through the quality gate.

    publish_run(Path("build/runs/income_workers"), Registry("build/registry"))

The gate scores the validation split with what the server will execute: the features' C++ transformation and the
template binary. It refuses weights that are not finite, and a normalized entropy that differs from training's by more
than MAX_NE_CHANGE of the binary's precision. The figures of both sides go into the manifest.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smt.kernels.cpu import Precision
from smt.kernels.transform import FeatureTransform, SpecError, columns_from_arrow
from smt.serving.binary import BinaryRunner, Weights
from smt.serving.manifest import SnapshotManifest
from smt.serving.registry import Registry
from smt.serving.snapshot import check_weights, publish_weights, read_weights
from smt.training.metrics import TaskMetrics, evaluate
from smt.training.model import abi_hash
from smt.training.reading import iter_batches
from smt.training.run import RunPaths, TrainResult, load_result
from smt.training.scenario import Scenario, load_scenario

# Largest relative change of a task's normalized entropy from training to serving, by what the binary multiplies in.
MAX_NE_CHANGE: dict[Precision, float] = {"fp32": 1e-4, "bf16": 1e-4, "int8": 5e-4}

_BATCH_ROWS = 8192


class PublishError(RuntimeError):
    """A run that is not published; the message says why, with the figures of both sides where it is their doing."""


@dataclass(frozen=True)
class Gate:
    """What the gate saw, per task: training's figures, serving's, and the relative change of NE (None: undefined)."""

    trained: dict[str, TaskMetrics]
    served: dict[str, TaskMetrics]
    ne_change: dict[str, float | None]
    precision: Precision

    def problems(self) -> list[str]:
        """Why the run must not be published; empty if it may."""
        found = []
        for task, change in self.ne_change.items():
            trained, served = self.trained[task], self.served[task]
            if (trained.rows, trained.positives) != (served.rows, served.positives):
                found.append(
                    f"task {task!r}: training saw {trained.rows} labelled rows, {trained.positives} positive; "
                    f"here are {served.rows}, {served.positives} positive"
                )
            elif change is None and (trained.ne is None) != (served.ne is None):
                found.append(f"task {task!r}: NE {trained.ne} in training, {served.ne} in serving")
            elif change is not None and not change <= MAX_NE_CHANGE[self.precision]:
                fix = "" if self.precision == "fp32" else "; `smt compile --precision fp32` keeps rounding out of it"
                found.append(
                    f"task {task!r}: NE {trained.ne:.6f} in training, {served.ne:.6f} in serving: "
                    f"relative change {change:.2e}; at most {MAX_NE_CHANGE[self.precision]:g} is published "
                    f"from {self.precision}{fix}"
                )
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "train_side": {task: metrics.to_json() for task, metrics in self.trained.items()},
            "serving": {task: metrics.to_json() for task, metrics in self.served.items()},
            "ne_change": self.ne_change,
            "precision": self.precision,
        }


@dataclass(frozen=True)
class Published:
    """The outcome of `publish_run`."""

    manifest: SnapshotManifest
    gate: Gate


def publish_run(
    run_dir: Path,
    registry: Registry,
    *,
    scenario_path: Path | None = None,
    target: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Published:
    """Publishes the exported weights of a finished run and makes them current.

    Args:
        scenario_path: the scenario's YAML, if it is no longer where it was when the run was trained.
        progress: called with the number of validation rows scored.

    Raises:
        PublishError: the gate refused, or the run does not fit its scenario any more.
        ConfigError, DataError: scenario or data cannot be read. SnapshotError: weights that do not fit, or not finite.
        RegistryError: there is no binary of the template (compile first), or the registry cannot be written.
    """
    result = _result(run_dir)
    scenario = _scenario(result, scenario_path)
    features = _features(run_dir)
    weights = read_weights(result.weights)
    tasks = [task.name for task in scenario.tasks]
    if list(result.metrics) != tasks:
        raise PublishError(f"{run_dir}: trained the tasks {list(result.metrics)}; {scenario.path} has {tasks}")
    try:
        transform = FeatureTransform(features)
    except SpecError as error:
        raise PublishError(f"{result.features}: {error}") from error
    check_weights(scenario.template, weights, transform, tasks)
    runner = BinaryRunner.load(registry, scenario.template.name, abi_hash(scenario.template), target)
    labels, scores = score_validation(scenario, transform, weights, runner, progress)
    gate = compare(result.metrics, evaluate(tasks, labels, scores), runner.manifest.precision)
    problems = gate.problems()
    if problems:
        raise PublishError(f"{run_dir}: not published:\n  " + "\n  ".join(problems))
    manifest = publish_weights(
        registry,
        scenario.template,
        scenario.name,
        tasks,
        features,
        weights,
        metrics=gate.to_json(),
        lineage=_lineage(result, scenario),
    )
    return Published(manifest, gate)


def score_validation(
    scenario: Scenario,
    transform: FeatureTransform,
    weights: Weights,
    runner: BinaryRunner,
    progress: Callable[[int], None] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Labels [rows, tasks] (NaN: none) and probabilities [rows, heads] of the validation split, as served."""
    labels: list[NDArray[np.float32]] = []
    scores: list[NDArray[np.float32]] = []
    for batch in iter_batches(scenario, "valid", batch_size=_BATCH_ROWS):
        columns = columns_from_arrow(batch.columns, scenario.inputs, transform.inputs)
        scores.append(runner.score(weights, transform.apply(batch.rows, columns)))
        labels.append(batch.labels)
        if progress is not None:
            progress(batch.rows)
    if not labels:
        raise PublishError(f"{scenario.path}: no row of data.valid passes the filter, so nothing can be compared")
    return np.concatenate(labels), np.concatenate(scores)


def compare(trained: dict[str, TaskMetrics], served: dict[str, TaskMetrics], precision: Precision) -> Gate:
    """The two sides of the gate, and how far apart they are."""
    change: dict[str, float | None] = {}
    for task, metrics in trained.items():
        before, after = metrics.ne, served[task].ne
        change[task] = None if before is None or after is None else abs(after - before) / before
    return Gate(trained, served, change, precision)


def _result(run_dir: Path) -> TrainResult:
    try:
        return load_result(run_dir)
    except (FileNotFoundError, ValueError) as error:
        raise PublishError(str(error)) from error


def _scenario(result: TrainResult, path: Path | None) -> Scenario:
    """The run's scenario, unchanged since it was trained."""
    if path is None:
        recorded = result.details.get("scenario_path")
        if recorded is None or not Path(recorded).is_file():
            where = f"at {recorded} any more" if recorded else "recorded in its result.json"
            raise PublishError(f"{result.run_dir}: its scenario is not {where}; name it with --scenario FILE.yaml")
        path = Path(recorded)
    scenario = load_scenario(path)
    for what, found, trained in (
        ("scenario", scenario.sha256, result.details["sha256"]["scenario"]),
        ("template", scenario.template.sha256, result.details["sha256"]["template"]),
    ):
        if found != trained:
            file = scenario.path if what == "scenario" else scenario.template.path
            raise PublishError(f"{file}: the {what} has changed since {result.run_dir} was trained; train again")
    return scenario


def _features(run_dir: Path) -> dict[str, Any]:
    path = RunPaths(run_dir).features
    try:
        features: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise PublishError(f"{path}: {error}") from error
    return features


def _lineage(result: TrainResult, scenario: Scenario) -> dict[str, Any]:
    return {
        "scenario_sha256": scenario.sha256,
        "data": result.details.get("data"),
        "rows": result.rows,
        "epoch": result.epoch,
        "epochs_completed": result.epochs_completed,
        "seed": result.details.get("seed"),
    }
