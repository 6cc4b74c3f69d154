"""A small template and synthetic data with a known signal, for the tests of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smt.training.scenario import Scenario, load_scenario

TEMPLATE = """\
template: small
version: 1.0.0
slots:
  dense: 4
  categorical: 6
  dim: 4
  pooling: mean
components:
  dense_arch: {type: mlp, units: [8]}
  interaction: {type: cross_low_rank, layers: 2, rank: 4}
  deep: {type: mlp, units: [16, 8]}
  experts: {type: mmoe, count: 2, units: [8]}
  heads: {type: tower, tasks: 3, units: [4]}
recipe:
  batch_size: 128
  epochs: 3
  seed: 7
  dropout: 0.1
  dense_optimizer: {type: adamw, lr: 0.005, weight_decay: 0.0001}
  embedding_optimizer: {type: rowwise_adagrad, lr: 0.1}
  lr_decay: cosine
  early_stopping: {patience: 5}
capacity:
  flops_per_row: 100000
  slab_bytes: 100000
"""

SCENARIO = """\
scenario: shop
template: template.yaml
data:
  train: train.parquet
  valid: valid.parquet
features:
  - {inputs: [price], type: number, dense: [log, normalise]}
  - {inputs: [age], type: number, dense: [normalise], default: 40}
  - {inputs: [age], name: "{input}_bucket", type: number, encode: {bucketise: {quantiles: 8}}}
  - {inputs: [country], type: string, encode: vocabulary}
  - {inputs: [user], type: int, encode: {hash: 50}}
  - {inputs: [genres], type: string, encode: vocabulary, multi_valued: true, max_length: 3}
tasks:
  - {name: click, label: clicked == 1}
  - {name: buy, label: bought, weight: 0.5}
"""

COUNTRIES = ["NL", "日本", "BR", "no", "Côte d'Ivoire"]
GENRES = ["drama", "comedy", "horror", "sci-fi"]


def synthetic(rows: int, seed: int) -> dict[str, Any]:
    """Rows whose click depends on price, country and genres, and whose purchase depends on age; with gaps."""
    rng = np.random.default_rng(seed)
    price = rng.lognormal(2, 1, rows)
    age = rng.integers(18, 80, rows)
    country = rng.integers(0, len(COUNTRIES), rows)
    genres = [rng.choice(len(GENRES), size=rng.integers(0, 4), replace=False) for _ in range(rows)]
    horror = np.array([2 in row for row in genres])
    click = 4 * (np.log(price) < 2) + 3.0 * (country % 2) + 3 * horror - 4 + rng.normal(0, 0.5, rows) > 0
    buy = (age > 50) ^ (rng.random(rows) < 0.05)
    bought = pa.array([None if rng.random() < 0.3 else int(value) for value in buy], pa.int8())
    return {
        "price": pa.array([None if rng.random() < 0.02 else value for value in price], pa.float64()),
        "age": pa.array([None if rng.random() < 0.02 else int(value) for value in age], pa.int16()),
        "country": pa.array([COUNTRIES[i] for i in country], pa.string()).dictionary_encode(),
        "user": pa.array(rng.integers(-5, 200, rows), pa.int64()),
        "genres": pa.array([[GENRES[i] for i in row] for row in genres], pa.list_(pa.string())),
        "clicked": pa.array(click.astype(np.int8)),
        "bought": bought,
        "row": pa.array(np.arange(rows), pa.int64()),
    }


def write_parquet(path: Path, columns: dict[str, Any], row_group_size: int = 1000) -> None:
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)


def replaced(text: str, changes: dict[str, str]) -> str:
    """The text with each key replaced by its value; every key must be there."""
    for old, new in changes.items():
        assert old in text, f"{old!r} is not in the text"
        text = text.replace(old, new, 1)
    return text


def make_scenario(
    folder: Path,
    scenario: dict[str, str] | None = None,
    template: dict[str, str] | None = None,
    *,
    train: dict[str, Any] | int = 3000,
    valid: dict[str, Any] | int = 1000,
) -> Scenario:
    """Writes template, scenario and data into a folder; `scenario` and `template` replace parts of the YAML texts."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "template.yaml").write_text(replaced(TEMPLATE, template or {}))
    (folder / "shop.yaml").write_text(replaced(SCENARIO, scenario or {}))
    write_parquet(folder / "train.parquet", synthetic(train, 1) if isinstance(train, int) else train)
    write_parquet(folder / "valid.parquet", synthetic(valid, 2) if isinstance(valid, int) else valid)
    return load_scenario(folder / "shop.yaml")
