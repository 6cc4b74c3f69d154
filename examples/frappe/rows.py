"""Rows of Frappe_x1: ten context fields with ids of one space, and a label.

Data: Baltrunas et al., arXiv 1505.03014, in the split of BARS (Frappe_x1). For research only, and not to be
redistributed: it is read where it lies, and what is made of it is written under build/.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

# Fields in the order of the ids, and how many values each has: value v of a field has the id (sizes before it) + v.
SIZES = {
    "user": 957,
    "item": 4082,
    "daytime": 7,
    "weekday": 7,
    "isweekend": 2,
    "homework": 3,
    "cost": 2,
    "weather": 9,
    "country": 80,
    "city": 233,
}
FIELDS = tuple(SIZES)
USER, ITEM = FIELDS.index("user"), FIELDS.index("item")
_FIRST_IDS = np.cumsum([0, *SIZES.values()])[:-1]
FILES = {"train": "train_rebuilt.parquet", "valid": "valid.parquet", "test": "test.parquet"}

Rows = NDArray[np.int64]  # [n, 10], the values of FIELDS, each field's from 0


@dataclass(frozen=True)
class Labelled:
    """Rows [n, 10] and their labels [n], float32: 0 and 1, or what a teacher says."""

    rows: Rows
    labels: NDArray[np.float32]

    @property
    def positives(self) -> Rows:
        rows: Rows = self.rows[self.labels == 1]
        return rows

    @property
    def negatives(self) -> Rows:
        rows: Rows = self.rows[self.labels == 0]
        return rows


def read(path: Path) -> Labelled:
    """Reads one split.

    Raises:
        ValueError: a column is missing, or a value is outside of its field.
    """
    table = pq.read_table(path)
    if missing := {"label", *FIELDS} - set(table.column_names):
        raise ValueError(f"{path}: found no column {', '.join(sorted(missing))}; expected label, {', '.join(FIELDS)}")
    rows = np.stack([table[name].to_numpy().astype(np.int64) for name in FIELDS], axis=1) - _FIRST_IDS
    for field, (name, size) in enumerate(SIZES.items()):
        low, high = rows[:, field].min(initial=0), rows[:, field].max(initial=0)
        if low < 0 or high >= size:
            first = int(_FIRST_IDS[field])
            found = f"{name} from {low + first} to {high + first}"
            raise ValueError(f"{path}: found {found}; expected ids from {first} to {first + size - 1}")
    return Labelled(rows, table["label"].to_numpy().astype(np.float32))


def write(path: Path, data: Labelled) -> None:
    """Writes a split with the ids that it was read with, creating the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = data.rows + _FIRST_IDS
    pq.write_table(pa.table({"label": data.labels, **{name: ids[:, i] for i, name in enumerate(FIELDS)}}), path)
