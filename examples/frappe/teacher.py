"""A teacher for Frappe_x1, and the training rows that it labels.

    python -m examples.frappe.teacher --data DIR --output build/frappe

Statistics of the training positives (statistics.py) tell well who uses what, but they are tables of millions of
numbers; what is served is ten embeddings and a small network. So trees learn from the statistics, out of fold, and then
label rows, those of the training split and contexts of it with other apps, for the network to learn from (distillation,
arXiv 1503.02531). The teacher knows training rows only; the validation split decides how many trees it has. The test
split is copied, not looked at.

Writes train.parquet (label: the teacher's probability), valid.parquet, test.parquet, and teacher.json, its figures.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from examples.frappe.candidates import likely_apps, unused_apps
from examples.frappe.rows import FILES, Labelled, Rows, read, write
from examples.frappe.statistics import NAMES, Floats, Statistics, out_of_fold
from smt.training.metrics import TaskMetrics, task_metrics

TREES = {
    "objective": "binary",
    "learning_rate": 0.03,
    "num_leaves": 31,
    "min_data_in_leaf": 60,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "feature_fraction": 0.5,
    "lambda_l2": 5.0,
    "metric": ["auc", "binary_logloss"],
    "first_metric_only": True,
    "verbosity": -1,
    "deterministic": True,
    "force_row_wise": True,
}
_BATCH = 100_000  # rows whose features are in memory at a time


@dataclass(frozen=True)
class Settings:
    """What the teacher is, and what it labels: training rows `repeats` times, and apps drawn for each positive.

    Validation rows are of the kind of the training rows, which would be a minority if they were not repeated.
    """

    seed: int = 1
    folds: int = 10
    models: int = 2
    max_trees: int = 1500
    patience: int = 60
    repeats: int = 2
    unused: int = 3
    likely: int = 4
    threads: int = 1


class Teacher:
    """The mean logit of several boosted ensembles (LightGBM) on statistics of all training positives."""

    def __init__(self, statistics: Statistics, models: Sequence[lgb.Booster], threads: int) -> None:
        self.statistics = statistics
        self.models = models
        self.threads = threads

    def __call__(self, rows: Rows) -> NDArray[np.float32]:
        """[n] probabilities."""
        parts = [self._logits(rows[first : first + _BATCH]) for first in range(0, len(rows), _BATCH)]
        logits = np.concatenate(parts) if parts else np.empty(0)
        return (1 / (1 + np.exp(-logits))).astype(np.float32)

    def _logits(self, rows: Rows) -> NDArray[np.float64]:
        features = self.statistics.features(rows)
        logits = [model.predict(features, raw_score=True, num_threads=self.threads) for model in self.models]
        mean: NDArray[np.float64] = np.asarray(logits, dtype=np.float64).mean(axis=0)
        return mean


def fit_teacher(train: Labelled, valid: Labelled, settings: Settings) -> Teacher:
    """Trains the ensembles on out-of-fold features of `train`; each stops where its AUC on `valid` is best."""
    rng = np.random.default_rng(settings.seed)
    features, labels = _training_set(train, settings.folds, rng)
    statistics = Statistics(train.positives)
    dataset = lgb.Dataset(features, labels, feature_name=list(NAMES), free_raw_data=False)
    measured = dataset.create_valid(statistics.features(valid.rows), valid.labels)
    models = []
    for seed in range(settings.models):
        models.append(
            lgb.train(
                {**TREES, "seed": settings.seed + seed, "num_threads": settings.threads},
                dataset,
                settings.max_trees,
                valid_sets=[measured],
                callbacks=[lgb.early_stopping(settings.patience, first_metric_only=True, verbose=False)],
            )
        )
    return Teacher(statistics, models, settings.threads)


def _training_set(train: Labelled, folds: int, rng: np.random.Generator) -> tuple[Floats, NDArray[np.float32]]:
    features: list[Floats] = []
    labels: list[NDArray[np.float32]] = []
    for positive, negative in out_of_fold(train.positives, train.negatives, folds, rng):
        features += [positive, negative]
        labels += [np.ones(len(positive), dtype=np.float32), np.zeros(len(negative), dtype=np.float32)]
    return np.concatenate(features), np.concatenate(labels)


def labelled_rows(teacher: Teacher, train: Labelled, settings: Settings) -> Labelled:
    """Training rows, repeated, and drawn ones, shuffled, with the teacher's labels."""
    rng = np.random.default_rng((settings.seed, 1))
    positives = teacher.statistics.positives
    drawn = [unused_apps(positives, settings.unused, rng), likely_apps(teacher.statistics, settings.likely, rng)]
    rows = rng.permutation(np.concatenate([*[train.rows] * settings.repeats, *drawn]))
    return Labelled(rows, teacher(rows))


def run(data: Path, output: Path, settings: Settings) -> TaskMetrics:
    """Writes the output folder; returns the teacher's figures on the validation split.

    Raises:
        OSError, ValueError: a split cannot be read.
    """
    started = time.monotonic()
    train, valid, test = (read(data / name) for name in FILES.values())
    teacher = fit_teacher(train, valid, settings)
    metrics = task_metrics(valid.labels, teacher(valid.rows))
    labelled = labelled_rows(teacher, train, settings)
    for name, split in (("train", labelled), ("valid", valid), ("test", test)):
        write(output / f"{name}.parquet", split)
    content = {
        "settings": asdict(settings),
        "trees": [model.best_iteration for model in teacher.models],
        "valid": metrics.to_json(),
        "rows": len(labelled.rows),
        "seconds": round(time.monotonic() - started, 1),
    }
    (output / "teacher.json").write_text(json.dumps(content, indent=1) + "\n")
    return metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {', '.join(FILES.values())}")
    parser.add_argument("--output", type=Path, default=Path("build/frappe"), help="folder to write")
    parser.add_argument("--threads", type=int, default=1, help="of LightGBM")
    arguments = parser.parse_args()
    try:
        metrics = run(arguments.data, arguments.output, Settings(threads=arguments.threads))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"teacher on valid: AUC {metrics.auc:.5f}, logloss {metrics.logloss:.5f}; wrote {arguments.output}")


if __name__ == "__main__":
    main()
