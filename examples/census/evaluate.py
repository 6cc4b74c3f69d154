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
from rich.console import Console
from rich.table import Table

from smt.serving.client import Client
from smt.serving.score import ScoreResult, score, with_files
from smt.training.metrics import TaskMetrics, task_metrics
from smt.training.scenario import Scenario, load_scenario

FOLDER = Path(__file__).resolve().parent
# The scenarios of one objective, surface by surface: together they score every row.
OBJECTIVES = {
    "income": ("income_workers", "income_others"),
    "education": ("education_workers", "education_others"),
}
Metrics = dict[str, dict[str, TaskMetrics]]  # scenario or objective -> task -> figures


def scenarios() -> list[Scenario]:
    """The example's four scenarios."""
    return [load_scenario(FOLDER / f"{name}.yaml") for names in OBJECTIVES.values() for name in names]


def score_all(client: Client, data: Sequence[Scenario], file: Path) -> list[ScoreResult]:
    """Scores the file's rows with every scenario, each the rows of its surface."""
    return [score(client, with_files(scenario, [file]), max_rows=1024) for scenario in data]


def per_scenario(results: Sequence[ScoreResult]) -> Metrics:
    return {result.scenario: result.metrics for result in results}


def per_objective(results: Sequence[ScoreResult]) -> Metrics:
    """Figures of each objective's tasks over the rows of all its surfaces."""
    named = {result.scenario: result for result in results}
    metrics: Metrics = {}
    for objective, names in OBJECTIVES.items():
        for task in dict.fromkeys(task for name in names for task in named[name].scores):
            parts = [named[name] for name in names if task in named[name].scores]
            labels = np.concatenate([part.labels[task] for part in parts])
            scores = np.concatenate([part.scores[task] for part in parts])
            metrics.setdefault(objective, {})[task] = task_metrics(labels, scores)
    return metrics


def to_json(metrics: Metrics) -> dict[str, Any]:
    return {name: {task: m.to_json() for task, m in tasks.items()} for name, tasks in metrics.items()}


def report(scenarios: Metrics, objectives: Metrics) -> Table:
    """The figures as a table for the terminal."""
    table = Table("scenario", "task", "rows", "label rate", "NE", "AUC", "calibration", min_width=90)
    for title, metrics in (("", scenarios), (", all rows", objectives)):
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
    with Client(arguments.target, timeout=60) as client:
        results = score_all(client, scenarios(), arguments.data)
    metrics = {"scenarios": per_scenario(results), "objectives": per_objective(results)}
    if arguments.json:
        print(json.dumps({key: to_json(tree) for key, tree in metrics.items()}, indent=1))
    else:
        Console().print(report(**metrics))


if __name__ == "__main__":
    main()
