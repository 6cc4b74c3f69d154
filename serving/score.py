"""Quality of a running server: scores a scenario's rows over gRPC and compares them with the labels.

score(client, load_scenario("income_workers.yaml")).metrics["income"].ne
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from smt.serving.client import Client
from smt.training.metrics import TaskMetrics, task_metrics
from smt.training.reading import iter_batches
from smt.training.scenario import Scenario, Split


class ScoreError(RuntimeError):
    """The server's answers cannot be compared with the scenario's labels."""


@dataclass(frozen=True)
class ScoreResult:
    """Served quality of one scenario.

    metrics: per task, over the labelled rows. versions: rows that each snapshot version computed.
    scores: per task, float32 [rows], in file order. labels: per task, float32 [rows], NaN without a label.
    """

    scenario: str
    rows: int
    seconds: float
    versions: dict[str, int]
    metrics: dict[str, TaskMetrics]
    scores: dict[str, NDArray[np.float32]]
    labels: dict[str, NDArray[np.float32]]

    def to_json(self) -> dict[str, Any]:
        return {
            "scenario": self.scenario,
            "rows": self.rows,
            "seconds": round(self.seconds, 6),
            "rows_per_second": round(self.rows / self.seconds, 1) if self.seconds else None,
            "versions": self.versions,
            "tasks": {task: metrics.to_json() for task, metrics in self.metrics.items()},
        }


def with_files(scenario: Scenario, files: Sequence[Path]) -> Scenario:
    """The scenario with other validation files: held-back rows, for instance."""
    data = scenario.data.model_copy(update={"valid": [str(file.resolve()) for file in files]})
    return dataclasses.replace(scenario, data=data)


def score(
    client: Client,
    scenario: Scenario,
    split: Split = "valid",
    *,
    version: str | None = None,
    max_rows: int | None = None,
    timeout: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> ScoreResult:
    """Scores every row of a split that the scenario's filter keeps.

    Args:
        version: accept only this snapshot version.
        max_rows: rows per request; default: the server's limit.
        progress: called with the number of rows scored.

    Raises:
        ConfigError, DataError: the data does not fit the scenario. PredictError: the server refused something.
        ScoreError: there is no row, or the served snapshot lacks one of the scenario's tasks.
    """
    names = [task.name for task in scenario.tasks]
    scores: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    labels: list[NDArray[np.float32]] = []
    versions: Counter[str] = Counter()
    seconds = 0.0
    for batch in iter_batches(scenario, split):
        started = time.monotonic()
        answer = client.predict_table(
            scenario.name,
            pa.Table.from_batches([batch.columns]),
            tasks=names,
            version=version,
            max_rows=max_rows,
            timeout=timeout,
            progress=progress,
        )
        seconds += time.monotonic() - started
        for name in names:
            if name not in answer:
                raise ScoreError(f"task {name!r} of {scenario.path} was not answered; the server has {list(answer)}")
            scores[name].append(answer[name])
        labels.append(batch.labels)
        versions.update(answer.versions)
    if not labels:
        raise ScoreError(f"{scenario.path}: no row of data.{split} passes the scenario's filter")
    label_columns = dict(zip(names, np.concatenate(labels).T, strict=True))
    score_columns = {name: np.concatenate(parts) for name, parts in scores.items()}
    metrics = {name: task_metrics(label_columns[name], score_columns[name]) for name in names}
    rows = sum(len(part) for part in labels)
    return ScoreResult(scenario.name, rows, seconds, dict(versions), metrics, score_columns, label_columns)
