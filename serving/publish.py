"""Run directory -> snapshot, through the quality gate.

    publish_run(Path("build/runs/income_workers"), Registry("build/registry"))

The gate scores the validation split with what the server will execute: the features' C++ transformation and the
template binary. It refuses a normalized entropy or a calibration that differs from training's, and predictions that
are far from those of the version being served, by more than gate.Limits says; `force` overrides that. It refuses
weights that are not finite, or do not fit the template, whatever it is told. The figures of all sides go into the
manifest.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from smt.kernels.transform import FeatureTransform, SpecError, columns_from_arrow
from smt.serving.binary import BinaryRunner, Weights
from smt.serving.gate import Gate, Limits, compare
from smt.serving.incumbent import DriftSample
from smt.serving.manifest import SnapshotManifest
from smt.serving.registry import Registry
from smt.serving.snapshot import check_weights, publish_weights, read_weights
from smt.training.metrics import evaluate
from smt.training.model import abi_hash
from smt.training.reading import iter_batches
from smt.training.run import RunPaths, TrainResult, load_result
from smt.training.scenario import Scenario, load_scenario

Label = Literal["stable", "canary", "shadow"]

_BATCH_ROWS = 8192


class PublishError(RuntimeError):
    """A run that is not published; the message says why, with the figures of both sides where it is their doing."""


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
    limits: Limits | None = None,
    force: str | None = None,
    label: Label = "stable",
    percent: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> Published:
    """Publishes the exported weights of a finished run and makes them current.

    Args:
        scenario_path: the scenario's YAML, if it is no longer where it was when the run was trained.
        limits: of the gate.
        force: why to publish in spite of what the gate finds; it is recorded in the manifest and in the event.
        label, percent: publish as canary or shadow instead, see Registry.publish_snapshot.
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
    sample = DriftSample(registry, scenario.name, target, runner, result.rows.get("valid", 0))
    labels, scores = score_validation(scenario, transform, weights, runner, progress, sample.add)
    served = evaluate(tasks, labels, scores)
    gate = compare(result.metrics, served, runner.manifest.precision, limits, sample.compare(tasks))
    problems = gate.problems()
    if problems and force is None:
        raise PublishError(
            f"{run_dir}: not published:\n  " + "\n  ".join(problems) + "\n`--force REASON` publishes it all the same"
        )
    forced = force if problems else None
    manifest = publish_weights(
        registry,
        scenario.template,
        scenario.name,
        tasks,
        features,
        weights,
        metrics=gate.to_json(forced),
        lineage=_lineage(result, scenario),
        label=label,
        percent=percent,
        forced=forced,
    )
    return Published(manifest, gate)


def score_validation(
    scenario: Scenario,
    transform: FeatureTransform,
    weights: Weights,
    runner: BinaryRunner,
    progress: Callable[[int], None] | None = None,
    observe: Callable[[pa.RecordBatch, NDArray[np.float32]], None] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Labels [rows, tasks] (NaN: none) and probabilities [rows, heads] of the validation split, as served.

    observe: called with each batch's raw columns and probabilities.
    """
    labels: list[NDArray[np.float32]] = []
    scores: list[NDArray[np.float32]] = []
    for batch in iter_batches(scenario, "valid", batch_size=_BATCH_ROWS):
        columns = columns_from_arrow(batch.columns, scenario.inputs, transform.inputs)
        scores.append(runner.score(weights, transform.apply(batch.rows, columns)))
        if observe is not None:
            observe(batch.columns, scores[-1])
        labels.append(batch.labels)
        if progress is not None:
            progress(batch.rows)
    if not labels:
        raise PublishError(f"{scenario.path}: no row of data.valid passes the filter, so nothing can be compared")
    return np.concatenate(labels), np.concatenate(scores)


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
        "techniques": [technique.label for technique in scenario.template.techniques],
    }
