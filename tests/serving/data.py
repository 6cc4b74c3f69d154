"""A small data set with a learnable label, its scenario YAML, and a trained run of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.serving.support import TEMPLATE_YAML

# At most 40 lines are all that a new scenario takes.
SHOP_YAML = """
scenario: shop
template: template.yaml
data: {train: train.parquet, valid: valid.parquet, filter: country != 'XX'}
features:
  - {inputs: [price], type: number, dense: [log, normalise]}
  - {inputs: [price], name: price_bucket, type: number, encode: {bucketise: {quantiles: 5}}}
  - {inputs: [country], type: string, encode: vocabulary}
  - {inputs: [seller], type: int, encode: {hash: 40}}
  - {inputs: [tags], type: string, encode: {hash: 60}, multi_valued: true, max_length: 3, required: false}
tasks:
  - {name: bought, label: clicks > 2}
  - {name: returned, label: sent_back}
"""


def shop_rows(count: int, seed: int) -> pa.Table:
    """Rows whose price and country decide the labels, noise apart; prices are sometimes missing."""
    random = np.random.default_rng(seed)
    price = random.lognormal(2, 1, count)
    country = random.choice(["DE", "AT", "日本", "XX"], count)
    signal = np.log(price) - 2 + 1.5 * (country == "DE")
    missing = random.random(count) < 0.05
    returned = random.random(count) < 0.2 + 0.3 * (country == "AT")
    return pa.table(
        {
            "price": pa.array(price, mask=missing),
            "country": country,
            "seller": random.integers(0, 1000, count),
            "tags": [[f"t{tag}" for tag in random.integers(0, 50, random.integers(0, 5))] for _ in range(count)],
            "clicks": (2 + signal + random.normal(0, 0.5, count)).round().astype(np.int64),
            "sent_back": pa.array(returned, mask=random.random(count) < 0.1),
        }
    )


def write_shop(folder: Path) -> Path:
    """Template, data and scenario in one folder; returns the scenario's YAML."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "template.yaml").write_text(TEMPLATE_YAML)
    pq.write_table(shop_rows(2000, 1), folder / "train.parquet", row_group_size=700)
    pq.write_table(shop_rows(600, 2), folder / "valid.parquet")
    path = folder / "shop.yaml"
    path.write_text(SHOP_YAML)
    return path
