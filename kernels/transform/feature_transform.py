"""The transformation as Python sees it: a thin layer over the C++ implementation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smt.kernels.transform._transform import FeatureSpec, SpecError
from smt.kernels.transform.columns import RawColumn, StringValues


@dataclass(frozen=True, slots=True)
class InputInfo:
    """A raw column that the features of a spec read."""

    name: str
    type: str
    """"number" (float32, float64 or int64 columns), "int" (int64) or "string"."""
    required: bool
    multi_valued: bool
    """Whether a row may hold more than one value."""


@dataclass(frozen=True, slots=True, eq=False)
class TransformedBatch:
    """The template's inputs for `rows` candidates.

    dense: float32 [rows, dense_slots]; slots without a feature are 0.
    ids: int64 [n], table rows, bag after bag. offsets: int64 [bags + 1], offsets[-1] == n, bags >= 2; bag 0 is empty.
    bag_index: int64 [rows, categorical_slots], each row's bag of each slot; slots without a feature point to bag 0.
    Bags follow the spec's order of categorical features: one per row, or a single one for a feature that was sent as
    context or not at all.
    """

    rows: int
    dense: NDArray[np.float32]
    ids: NDArray[np.int64]
    offsets: NDArray[np.int64]
    bag_index: NDArray[np.int64]


class FeatureTransform:
    """Applies a fitted FeatureSpec to raw columns. Immutable, so one object may be used by many threads.

    `spec` is the FeatureSpec as a mapping or as its JSON text; `reference.py` specifies its meaning.
    Raises SpecError (a ValueError) naming the feature and key that are wrong.
    """

    def __init__(self, spec: Mapping[str, Any] | str) -> None:
        if not isinstance(spec, str):
            try:
                spec = json.dumps(spec, ensure_ascii=False, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise SpecError(f"feature spec: cannot be written as JSON: {error}") from error
        try:
            utf8 = spec.encode()
        except UnicodeEncodeError as error:
            raise SpecError(f"feature spec: not valid Unicode: {error}") from error
        self._spec = FeatureSpec(utf8)
        self.inputs: tuple[InputInfo, ...] = tuple(InputInfo(*info) for info in self._spec.inputs())

    @property
    def dense_slots(self) -> int:
        """Width of the dense input."""
        return self._spec.dense_slots

    @property
    def categorical_slots(self) -> int:
        """Number of categorical slots."""
        return self._spec.categorical_slots

    @property
    def table_rows(self) -> int:
        """Rows of all categorical features' ranges together."""
        return self._spec.table_rows

    def apply(
        self,
        rows: int,
        candidates: Sequence[RawColumn],
        context: Sequence[RawColumn] = (),
        *,
        local_ids: bool = False,
        max_rows: int = 1 << 20,
        max_list: int = 1 << 16,
    ) -> TransformedBatch:
        """Validates every column and transforms it; the GIL is released meanwhile.

        candidates: columns of `rows` rows. context: columns of one row, shared by all candidates.
        local_ids: ids count from 0 in each feature's own table (training) instead of in the pool (serving).
        max_rows, max_list: largest number of rows, and of values in one row, that are accepted.
        Raises InputError (a ValueError): "feature 'NAME': what was found; what is expected".
        """
        arrays = self._spec.apply(
            rows, [_native(c) for c in context], [_native(c) for c in candidates], max_rows, max_list, local_ids
        )
        return TransformedBatch(rows, *arrays)


def _native(
    column: RawColumn,
) -> tuple[bytes, NDArray[Any], NDArray[np.uint8] | None, NDArray[np.int32] | None]:
    name = column.name.encode(errors="backslashreplace")  # a lone surrogate is not a feature, and is reported so
    if isinstance(column.values, StringValues):
        return name, column.values.offsets, column.values.data, column.lengths
    return name, column.values, None, column.lengths
