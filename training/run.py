"""The run directory: what training leaves for `smt publish` and for people, and what it resumes from.

features.json                 FeatureSpec
export/weights.safetensors    slab [elements], table [table_rows, dim]: the weights to publish
export/predictions.npy        what they predict for the validation split: float32 [rows that have a label, tasks], in
                              the order of the data if one process trained
result.json                   their metrics, and how they came about
metrics.jsonl                 one line per epoch
checkpoint/                   see checkpoint.py
"""

import io
import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from smt.training.checkpoint import write_atomically
from smt.training.metrics import TaskMetrics


@dataclass(frozen=True)
class RunPaths:
    """Names within a run directory."""

    root: Path

    @property
    def features(self) -> Path:
        return self.root / "features.json"

    @property
    def weights(self) -> Path:
        return self.root / "export" / "weights.safetensors"

    @property
    def predictions(self) -> Path:
        return self.root / "export" / "predictions.npy"

    @property
    def result(self) -> Path:
        return self.root / "result.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        return self.root / "checkpoint"

    def clear(self) -> None:
        """Removes what an earlier run left, and nothing else."""
        for path in (self.result, self.metrics, self.weights, self.predictions, self.features):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.checkpoint, ignore_errors=True)


@dataclass
class Progress:
    """Where a run stands after an epoch; goes into its checkpoint."""

    planned_epochs: int
    identity: dict[str, Any]  # what must not change between a run and its resumption
    rows: dict[str, int]  # train: rows that the filter keeps; valid
    warnings: list[str]
    epochs_completed: int = 0
    steps: int = 0
    trained_rows: int = 0
    training_seconds: float = 0.0  # of the training passes alone
    seconds: float = 0.0  # of everything
    best_epoch: int = 0
    best_ne: float | None = None
    exported_epoch: int = 0
    stopped: str | None = None  # why no planned epoch is left: "finished" or "early stopping"
    history: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class TrainResult:
    """What a run came to. `metrics` are those of the exported weights on the validation split."""

    scenario: str
    run_dir: Path
    epoch: int  # of the exported weights, counted from 1
    epochs_completed: int
    stopped: str
    metrics: dict[str, TaskMetrics]
    rows: dict[str, int]
    seconds: float
    rows_per_second: float
    warnings: list[str]
    details: dict[str, Any]

    @property
    def weights(self) -> Path:
        return RunPaths(self.run_dir).weights

    @property
    def features(self) -> Path:
        return RunPaths(self.run_dir).features

    def to_json(self) -> dict[str, Any]:
        """The content of result.json."""
        return {
            "scenario": self.scenario,
            "epoch": self.epoch,
            "epochs_completed": self.epochs_completed,
            "stopped": self.stopped,
            "metrics": {name: task.to_json() for name, task in self.metrics.items()},
            "rows": self.rows,
            "seconds": round(self.seconds, 3),
            "rows_per_second": round(self.rows_per_second, 1),
            "warnings": self.warnings,
            **self.details,
        }


_PLAIN = ("scenario", "epoch", "epochs_completed", "stopped", "rows", "seconds", "rows_per_second", "warnings")


def load_result(run_dir: Path | str) -> TrainResult:
    """Reads the result.json of a run directory.

    Raises:
        FileNotFoundError: no finished run there. ValueError: not a result.json.
    """
    path = RunPaths(Path(run_dir)).result
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; expected the run directory of a finished `smt train`") from None
    try:
        known = {
            name: data.pop(name)
            for name in (
                "scenario",
                "epoch",
                "epochs_completed",
                "stopped",
                "rows",
                "seconds",
                "rows_per_second",
                "warnings",
            )
        }
        metrics = {
            name: TaskMetrics(**{key: value for key, value in task.items() if key != "label_rate"})
            for name, task in data.pop("metrics").items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: found no result of a training run ({error!r})") from error
    return TrainResult(run_dir=Path(run_dir), metrics=metrics, details=data, **known)


def write_weights(path: Path, slab: Tensor, table: Tensor) -> None:
    """Replaces the exported weights atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, safetensors_bytes({"slab": slab.contiguous(), "table": table.contiguous()}))


def write_predictions(path: Path, probabilities: npt.NDArray[np.float32]) -> None:
    """Replaces the exported weights' predictions for the validation split, [rows, tasks], atomically."""
    content = io.BytesIO()
    np.save(content, probabilities)
    write_atomically(path, content.getvalue())


def write_json(path: Path, data: Any) -> None:
    write_atomically(path, (json.dumps(data, indent=1, allow_nan=False) + "\n").encode())


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """One JSON object per line; rewritten whole, so that a resumed run leaves no line twice."""
    write_atomically(path, "".join(json.dumps(record, allow_nan=False) + "\n" for record in records).encode())
