"""Does one job: trains what its folder says and writes the record. Runs in worker processes.

scenario.yaml, template.yaml    what to train, written by the store
job.json                        the job's identity
run/                            the run directory; removed when done, unless the job says keep
record.json                     written last

A job that was killed goes on from its last checkpoint, to the same result.
"""

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from smt.training import checkpoint
from smt.training.cycle.record import Record, write_record
from smt.training.metrics import TaskMetrics
from smt.training.reading import iter_batches
from smt.training.run import RunPaths, TrainResult
from smt.training.scenario import Scenario, load_scenario
from smt.training.scoring import score_split
from smt.training.techniques.runs import load_run
from smt.training.trainer import TrainingError, train

RECORD, JOB, SCENARIO, TEMPLATE, RUN = "record.json", "job.json", "scenario.yaml", "template.yaml", "run"
BINS = 20
# Writing one takes as long as some epochs of a small scenario.
CHECKPOINT_SECONDS = 30.0


def is_done(folder: Path, keep: bool) -> bool:
    """Whether the job's outcome is there, with its weights if they are kept."""
    if not (folder / RECORD).is_file():
        return False
    if not keep or RunPaths(folder / RUN).weights.is_file():
        return True
    return bool(json.loads((folder / RECORD).read_bytes())["failed"])


def execute(folder: Path) -> None:
    """Trains and writes the record, unless it is there; waits for another process that is at it.

    Raises:
        ConfigError, DataError, InputError: scenario, template or data have a mistake.
    """
    job = json.loads((folder / JOB).read_bytes())
    with _alone(folder / "lock"):
        if is_done(folder, job["keep"]):
            return
        scenario, paths = load_scenario(folder / SCENARIO), RunPaths(folder / RUN)
        failed, result = "", None
        try:
            resume = checkpoint.latest(paths.checkpoint) is not None
            result = train(scenario, paths.root, resume=resume, progress=False, checkpoint_seconds=CHECKPOINT_SECONDS)
        except TrainingError as error:
            failed = str(error)
        test = {}
        if result is not None and scenario.data.test is not None:
            test = score_split(load_run(paths.root), scenario, "test")
        record = _record(job, scenario, result, test, paths, failed)
        shutil.rmtree(paths.checkpoint, ignore_errors=True)
        write_record(folder / RECORD, record)
        if not job["keep"]:
            shutil.rmtree(paths.root, ignore_errors=True)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Held by one process at a time; the lock goes with a process that dies."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _record(
    job: dict[str, Any],
    scenario: Scenario,
    result: TrainResult | None,
    test: dict[str, TaskMetrics],
    paths: RunPaths,
    failed: str,
) -> Record:
    recipe = scenario.template.recipe
    history = []
    if result is not None:
        history = [json.loads(line) for line in paths.metrics.read_text().splitlines()]
    rows = {} if result is None else result.rows
    return Record(
        key=job["key"],
        scenario=scenario.name,
        techniques=[technique.label for technique in scenario.template.techniques],
        seed=recipe.seed,
        share=scenario.data.share,
        epochs=recipe.epochs,
        data=job["data"],
        template=scenario.template.sha256,
        torch=torch.__version__,
        metrics={} if result is None else result.metrics,
        curve=[{"epoch": e["epoch"], "loss": e["loss"], "mean_ne": e["mean_ne"]} for e in history],
        reliability={} if result is None else reliability(scenario, np.load(paths.predictions)),
        rows=rows,
        trained_rows=rows.get("train", 0) * (0 if result is None else result.epochs_completed),
        seconds=0.0 if result is None else round(result.seconds, 3),
        test=test,
        failed=failed,
    )


def reliability(scenario: Scenario, probabilities: npt.NDArray[np.float32]) -> dict[str, list[list[float]]]:
    """Of each task, [mean prediction, label rate, rows] of bins of equally many rows, by ascending prediction.

    probabilities: [rows of the validation split that have a label, tasks], in their order.
    """
    labels = np.concatenate([batch.labels for batch in iter_batches(scenario, "valid")])
    labels = labels[~np.isnan(labels).all(axis=1)]
    if len(labels) != len(probabilities):
        raise ValueError(f"{len(probabilities)} predictions of {len(labels)} rows of {scenario.path}: expected as many")
    found = {}
    for t, task in enumerate(scenario.tasks):
        labelled = ~np.isnan(labels[:, t])
        p, y = probabilities[labelled, t].astype(float), labels[labelled, t].astype(float)
        order = np.argsort(p, kind="stable")
        bins = [part for part in np.array_split(order, BINS) if len(part)]
        found[task.name] = [[float(p[part].mean()), float(y[part].mean()), len(part)] for part in bins]
    return found
