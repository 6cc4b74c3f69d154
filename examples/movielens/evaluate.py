"""Trains the three scenarios and their control from several seeds, and writes their quality as a result file.

    python -m examples.movielens.teacher --data DIR --output build/movielens
    python -m examples.movielens.evaluate --json bench/results/quality_movielens.json

The control is one shared multi-layer perceptron for all age groups, with the group as a feature, on the same training
rows with their own labels. Every run keeps the epoch that is best on the validation split, and the figures are of that
split: the test rows are held back, and scored through the server (score.py).
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bench.result import Result
from examples.movielens.rows import SCENARIOS
from examples.seeds import add_means, conclude, with_seed
from smt.training.metrics import TaskMetrics, task_metrics
from smt.training.model import flops_per_row
from smt.training.reading import iter_batches
from smt.training.run import RunPaths, TrainResult
from smt.training.scenario import Scenario, load_scenario
from smt.training.trainer import train

FOLDER = Path(__file__).resolve().parent
STATEMENT = (
    "the split is ours, as the published one is not public; figures on valid, which chose the epochs too; test rows "
    "held back; distilled from a teacher that uses train ratings only; the control has the same train rows, with their "
    "own labels"
)
Scored = tuple[NDArray[np.float32], NDArray[np.float32]]  # labels and probabilities, each [rows]


def scored(scenario: Scenario, run: TrainResult) -> Scored:
    """Validation labels of a scenario and what the kept weights of its run predict for them."""
    labels = np.concatenate([batch.labels[:, 0] for batch in iter_batches(scenario, "valid")])
    return labels, np.load(RunPaths(run.run_dir).predictions)[:, 0]


def figures(parts: Sequence[Scored]) -> dict[str, TaskMetrics]:
    """Of each age group's rows, in the order of SCENARIOS, and of all of them together."""
    labels, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
    found = {name: task_metrics(*part) for name, part in zip(SCENARIOS, parts, strict=True)}
    return {"all": task_metrics(labels, scores), **found}


def evaluate(
    scenarios: Sequence[Scenario], control: Scenario, runs: Path, seeds: Sequence[int], result: Result
) -> None:
    """Adds a row for each seed, then the targets.

    Raises:
        ConfigError, DataError, TrainingError, OSError: data or training is not as it has to be.
    """
    [valid] = control.files("valid")
    group = pq.read_table(valid, columns=["scenario"])["scenario"].to_numpy()
    teacher = json.loads((valid.parent / "teacher.json").read_text())
    cost = {name: flops_per_row(each.template) for name, each in (("ours", scenarios[0]), ("control", control))}
    result.extra = {"statement": STATEMENT, "flops_per_row": cost, "teacher": teacher}
    for seed in seeds:
        row: dict[str, float | int] = {"seed": seed}
        parts, seconds = [], 0.0
        for scenario in scenarios:
            run = train(with_seed(scenario, seed), runs / f"{scenario.name}_seed{seed}")
            parts.append(scored(scenario, run))
            seconds += run.seconds
        run = train(with_seed(control, seed), runs / f"control_seed{seed}")
        labels, scores = scored(control, run)
        shared = [(labels[group == i], scores[group == i]) for i in range(len(SCENARIOS))]
        row |= {"seconds": round(seconds, 1), "control_seconds": round(run.seconds, 1), "control_epoch": run.epoch}
        for prefix, found in (("", figures(parts)), ("control_", figures(shared))):
            for name, metrics in found.items():
                assert metrics.auc is not None
                assert metrics.logloss is not None
                row |= {f"{prefix}{name}_auc": metrics.auc, f"{prefix}{name}_logloss": metrics.logloss}
        result.results.append(row)
        print(json.dumps(row), flush=True)
    mean = add_means(result, [name for name in result.results[0] if name.endswith(("_auc", "_logloss"))])
    over = f"valid, mean of {len(seeds)} seeds"
    result.target("movielens-auc", f"AUC over all, {over}", mean["all_auc"], ">=", 0.8180)
    for name in SCENARIOS:
        above = mean[f"{name}_auc"] - mean[f"control_{name}_auc"]
        result.target(f"movielens-{name}", f"AUC above the shared MLP's, {name}, {over}", above, ">=", 0.002)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("build/runs/movielens"), help="folder of the run directories")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--json", type=Path, help="result file to write")
    arguments = parser.parse_args()
    result = Result("quality_movielens")

    def run() -> None:
        scenarios = [load_scenario(FOLDER / f"{name}.yaml") for name in SCENARIOS]
        control = load_scenario(FOLDER / "control.yaml")
        evaluate(scenarios, control, arguments.runs, arguments.seeds, result)

    conclude(result, run, arguments.json)


if __name__ == "__main__":
    main()
