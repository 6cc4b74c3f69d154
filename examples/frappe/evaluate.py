"""Trains the scenario from several seeds, scores the benchmark's test split, and writes both as a result file.

    python -m examples.frappe.teacher --data DIR --output build/frappe
    python -m examples.frappe.evaluate --json bench/results/quality_frappe.json

Each run keeps the epoch that is best on the validation split; the test split is scored once, by the kept weights, with
the function that the template binary computes.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from bench.result import Result
from examples.seeds import add_means, conclude, with_seed
from smt.kernels.transform import FeatureTransform, columns_from_arrow
from smt.serving.binary import batch_inputs
from smt.serving.snapshot import read_weights
from smt.training.metrics import TaskMetrics, task_metrics
from smt.training.model import flops_per_row, serving_function
from smt.training.run import TrainResult
from smt.training.scenario import Scenario, load_scenario
from smt.training.trainer import train

FOLDER = Path(__file__).resolve().parent
TASK = "used"
STATEMENT = (
    "training negatives re-drawn; valid and test official; distilled from a teacher that uses train-only statistics"
)
_ROWS = 8192


def score(scenario: Scenario, run: TrainResult, file: Path) -> TaskMetrics:
    """Figures of a run's exported weights on the rows of a file, in fp32."""
    weights = read_weights(run.weights)
    transform = FeatureTransform(json.loads(run.features.read_bytes()))
    function = serving_function(scenario.template).eval()
    labels, scores = [], []
    for batch in pq.ParquetFile(file).iter_batches(_ROWS):
        columns = columns_from_arrow(batch, scenario.inputs, transform.inputs)
        with torch.no_grad():
            found = function(weights.slab, weights.table, *batch_inputs(transform.apply(batch.num_rows, columns)))
        scores.append(found[:, 0].numpy())
        labels.append(batch.column("label").to_numpy())
    return task_metrics(np.concatenate(labels), np.concatenate(scores))


def evaluate(scenario: Scenario, data: Path, runs: Path, seeds: Sequence[int], result: Result) -> None:
    """Adds a row for each seed, the teacher's figures, and the targets.

    Raises:
        ConfigError, DataError, TrainingError, SnapshotError, OSError: data or training is not as it has to be.
    """
    teacher = json.loads((data / "teacher.json").read_text())
    result.extra = {
        "statement": STATEMENT,
        "template": {"dim": scenario.template.slots.dim, "flops_per_row": flops_per_row(scenario.template)},
        "teacher": {"settings": teacher["settings"], "valid": teacher["valid"]},
    }
    for seed in seeds:
        seeded = with_seed(scenario, seed)
        run = train(seeded, runs / f"seed{seed}")
        row: dict[str, Any] = {"seed": seed, "epoch": run.epoch, "seconds": round(run.seconds, 1)}
        test = score(seeded, run, data / "test.parquet")
        for split, metrics in (("valid", run.metrics[TASK]), ("test", test)):
            row |= {f"{split}_auc": metrics.auc, f"{split}_logloss": metrics.logloss, f"{split}_ne": metrics.ne}
        result.results.append(row)
        print(json.dumps(row), flush=True)
    mean = add_means(result, [name for name in result.results[0] if name.startswith(("valid_", "test_"))])
    over = f"mean of {len(seeds)} seeds, chosen on valid"
    result.target("frappe-auc", f"test AUC on Frappe_x1, {over}", mean["test_auc"], ">=", 0.9870)
    result.target("frappe-logloss", f"test logloss on Frappe_x1, {over}", mean["test_logloss"], "<=", 0.1300)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", type=Path, default=FOLDER / "app_usage.yaml")
    parser.add_argument("--runs", type=Path, default=Path("build/runs/frappe"), help="folder of the run directories")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--json", type=Path, help="result file to write")
    arguments = parser.parse_args()
    result = Result("quality_frappe")

    def run() -> None:
        scenario = load_scenario(arguments.scenario)
        data = scenario.files("valid")[0].parent
        evaluate(scenario, data, arguments.runs, arguments.seeds, result)

    conclude(result, run, arguments.json)


if __name__ == "__main__":
    main()
