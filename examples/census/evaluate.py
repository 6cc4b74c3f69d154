"""Scores a file of Census-Income rows through a running server and reports quality over all rows.

    python -m examples.census.evaluate --data examples/census/data/valid.parquet --target 127.0.0.1:8500

Each row goes to the scenario of its surface (the scenario's own filter); a task's figures over all rows join the
scenarios that predict it. Columns that only labels need (see each scenario's YAML) must be in the file as well.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from smt.serving.client import Client
from smt.training.metrics import TaskMetrics, task_metrics
from smt.training.scenario import Scenario, load_scenario

FOLDER = Path(__file__).resolve().parent
# The scenarios of one objective, surface by surface: together they score every row.
OBJECTIVES = {
    "income": ("income_workers", "income_others"),
    "education": ("education_workers", "education_others"),
}
Metrics = dict[str, dict[str, TaskMetrics]]  # scenario or objective -> task -> figures
Scores = dict[str, dict[str, NDArray[np.float32]]]  # scenario -> task -> [rows of its surface]


def scenarios() -> list[Scenario]:
    """The example's four scenarios."""
    return [load_scenario(FOLDER / f"{name}.yaml") for names in OBJECTIVES.values() for name in names]


def rows_of(scenario: Scenario, rows: pa.Table) -> pa.Table:
    """The rows of the scenario's surface."""
    return rows if scenario.filter is None else rows.filter(scenario.filter.mask(rows))


def labels_of(scenario: Scenario, rows: pa.Table) -> dict[str, NDArray[np.float64]]:
    """Per task, float64 [rows] of 0, 1 and NaN (no label)."""
    return {
        task.name: task.label.evaluate(rows).cast(pa.float64()).to_numpy(zero_copy_only=False)
        for task in scenario.tasks
    }


def score(client: Client, data: Sequence[Scenario], rows: pa.Table) -> Scores:
    """Scores every scenario's rows."""
    return {
        scenario.name: dict(client.predict_table(scenario.name, rows_of(scenario, rows), max_rows=1024))
        for scenario in data
    }


def quality(data: Sequence[Scenario], rows: pa.Table, scores: Scores) -> tuple[Metrics, Metrics]:
    """Metrics per scenario, and per objective over the rows of all its surfaces."""
    per_scenario: Metrics = {}
    per_objective: Metrics = {}
    labels = {scenario.name: labels_of(scenario, rows_of(scenario, rows)) for scenario in data}
    for name, tasks in labels.items():
        per_scenario[name] = {task: task_metrics(label, scores[name][task]) for task, label in tasks.items()}
    for objective, names in OBJECTIVES.items():
        tasks_of_any = dict.fromkeys(task for name in names for task in labels[name])
        per_objective[objective] = {
            task: task_metrics(
                np.concatenate([labels[name][task] for name in names if task in labels[name]]),
                np.concatenate([scores[name][task] for name in names if task in labels[name]]),
            )
            for task in tasks_of_any
        }
    return per_scenario, per_objective


def to_json(metrics: Metrics) -> dict[str, Any]:
    return {name: {task: m.to_json() for task, m in tasks.items()} for name, tasks in metrics.items()}


def report(per_scenario: Metrics, per_objective: Metrics) -> Table:
    """The figures as a table for the terminal."""
    table = Table("scenario", "task", "rows", "label rate", "NE", "AUC", "calibration")
    for title, metrics in (("", per_scenario), (", all rows", per_objective)):
        for name, tasks in metrics.items():
            for task, m in tasks.items():
                figures = [m.label_rate, m.ne, m.auc, m.calibration]
                table.add_row(name + title, task, f"{m.rows:,}", *("-" if x is None else f"{x:.4f}" for x in figures))
            table.add_section()
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=FOLDER / "data" / "valid.parquet", help="parquet file of rows")
    parser.add_argument("--target", default="127.0.0.1:8500", help="host:port of the server")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    rows = pq.read_table(arguments.data)
    data = scenarios()
    with Client(arguments.target, timeout=60) as client:
        per_scenario, per_objective = quality(data, rows, score(client, data, rows))
    if arguments.json:
        trees = {"scenarios": per_scenario, "objectives": per_objective}
        print(json.dumps({key: to_json(metrics) for key, metrics in trees.items()}, indent=1))
    else:
        Console().print(report(per_scenario, per_objective))


if __name__ == "__main__":
    main()
