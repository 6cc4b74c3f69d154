"""Arrow columns -> raw columns, without copying where the types allow it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from smt.kernels.transform._transform import InputError
from smt.kernels.transform.columns import RawColumn, StringValues
from smt.kernels.transform.feature_transform import InputInfo

ALLOWED = "bool, integers, floats, string, a dictionary of these, or a list of these"

# Up to here every integer has its own float64: beyond, a float no longer says which integer was meant.
_EXACT = float(1 << 53)


def columns_from_arrow(
    batch: pa.RecordBatch | pa.Table,
    names: Iterable[str],
    inputs: Sequence[InputInfo] = (),
) -> list[RawColumn]:
    """The named columns of `batch` as raw columns, in the order of `names`.

    Nulls and float NaN become missing: length 0 in a plain column, left out of a list; a null list is an empty one.
    Integers and bool become int64, float16 becomes float32. Names that `batch` lacks are left out, so that
    FeatureTransform.apply can say which of them it requires.
    inputs: a transform's `inputs`. With them, a column of Arrow's null type (pandas: nothing but None) takes the
    type that is wanted, and floats become int64 where ints are wanted and every value is integral (pandas turns
    ints with gaps into floats).
    Raises InputError, naming the column, for a type that has no meaning as a feature, for uint64 beyond int64 and
    for a name that several columns have.
    """
    types = {info.name: info.type for info in inputs}
    columns = []
    for name in names:
        positions = batch.schema.get_all_field_indices(name)
        if len(positions) > 1:
            raise InputError(f"feature '{name}': {len(positions)} columns of this name; expected one")
        if positions:
            columns.append(_column(name, batch.column(positions[0]), types.get(name)))
    return columns


def _column(name: str, column: pa.Array | pa.ChunkedArray, wanted: str | None) -> RawColumn:
    array = _one_chunk(column)
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        values, present = _present(name, array.flatten(), array.type, wanted)
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy().astype(np.int32)
        if present is not None:
            lengths = _count_present(lengths, present)
        return RawColumn(name, values, lengths)
    values, present = _present(name, array, array.type, wanted)
    return RawColumn(name, values, None if present is None else present.astype(np.int32))


def _one_chunk(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        if column.num_chunks == 1:
            return column.chunk(0)
        # A Table of strings can outgrow int32 offsets; combining would then fail.
        if pa.types.is_string(column.type):
            column = column.cast(pa.large_string())
        return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return column


def _present(
    name: str, array: pa.Array, column_type: pa.DataType, wanted: str | None
) -> tuple[NDArray[Any] | StringValues, NDArray[np.bool_] | None]:
    """The values that are there, and which of the entries they are (None: all of them)."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_null(array.type):
        if wanted is None:
            raise InputError(
                f"feature '{name}': a column of Arrow type null, which says nothing of its values' type; "
                f"expected it cast to the type of the feature"
            )
        empty = StringValues.from_strings([]) if wanted == "string" else np.empty(0, np.int64)
        return empty, np.zeros(len(array), np.bool_)
    present = None
    if array.null_count:
        present = array.is_valid().to_numpy(zero_copy_only=False)
        array = array.drop_null()
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        return _strings(array), present
    values = _numbers(name, array, column_type)
    if values.dtype.kind == "f":
        there = ~np.isnan(values)
        if not there.all():
            values = values[there]
            present = there if present is None else _narrow(present, there)
        if wanted == "int" and bool(np.all((np.trunc(values) == values) & (np.abs(values) <= _EXACT))):
            values = values.astype(np.int64)
    return values, present


def _numbers(name: str, array: pa.Array, column_type: pa.DataType) -> NDArray[Any]:
    kind = array.type
    if pa.types.is_boolean(kind):
        return np.asarray(array.to_numpy(zero_copy_only=False), np.int64)
    if pa.types.is_integer(kind):
        try:
            return np.asarray(array.cast(pa.int64()).to_numpy())
        except pa.ArrowInvalid as error:
            raise InputError(f"feature '{name}': {error}; expected values within int64") from error
    if pa.types.is_floating(kind):
        dtype = np.float32 if pa.types.is_float16(kind) else None
        return np.asarray(array.to_numpy(), dtype)
    raise InputError(f"feature '{name}': a column of Arrow type {column_type}; expected {ALLOWED}")


def _strings(array: pa.Array) -> StringValues:
    _, offsets, data = array.buffers()
    dtype = np.int64 if pa.types.is_large_string(array.type) else np.int32
    if offsets is None or len(array) == 0:  # an empty array may have no buffers
        return StringValues.from_strings([])
    span = np.frombuffer(offsets, dtype)[array.offset : array.offset + len(array) + 1]
    return StringValues(span, np.frombuffer(b"" if data is None else data, np.uint8))


def _narrow(present: NDArray[np.bool_], there: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """`there` says which of the entries that `present` marks are kept."""
    out = present.copy()
    out[present] = there
    return out


def _count_present(lengths: NDArray[np.int32], present: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Lengths of the lists once only the `present` of their values are left."""
    seen = np.concatenate([[0], np.cumsum(present)])
    ends = np.cumsum(lengths)
    return np.asarray(seen[ends] - seen[ends - lengths], np.int32)
