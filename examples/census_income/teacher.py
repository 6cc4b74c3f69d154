"""A teacher for Census-Income, and the training rows that it labels.

    python -m examples.census_income.teacher --output build/census_income

Two boosted ensembles (LightGBM) for each task, one that splits by the words themselves and one that splits by what the
label is on average for a word and, where that helps, for values of two features or three (means.py); the teacher is
their mean logit. Trees follow jumps that a small network does not find by itself in so few rows; so the teacher labels
rows for it (distillation, arXiv 1503.02531): the training rows, and rows with features of two of them. The teacher
knows training rows only; the validation split chose its settings, and decides how many trees it has.

Writes train.parquet (labels: probabilities), valid.parquet, and teacher.json, its figures.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from examples.census_income.means import Means, combinations, out_of_fold
from examples.census_income.rows import DATA, TASKS, Encoded, Encoder, labels, read, swapped, words
from smt.training.metrics import task_metrics

_COMMON = {
    "objective": "binary",
    "metric": "binary_logloss",
    "learning_rate": 0.05,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 10.0,
    "verbosity": -1,
    "deterministic": True,
    "force_row_wise": True,
}
BY_WORDS = {"num_leaves": 24, "min_data_in_leaf": 40, "feature_fraction": 0.4, "cat_smooth": 20, "cat_l2": 20}
BY_MEANS = {"num_leaves": 16, "min_data_in_leaf": 50, "feature_fraction": 0.3}
COMBINED = ("never_married",)  # tasks for which means over two features or three help; with few positives they do not
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Settings:
    """What the teacher is, and what it labels: the training rows `repeats` times, and `drawn` swapped ones.

    Validation rows are of the kind of the training rows, which would be few among the swapped if not repeated.
    """

    seed: int = 1
    folds: int = 8
    max_trees: int = 1500
    patience: int = 50
    repeats: int = 3
    drawn: int = 800_000
    most: float = 0.3
    threads: int = 1


class TaskTeacher:
    """The mean logit of the two ensembles for one task."""

    def __init__(
        self,
        encoder: Encoder,
        train: Encoded,
        y: NDArray[np.float64],
        valid: Encoded,
        y_valid: NDArray[np.float64],
        by: list[tuple[int, ...]],
        settings: Settings,
    ) -> None:
        self._words = len(encoder.names) - train.numbers.shape[1]
        self._threads = settings.threads
        rng = np.random.default_rng(settings.seed)
        singles: list[tuple[int, ...]] = [(feature,) for feature in range(self._words)]
        self._single, self._combined = (Means(train.ids, y, encoder.sizes, groups) for groups in (singles, by))
        unseen = out_of_fold(train.ids, y, encoder.sizes, by, settings.folds, rng)
        self.train_features = [
            self._by_words(train),
            np.concatenate([self._single(train.ids), unseen, train.numbers], axis=1),
        ]
        self.models = []
        for features, measured, more in zip(self.train_features, self._features(valid), self._kinds(), strict=True):
            data = lgb.Dataset(features, y, categorical_feature=more.pop("categorical_feature", []))
            self.models.append(
                lgb.train(
                    {**_COMMON, **more, "seed": settings.seed, "num_threads": settings.threads},
                    data,
                    num_boost_round=settings.max_trees,
                    valid_sets=[data.create_valid(measured, y_valid)],
                    callbacks=[lgb.early_stopping(settings.patience, verbose=False)],
                )
            )

    def __call__(self, rows: Encoded) -> Floats:
        """[n] probabilities."""
        return self._mean(self._features(rows))

    def of_training_rows(self) -> Floats:
        """[n] probabilities of the training rows, by the means that the trees learnt from."""
        return self._mean(self.train_features)

    def _kinds(self) -> list[dict[str, Any]]:
        return [{**BY_WORDS, "categorical_feature": list(range(self._words))}, dict(BY_MEANS)]

    def _by_words(self, rows: Encoded) -> Floats:
        return np.concatenate([rows.ids[:, : self._words].astype(np.float32), rows.numbers], axis=1)

    def _features(self, rows: Encoded) -> list[Floats]:
        means = [self._single(rows.ids), self._combined(rows.ids)]
        return [self._by_words(rows), np.concatenate([*means, rows.numbers], axis=1)]

    def _mean(self, features: list[Floats]) -> Floats:
        pairs = zip(self.models, features, strict=True)
        logits = [np.asarray(m.predict(x, raw_score=True, num_threads=self._threads)) for m, x in pairs]
        probabilities: Floats = (1 / (1 + np.exp(-np.mean(logits, axis=0)))).astype(np.float32)
        return probabilities


def run(data: Path, output: Path, settings: Settings) -> dict[str, Any]:
    """Writes the output folder; returns the content of teacher.json.

    Raises:
        OSError, pyarrow.ArrowException, KeyError: a split cannot be read.
    """
    started = time.monotonic()
    train, valid = (read(data / f"{split}.parquet") for split in ("train", "valid"))
    encoder = Encoder(train)
    train_rows, valid_rows = encoder(train), encoder(valid)
    drawn = swapped(train, settings.drawn, settings.most, np.random.default_rng((settings.seed, 1)))
    drawn_rows = encoder(drawn)
    y, y_valid = labels(train), labels(valid)
    repeated = [train.select(drawn.column_names)] * settings.repeats
    table = pa.concat_tables([*repeated, drawn], promote_options="default")
    figures, trees = {}, {}
    for task, (name, column) in enumerate(TASKS.items()):
        by = combinations(encoder.names) if name in COMBINED else []
        teacher = TaskTeacher(encoder, train_rows, y[:, task], valid_rows, y_valid[:, task], by, settings)
        said = np.concatenate([*[teacher.of_training_rows()] * settings.repeats, teacher(drawn_rows)])
        table = table.append_column(column, pa.array(said))
        figures[name] = task_metrics(y_valid[:, task], teacher(valid_rows)).to_json()
        trees[name] = [model.best_iteration for model in teacher.models]
    output.mkdir(parents=True, exist_ok=True)
    pq.write_table(_plain(table), output / "train.parquet")
    pq.write_table(_plain(valid), output / "valid.parquet")
    content = {
        "settings": asdict(settings),
        "trees": trees,
        "valid": figures,
        "rows": table.num_rows,
        "seconds": round(time.monotonic() - started, 1),
    }
    (output / "teacher.json").write_text(json.dumps(content, indent=1) + "\n")
    return content


def _plain(table: pa.Table) -> pa.Table:
    """Words as strings; parquet makes dictionaries of them itself."""
    for name in words(table):
        table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.large_string()))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with train.parquet and valid.parquet")
    parser.add_argument("--output", type=Path, default=Path("build/census_income"), help="folder to write")
    parser.add_argument("--threads", type=int, default=1, help="of LightGBM")
    arguments = parser.parse_args()
    try:
        content = run(arguments.data, arguments.output, Settings(threads=arguments.threads))
    except (OSError, pa.ArrowException, KeyError) as error:
        sys.exit(f"error: {error}")
    for task, figures in content["valid"].items():
        print(f"teacher on valid, {task}: AUC {figures['auc']:.5f}, NE {figures['ne']:.5f}")


if __name__ == "__main__":
    main()
