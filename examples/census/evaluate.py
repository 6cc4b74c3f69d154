"""Scores a file of Census-Income rows through a running server: every row by the scenarios of its surface.

    python -m examples.census.evaluate --data examples/census/data/valid.parquet
    python -m examples.census.evaluate --data rows.parquet --output scores.parquet

Which rows are a scenario's is its own filter. Figures are given for the tasks whose label columns the file has, per
scenario, and per objective over the rows of all its surfaces. --output writes one row per row of the file, in its
order, with a column for each objective's task (null where no surface of the row predicts it); that needs no labels.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from smt.serving.client import Client, PredictError
from smt.serving.commands.output import table
from smt.training.config import ConfigError
from smt.training.expressions import ExpressionError
from smt.training.metrics import TaskMetrics, task_metrics
from smt.training.scenario import Scenario, load_scenario

FOLDER = Path(__file__).resolve().parent
# The scenarios of one objective, surface by surface: together they score every row.
OBJECTIVES = {
    "income": ("income_workers", "income_others"),
    "education": ("education_workers", "education_others"),
}
Metrics = dict[str, dict[str, TaskMetrics]]  # scenario or objective -> task -> figures


@dataclass(frozen=True)
class Scored:
    """One scenario's answers for a file.

    Attributes:
        rows: positions in the file of the rows of its surface, int64 [n].
        scores: task -> probabilities, float32 [n]. labels: task -> float64 [n]; no entry where the file has no label.
    """

    scenario: str
    rows: NDArray[np.int64]
    scores: dict[str, NDArray[np.float32]]
    labels: dict[str, NDArray[np.float64]]

    @property
    def metrics(self) -> dict[str, TaskMetrics]:
        return {task: task_metrics(label, self.scores[task]) for task, label in self.labels.items()}


def scenarios() -> list[Scenario]:
    """The example's four scenarios."""
    return [load_scenario(FOLDER / f"{name}.yaml") for names in OBJECTIVES.values() for name in names]


def surface(scenario: Scenario, rows: pa.Table) -> NDArray[np.int64]:
    """Positions of the rows of the scenario's surface."""
    if scenario.filter is None:
        return np.arange(rows.num_rows)
    return np.flatnonzero(scenario.filter.mask(rows).to_numpy(zero_copy_only=False))


def score_all(client: Client, data: Sequence[Scenario], rows: pa.Table) -> list[Scored]:
    """Scores every scenario's rows. Raises PredictError, and ExpressionError if the filter's column is absent."""
    results = []
    for scenario in data:
        mine = surface(scenario, rows)
        table = rows.take(mine)
        labels = {
            task.name: task.label.evaluate(table).cast(pa.float64()).to_numpy(zero_copy_only=False)
            for task in scenario.tasks
            if set(task.label.columns) <= set(rows.column_names)
        }
        scores = dict(client.predict_table(scenario.name, table, max_rows=1024))
        results.append(Scored(scenario.name, mine, scores, labels))
    return results


def per_scenario(results: Sequence[Scored]) -> Metrics:
    return {result.scenario: result.metrics for result in results}


def per_objective(results: Sequence[Scored]) -> Metrics:
    """Figures of each objective's tasks over the rows of all its surfaces."""
    named = {result.scenario: result for result in results}
    metrics: Metrics = {}
    for objective, names in OBJECTIVES.items():
        for task in dict.fromkeys(task for name in names for task in named[name].labels):
            parts = [named[name] for name in names if task in named[name].labels]
            labels = np.concatenate([part.labels[task] for part in parts])
            scores = np.concatenate([part.scores[task] for part in parts])
            metrics.setdefault(objective, {})[task] = task_metrics(labels, scores)
    return metrics


def score_table(results: Sequence[Scored], rows: int) -> pa.Table:
    """One row per row of the file, and a float32 column `objective.task` for each; null where nothing was predicted."""
    columns: dict[str, NDArray[np.float32]] = {}
    for objective, names in OBJECTIVES.items():
        for result in results:
            if result.scenario in names:
                for task, scores in result.scores.items():
                    column = columns.setdefault(f"{objective}.{task}", np.full(rows, np.nan, dtype=np.float32))
                    column[result.rows] = scores
    return pa.table({name: pa.array(column, mask=np.isnan(column)) for name, column in columns.items()})


def to_json(metrics: Metrics) -> dict[str, Any]:
    return {name: {task: m.to_json() for task, m in tasks.items()} for name, tasks in metrics.items()}


def report(title: str, metrics: Metrics) -> Table:
    """The figures as a table for the terminal."""
    numbers = ("rows", "label rate", "NE", "AUC", "calibration")
    rows = [
        [name, task, m.rows, m.label_rate, m.ne, m.auc, m.calibration]
        for name, tasks in metrics.items()
        for task, m in tasks.items()
    ]
    return table(title, ["name", "task", *numbers], rows, numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=FOLDER / "data" / "valid.parquet", help="parquet file of rows")
    parser.add_argument("--target", default="127.0.0.1:8500", help="host:port of the server")
    parser.add_argument("--output", type=Path, help="parquet file to write the scores to")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    arguments = parser.parse_args()
    try:
        rows = pq.read_table(arguments.data)
        with Client(arguments.target, timeout=60) as client:
            results = score_all(client, scenarios(), rows)
        if arguments.output is not None:
            pq.write_table(score_table(results, rows.num_rows), arguments.output)
    except (PredictError, ConfigError, ExpressionError, OSError, pa.ArrowException) as error:
        sys.exit(f"error: {error}")
    metrics = {"scenarios": per_scenario(results), "objectives": per_objective(results)}
    if arguments.json:
        print(json.dumps({key: to_json(tree) for key, tree in metrics.items()}, indent=1))
        return
    console = Console(width=max(Console().width, 110))
    console.print(report("by scenario", metrics["scenarios"]))
    console.print(report("by objective, all its surfaces", metrics["objectives"]))


if __name__ == "__main__":
    main()
