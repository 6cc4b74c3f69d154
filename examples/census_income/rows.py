"""Rows of Census-Income: 31 words and 7 numbers of a person, and two labels.

Data: bundled with the example beside this one, see its ATTRIBUTION.md. `marital_stat` is the second label in words, and
is no feature.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

DATA = Path(__file__).resolve().parent.parent / "census" / "data"
TASKS = {"income": "label_income", "never_married": "label_never_married"}
NUMERIC = (
    "age",
    "wage_per_hour",
    "capital_gains",
    "capital_losses",
    "dividends_from_stocks",
    "num_persons_worked_for_employer",
    "weeks_worked_in_year",
)
_BINNED = NUMERIC[1:5]  # amounts, mostly 0; the others have few values, which are their own bins
_BINS = 16


def read(file: Path) -> pa.Table:
    """The features, words as dictionaries, and the labels."""
    table = pq.read_table(file).drop_columns(["marital_stat"])
    columns = [
        table[name].dictionary_encode() if pa.types.is_large_string(table[name].type) else table[name]
        for name in table.column_names
    ]
    return pa.table(columns, names=table.column_names)


def words(table: pa.Table) -> list[str]:
    """Names of the columns of words."""
    return [name for name in table.column_names if pa.types.is_dictionary(table[name].type)]


def labels(table: pa.Table) -> NDArray[np.float64]:
    """[n, tasks], in the order of TASKS."""
    return np.stack([table[name].to_numpy().astype(np.float64) for name in TASKS.values()], axis=1)


def swapped(table: pa.Table, count: int, most: float, rng: np.random.Generator) -> pa.Table:
    """Features of `count` drawn rows, in each of which a share of them is that of another drawn row.

    The share is uniform in 0..most for each row: some are nearly real, and some tell what features do by themselves.
    """
    one, other = (rng.integers(0, table.num_rows, count) for _ in range(2))
    share = rng.uniform(0, most, count)
    columns = {
        name: table[name].take(pa.array(np.where(rng.random(count) < share, other, one)))
        for name in table.column_names
        if name not in TASKS.values()
    }
    return pa.table(columns)


@dataclass(frozen=True)
class Encoded:
    """Features as numbers: ids [n, 38] int64, those of words first, 0 for an unknown one; numbers [n, 7] float32."""

    ids: NDArray[np.int64]
    numbers: NDArray[np.float32]


class Encoder:
    """Ids of words, and bins of numbers, as the training rows have them.

    names: of the columns of `Encoded.ids`; sizes: how many ids each has.
    """

    def __init__(self, train: pa.Table) -> None:
        self._words = {name: train[name].unique().cast(pa.large_string()) for name in words(train)}
        self._edges = {name: _edges(train[name].to_numpy(), name in _BINNED) for name in NUMERIC}
        self.names = [*self._words, *NUMERIC]
        self.sizes = [len(known) + 1 for known in self._words.values()]
        self.sizes += [len(edges) + 1 for edges in self._edges.values()]

    def __call__(self, table: pa.Table) -> Encoded:
        ids = [
            pc.fill_null(pc.index_in(table[name].cast(pa.large_string()), known), -1).to_numpy() + 1
            for name, known in self._words.items()
        ]
        ids += [np.searchsorted(edges, table[name].to_numpy(), side="right") for name, edges in self._edges.items()]
        numbers = [table[name].to_numpy().astype(np.float32) for name in NUMERIC]
        return Encoded(np.stack(ids, axis=1).astype(np.int64), np.stack(numbers, axis=1))


def _edges(values: NDArray[np.number], binned: bool) -> NDArray[np.number]:
    """Where bins begin: at each value, or at quantiles of those above 0."""
    if not binned:
        return np.unique(values)
    return np.unique(np.quantile(values[values > 0], np.arange(_BINS) / _BINS))
