"""THE specification of the feature transformations, in plain Python: one value at a time, nothing clever.

    transform = ReferenceTransform(spec)  # a mapping that FeatureTransform accepts: only that one checks it
    batch = transform.apply(rows, candidates, context)

The C++ implementation gives the same ids, offsets, bag_index and dense values, to the bit (both take log1p from the C
library; on a platform where Python brings its own, a step `log` may differ by one unit in the last place of the
double), and the same messages. Only the hints at similar names after "unknown feature" are left out here.

Terms: an *input* is a raw column as sent; a *feature* is one use of an input, with its own slot of the template.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xxhash

from smt.kernels.transform._transform import InputError
from smt.kernels.transform.columns import RawColumn, StringValues
from smt.kernels.transform.feature_transform import InputInfo, TransformedBatch

MISSING_ROW = 0  # a feature's table range: [missing, unknown, value 0, value 1, ...]
UNKNOWN_ROW = 1
FIRST_VALUE_ROW = 2
DENSE_LIMIT = 1e6

Value = float | int | bytes
"""A raw value: number columns hold floats or ints, int columns ints, string columns UTF-8."""

Feature = Mapping[str, Any]


def dense_value(steps: Sequence[Mapping[str, Any]], raw: float) -> np.float32:
    """The steps in order, in double precision; then saturated and rounded to float32."""
    x = float(raw)
    for step in steps:
        if step["op"] == "log":
            x = math.copysign(math.log1p(abs(x)), x)
        elif step["op"] == "clip":
            x = min(max(x, float(step["low"])), float(step["high"]))
        elif step["op"] == "normalise":
            x = (x - float(step["mean"])) / float(step["std"])
    return np.float32(min(max(x, -DENSE_LIMIT), DENSE_LIMIT))


def local_row(encode: Mapping[str, Any], value: Value) -> int:
    """Row of a value within its feature's range of the table."""
    if encode["op"] == "vocabulary":
        values = [v.encode() if isinstance(v, str) else v for v in encode["values"]]
        return FIRST_VALUE_ROW + values.index(value) if value in values else UNKNOWN_ROW
    if encode["op"] == "bucketise":
        assert not isinstance(value, bytes)
        # The number of boundaries <= value. Ints are compared as doubles, as the boundaries are.
        return FIRST_VALUE_ROW + bisect_right([float(b) for b in encode["boundaries"]], float(value))
    assert not isinstance(value, float)
    data = value if isinstance(value, bytes) else struct.pack("<q", value)
    return FIRST_VALUE_ROW + xxhash.xxh3_64_intdigest(data, seed=encode.get("seed", 0)) % int(encode["size"])


class ReferenceTransform:
    """Same interface as FeatureTransform."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.dense_slots: int = spec["dense_slots"]
        self.categorical_slots: int = spec["categorical_slots"]
        self.table_rows: int = spec["table_rows"]
        self._features: Sequence[Feature] = spec["features"]
        readers = [reader for f in self._features for reader in _readers(f)]
        self.inputs = tuple(
            _input([reader for reader in readers if reader["input"] == name])
            for name in dict.fromkeys(reader["input"] for reader in readers)
        )

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
        """See FeatureTransform.apply."""
        if not 1 <= rows <= max_rows:
            raise InputError(f"rows: {rows}; expected 1..{max_rows}")
        lists = self._validate(rows, candidates, context, max_list)

        dense = np.zeros((rows, self.dense_slots), np.float32)
        ids: list[int] = []
        offsets = [0, 0]  # bag 0 is reserved and empty
        bag_index = np.zeros((rows, self.categorical_slots), np.int64)
        for feature in self._features:
            # One list of values per row, or a single one for all rows: sent as context, or not sent and so missing.
            values = lists.get(feature["input"], [[]])
            if feature["kind"] == "dense":
                column = [_dense(feature, row) for row in values]
                dense[:, feature["slot"]] = column if len(values) == rows else column * rows
                continue
            first_bag = len(offsets) - 1
            first_row = 0 if local_ids else feature["first_row"]
            for row in values:
                ids += [first_row + r for r in _bag(feature, row)]
                offsets.append(len(ids))
            for r in range(rows):
                bag_index[r, feature["slot"]] = first_bag + (r if len(values) == rows else 0)
        for feature in self._features:
            sequence = feature.get("sequence")
            if sequence is None:
                continue
            values = lists.get(sequence["input"], [[]])
            first_bag = len(offsets) - 1
            first_row = 0 if local_ids else feature["first_row"]
            length = sequence["length"]
            for row in values:
                for position in range(length):  # a bag of its own for each value; empty behind the last
                    ids += [first_row + local_row(feature["encode"], value) for value in row[position : position + 1]]
                    offsets.append(len(ids))
            for r in range(rows):
                start = first_bag + (r * length if len(values) == rows else 0)
                bag_index[r, sequence["slot"] : sequence["slot"] + length] = range(start, start + length)
        if len(offsets) == 2:  # embedding_bag in the template binary needs two bags
            offsets.append(0)
        return TransformedBatch(rows, dense, np.array(ids, np.int64), np.array(offsets, np.int64), bag_index)

    def _validate(
        self, rows: int, candidates: Sequence[RawColumn], context: Sequence[RawColumn], max_list: int
    ) -> dict[str, list[list[Value]]]:
        """The values of every row of every input that was sent."""
        known = {info.name: info for info in self.inputs}
        sent_as: dict[str, str] = {}
        lists: dict[str, list[list[Value]]] = {}
        for role, columns in (("context", context), ("candidate", candidates)):
            for column in columns:
                name = column.name
                if name not in known:
                    raise InputError(f"feature '{name}': unknown feature; ")
                if name in sent_as:
                    how = "sent twice" if sent_as[name] == role else "sent both as context and as candidate"
                    raise InputError(f"feature '{name}': {how}; expected once")
                _check_type(known[name], column)
                lists[name] = _rows_of(known[name], column, 1 if role == "context" else rows, role, max_list)
                sent_as[name] = role
        for info in self.inputs:
            if info.required and info.name not in sent_as:
                raise InputError(f"feature '{info.name}': not sent; expected it, it is required (type {info.type})")
        return lists


def _readers(feature: Feature) -> list[Feature]:
    """The feature and its sequence: what each demands of the input that it reads."""
    sequence = feature.get("sequence")
    if sequence is None:
        return [feature]
    return [feature, {**sequence, "type": feature["type"], "multi_valued": True}]


def _input(features: Sequence[Feature]) -> InputInfo:
    """What the features that read one input demand of it: always the strictest."""
    types = {f["type"] for f in features}
    return InputInfo(
        name=features[0]["input"],
        type="int" if "int" in types else types.pop(),
        required=any(f["required"] for f in features),
        multi_valued=all(f.get("multi_valued", False) for f in features),
    )


def _dense(feature: Feature, row: Sequence[Value]) -> np.float32:
    if row:
        assert not isinstance(row[0], bytes)
        return dense_value(feature["steps"], row[0])
    default = feature.get("default")
    return np.float32(0) if default is None else dense_value(feature["steps"], default)


def _bag(feature: Feature, row: Sequence[Value]) -> list[int]:
    if feature.get("multi_valued", False):
        return [local_row(feature["encode"], value) for value in row[: feature["max_length"]]]
    if row:
        return [local_row(feature["encode"], row[0])]
    default = feature.get("default")
    if default is None:
        return [MISSING_ROW]
    if feature["type"] == "number":
        default = float(default)
    return [local_row(feature["encode"], default.encode() if isinstance(default, str) else default)]


def _check_type(info: InputInfo, column: RawColumn) -> None:
    if isinstance(column.values, StringValues):
        found = "strings"
    else:
        found = {"float32": "floats", "float64": "doubles", "int64": "ints"}[column.values.dtype.name]
    allowed = {"number": ("floats", "doubles", "ints"), "int": ("ints",), "string": ("strings",)}[info.type]
    if found not in allowed:
        expected = "numbers (floats, doubles or ints)" if info.type == "number" else allowed[0]
        raise InputError(f"feature '{info.name}': expected {expected}, got {found}")


def _rows_of(info: InputInfo, column: RawColumn, rows: int, role: str, max_list: int) -> list[list[Value]]:
    """Splits a column into its rows' values, refusing what does not add up."""

    def fail(found: str, expected: str) -> InputError:
        return InputError(f"feature '{info.name}': {found}; expected {expected}")

    values: list[Value] = (
        list(column.values.to_bytes()) if isinstance(column.values, StringValues) else column.values.tolist()
    )
    unit = f"{rows} (a context feature holds one row)" if role == "context" else f"{rows}, one per row"
    if column.lengths is None or len(column.lengths) == 0:
        if len(values) != rows:
            raise fail(f"{_count(len(values), 'value')} without lengths", unit)
        lengths = [1] * rows
    else:
        lengths = column.lengths.tolist()
        if len(lengths) != rows:
            raise fail(_count(len(lengths), "length"), unit)
        for row, length in enumerate(lengths):
            if length < 0:
                raise fail(f"length {length} in row {row}", "0 or more")
            if length > 1 and not info.multi_valued:
                raise fail(f"{_count(length, 'value')} in row {row}", "at most 1, it is not multi-valued")
            if info.multi_valued and length > max_list:
                raise fail(f"{_count(length, 'value')} in row {row}", f"at most {max_list}")
        if sum(lengths) != len(values):
            raise fail(f"{_count(len(values), 'value')} but lengths that sum to {sum(lengths)}", "the two to be equal")
    split: list[list[Value]] = []
    for row, length in enumerate(lengths):
        split.append(values[:length])
        values = values[length:]
        for value in split[-1]:
            if isinstance(value, float) and not math.isfinite(value):
                found = "NaN" if math.isnan(value) else "Inf" if value > 0 else "-Inf"
                raise fail(f"{found} in row {row}", "finite numbers (length 0 where missing)")
    return split


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
