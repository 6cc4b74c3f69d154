"""What is kept of a job for good: its identity and what came out of it."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from smt.training.metrics import TaskMetrics, mean_ne
from smt.training.run import write_json

_FIGURES = ("metrics", "test")


@dataclass(frozen=True)
class Record:
    """The outcome of a job.

    Attributes:
        key: of the job. data: SHA-256 of the files of each split. template: SHA-256 of the template's YAML as trained.
        metrics: of each task on the validation split, which decides; empty if the run failed.
        test: of each task on the test split, which no choice sees; empty where the scenario has none, too.
        curve: loss and mean NE of each epoch.
        reliability: of each task, [mean prediction, label rate, rows] of bins of equally many rows, in order.
        rows: of each split; trained_rows counts every epoch.
        failed: why there is no result: a loss that is no number.
    """

    key: str
    scenario: str
    techniques: list[str]
    seed: int
    share: float
    epochs: int
    data: dict[str, list[str]]
    template: str
    torch: str
    metrics: dict[str, TaskMetrics]
    curve: list[dict[str, float | None]]
    reliability: dict[str, list[list[float]]]
    rows: dict[str, int]
    trained_rows: int
    seconds: float
    test: dict[str, TaskMetrics] = field(default_factory=dict)
    failed: str = ""

    @property
    def ne(self) -> float | None:
        """Mean over the tasks; None where the run failed or no task has both labels."""
        return mean_ne(self.metrics)

    def to_json(self) -> dict[str, Any]:
        figures = {split: {name: task.to_json() for name, task in getattr(self, split).items()} for split in _FIGURES}
        return {**asdict(self), **figures}

    @staticmethod
    def from_json(data: dict[str, Any]) -> "Record":
        figures = {
            split: {
                name: TaskMetrics(**{key: value for key, value in task.items() if key != "label_rate"})
                for name, task in data[split].items()
            }
            for split in _FIGURES
        }
        return Record(**{**data, **figures})


def write_record(path: Path, record: Record) -> None:
    """Atomically: a record that is there is whole."""
    write_json(path, record.to_json())


def read_record(path: Path) -> Record:
    """Raises FileNotFoundError; ValueError: not a record."""
    try:
        return Record.from_json(json.loads(path.read_bytes()))
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: found no record of a job ({error!r}); remove its folder") from error


def gain(before: Record, after: Record) -> float | None:
    """Relative decrease of NE, mean over the tasks; above 0 is better. None if a run failed or no NE is defined."""
    gains = []
    for name, task in before.metrics.items():
        other = after.metrics.get(name)
        if task.ne is not None and other is not None and other.ne is not None:
            gains.append((task.ne - other.ne) / task.ne)
    return sum(gains) / len(gains) if gains else None
