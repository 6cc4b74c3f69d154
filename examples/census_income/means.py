"""Smoothed means of a label by the values of one feature or several (target encoding, doi 10.1145/507533.507538).

    mean(v) = (Σ y over rows with v + m b) / (count of v + m),   b the label's mean, m = SMOOTHING

A training row's own label is in the mean of its values. Where few rows share them, as values of two features or three,
rows to learn from are looked up in means of other rows (`out_of_fold`), as a validation row is.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SMOOTHING = 20.0
# Features that are taken two at a time, and some three.
PAIRED = (
    "age",
    "detailed_household_and_family_stat",
    "tax_filer_stat",
    "education",
    "detailed_occupation_recode",
    "detailed_industry_recode",
    "weeks_worked_in_year",
    "sex",
    "dividends_from_stocks",
    "capital_gains",
    "class_of_worker",
)
TRIPLES = (
    ("age", "sex", "detailed_household_and_family_stat"),
    ("age", "sex", "education"),
    ("age", "tax_filer_stat", "detailed_household_and_family_stat"),
    ("sex", "education", "detailed_occupation_recode"),
    ("age", "education", "detailed_occupation_recode"),
)
Ids = NDArray[np.int64]


def combinations(names: Sequence[str]) -> list[tuple[int, ...]]:
    """PAIRED by two, and TRIPLES, as positions in `names`."""
    groups: list[tuple[str, ...]] = [*itertools.combinations(PAIRED, 2), *TRIPLES]
    return [tuple(names.index(name) for name in group) for group in groups]


class Means:
    """Of the given rows: ids [n, features], labels [n]; `sizes`: how many ids each feature has."""

    def __init__(self, ids: Ids, labels: NDArray[np.float64], sizes: Sequence[int], by: list[tuple[int, ...]]) -> None:
        self._sizes, self._by = sizes, by
        self._base = float(labels.mean())
        self._tables = []
        for group in by:
            known, row = np.unique(self._key(ids, group), return_inverse=True)
            count, total = np.bincount(row), np.bincount(row, weights=labels)
            self._tables.append((known, (total + SMOOTHING * self._base) / (count + SMOOTHING)))

    def __call__(self, ids: Ids) -> NDArray[np.float32]:
        """[n, groups]; the base rate for values that no row had."""
        columns = [np.empty((len(ids), 0))]
        for group, (known, mean) in zip(self._by, self._tables, strict=True):
            key = self._key(ids, group)
            at = np.minimum(np.searchsorted(known, key), len(known) - 1)
            columns.append(np.where(known[at] == key, mean[at], self._base)[:, None])
        return np.concatenate(columns, axis=1).astype(np.float32)

    def _key(self, ids: Ids, group: tuple[int, ...]) -> Ids:
        key = np.zeros(len(ids), dtype=np.int64)
        for feature in group:
            key = key * self._sizes[feature] + ids[:, feature]
        return key


def out_of_fold(
    ids: Ids,
    labels: NDArray[np.float64],
    sizes: Sequence[int],
    by: list[tuple[int, ...]],
    folds: int,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """[n, groups]: each row by the means of the other folds' rows."""
    fold = rng.permutation(len(ids)) % folds
    result = np.empty((len(ids), len(by)), dtype=np.float32)
    for k in range(folds):
        mine = fold == k
        result[mine] = Means(ids[~mine], labels[~mine], sizes, by)(ids[mine])
    return result
