"""Trains the scenarios of a synthetic ecosystem and writes how far each model is from the best possible one.

    python -m examples.synthetic.generate --output build/synthetic
    python -m examples.synthetic.evaluate --data build/synthetic --json bench/results/synthetic.json

The distance is NE of the model - NE of the true probabilities, on the same rows and labels, so that what labels do by
chance is in both. Test rows are scored once, by the epoch that was best on the validation rows, with the function that
the template binary computes. Several templates, such as those that development cycles have cut, are compared in order.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.result import Result
from examples.seeds import with_seed
from smt.kernels.transform import FeatureTransform
from smt.serving.binary import batch_inputs
from smt.serving.snapshot import SnapshotError, read_weights
from smt.training.config import ConfigError
from smt.training.fit import raw_columns
from smt.training.metrics import TaskMetrics
from smt.training.metrics import evaluate as measure
from smt.training.model import flops_per_row, serving_function
from smt.training.reading import DataError, iter_batches
from smt.training.run import TrainResult
from smt.training.scenario import Scenario, load_scenario
from smt.training.template import Template, load_template
from smt.training.trainer import TrainingError, train

_ROWS = 8192


def score_test(scenario: Scenario, run: TrainResult) -> dict[str, TaskMetrics]:
    """Figures of a run's exported weights, in fp32, on the rows of test.parquet beside the validation rows."""
    valid = scenario.data.valid[0]
    data = scenario.data.model_copy(update={"valid": [str(Path(valid).with_name("test.parquet"))]})
    weights = read_weights(run.weights)
    transform = FeatureTransform(json.loads(run.features.read_bytes()))
    function = serving_function(scenario.template).eval()
    labels, scores = [], []
    for batch in iter_batches(dataclasses.replace(scenario, data=data), "valid", batch_size=_ROWS):
        inputs = batch_inputs(transform.apply(batch.rows, list(raw_columns(scenario, batch).values())))
        with torch.no_grad():
            scores.append(function(weights.slab, weights.table, *inputs).numpy())
        labels.append(batch.labels)
    return measure([task.name for task in scenario.tasks], np.concatenate(labels), np.concatenate(scores))


def evaluate(data: Path, runs: Path, seeds: Sequence[int], templates: Sequence[Template], result: Result) -> None:
    """Adds a row for each template, scenario, seed and objective, and the mean distances of every template.

    Raises:
        ConfigError, DataError, TrainingError, SnapshotError, OSError: what is not as it has to be.
    """
    bayes: dict[str, Any] = json.loads((data / "bayes.json").read_text())
    means = []
    for number, template in enumerate(templates):
        rows: list[dict[str, Any]] = []
        for name, best in bayes.items():
            scenario = dataclasses.replace(load_scenario(data / f"{name}.yaml"), template=template)
            for seed in seeds:
                run = train(
                    with_seed(scenario, seed), runs / f"template{number}" / name / f"seed{seed}", progress=False
                )
                test = score_test(scenario, run)
                for task in test:
                    figures = {"valid": run.metrics[task], "test": test[task]}
                    row = {"template": template.version, "scenario": name, "task": task, "seed": seed}
                    rows.append(row | {"epoch": run.epoch} | distances(figures, best, task))
                    print(json.dumps(rows[-1]), flush=True)
        result.results += rows
        mean = {split: float(np.mean([row[f"{split}_distance"] for row in rows])) for split in ("valid", "test")}
        means.append({"template": template.version, "flops_per_row": flops_per_row(template), **mean})
    result.extra["mean_distance"] = means
    for before, after in pairwise(means):
        what = f"mean distance to the best possible model on test rows, template {after['template']}"
        result.target(f"closer-{after['template']}", what, after["test"], "<", before["test"])


def distances(figures: dict[str, TaskMetrics], best: dict[str, Any], task: str) -> dict[str, float]:
    """NE of the model and of the true probabilities, and their difference, by split.

    Raises:
        DataError: the rows are not those that `best`, a scenario's part of bayes.json, is of.
    """
    row: dict[str, float] = {}
    for split, metrics in figures.items():
        least = best[split][task]
        if (metrics.rows, metrics.positives) != (least["rows"], least["positives"]):
            found = f"{metrics.rows} {split} rows with {metrics.positives} of {task}"
            raise DataError(f"found {found}; expected those of bayes.json, {least['rows']} with {least['positives']}")
        assert metrics.ne is not None, "bayes.json is only written of rows with both labels"
        row |= {f"{split}_ne": metrics.ne, f"{split}_ne_bayes": least["ne"]}
        row[f"{split}_distance"] = metrics.ne - least["ne"]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("build/synthetic"), help="what generate wrote")
    parser.add_argument("--runs", type=Path, default=Path("build/runs/synthetic"), help="folder of the run directories")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument(
        "--templates", type=Path, nargs="+", help="template YAML files; template.yaml of the data if none"
    )
    parser.add_argument("--json", type=Path, help="result file to write")
    arguments = parser.parse_args()
    result = Result("synthetic")
    try:
        templates = [load_template(path) for path in arguments.templates or [arguments.data / "template.yaml"]]
        evaluate(arguments.data, arguments.runs, arguments.seeds, templates, result)
    except (ConfigError, DataError, TrainingError, SnapshotError, OSError) as error:
        sys.exit(f"error: {error}")
    for mean in result.extra["mean_distance"]:
        print("mean distance to the best possible model:", json.dumps(mean))
    result.print_targets()
    if arguments.json:
        result.write(arguments.json)


if __name__ == "__main__":
    main()
