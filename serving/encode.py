"""From what callers have (lists, numpy, pandas, Arrow) to the columns of a request, without a loop over numbers.

Everything becomes an Arrow array first, in which a null is a missing value, and is then written in the protocol's
wire format: a packed field of fixed-width numbers is their bytes, so a column of numbers is copied, not converted.

Missing is None in a list or an object array, null in Arrow, NA/NaN/None in pandas. As in training, NaN also counts as
missing in Arrow, which has no other way to hold pandas' missing floats. In a list or a numpy array NaN is sent as it
is, and the server refuses it: there it is rather a fault in the caller's arithmetic.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from numbers import Number
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from smt.serving.protos import prediction_pb2 as pb

# A mapping from feature to values, a pandas DataFrame, a pyarrow Table or RecordBatch, or any other object that
# speaks Arrow's stream interface (polars, ibis, duckdb).
Data: TypeAlias = Any
Columns: TypeAlias = dict[str, Any]  # name -> pa.Array

_FLOAT32 = (pa.float16(), pa.float32())


class EncodingError(ValueError):
    """Values that no feature can hold; the message names the feature, what was found and what is expected."""


def frame_columns(data: Data) -> list[str] | None:
    """The column names of tabular data; None for a mapping, whose every entry is meant to be sent."""
    if isinstance(data, Mapping):
        return None
    if isinstance(data, pa.Table | pa.RecordBatch):
        return list(data.schema.names)
    if _is_pandas(data, "DataFrame"):
        return [str(name) for name in data.columns]
    if hasattr(data, "__arrow_c_stream__"):
        return list(pa.table(data).schema.names)
    raise EncodingError(
        f"found {type(data).__name__}; expected a dict of columns, a pandas DataFrame, a pyarrow Table or RecordBatch"
    )


def to_columns(data: Data, names: Sequence[str] | None = None, *, scalars: bool = False) -> Columns:
    """The columns of `data` (only `names`, where given) as Arrow arrays with nulls for what is missing.

    Args:
        scalars: accept bare values, as columns of one row (context features).
    """
    available = frame_columns(data)
    if available is None:
        return {name: _column(str(name), values, scalars) for name, values in data.items() if _chosen(name, names)}
    twice = sorted({name for name in available if available.count(name) > 1 and _chosen(name, names)})
    if twice:
        raise EncodingError(f"feature {twice[0]!r}: found {available.count(twice[0])} columns; expected one")
    if not _is_pandas(data, "DataFrame") and not isinstance(data, pa.Table | pa.RecordBatch):
        data = pa.table(data)
    chosen = [name for name in available if _chosen(name, names)]
    if _is_pandas(data, "DataFrame"):
        by_name = {str(label): label for label in data.columns}
        return {name: _column(name, data[by_name[name]], scalars) for name in chosen}
    return {name: _column(name, data.column(name), scalars) for name in chosen}


def fit_types(columns: Columns, types: Mapping[str, str]) -> Columns:
    """Tabular columns of integral floats as ints where the scenario wants ints, as in training."""
    return {name: _integral_as_int(c) if types.get(name) == "int" else c for name, c in columns.items()}


def untyped(columns: Columns) -> bool:
    """Whether some column holds nothing but missing values or empty lists, and so does not show its type."""
    return any(pa.types.is_null(_value_type(column.type)) for column in columns.values())


def encode(name: str, column: Any, feature_type: str | None = None) -> pb.Feature:
    """One column as a message.

    Args:
        column: pa.Array of numbers, bools or strings, or of lists of them; nulls are missing.
        feature_type: "number", "int" or "string", used where the column does not show its type.
    """
    column, lengths = _flatten(column)
    feature = pb.Feature(name=name)
    kind = column.type
    try:
        if pa.types.is_null(kind):
            (feature.strings if feature_type == "string" else feature.ints).SetInParent()
        elif kind in _FLOAT32:
            feature.floats.MergeFromString(_packed(1, _numbers(column, pa.float32())))
        elif pa.types.is_floating(kind):
            feature.doubles.MergeFromString(_packed(1, _numbers(column, pa.float64())))
        elif pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            feature.ints.MergeFromString(_packed(1, _numbers(column, pa.int64())))
        elif _is_string(kind):
            feature.strings.values.extend(column.to_pylist())
        else:
            raise EncodingError(f"feature {name!r}: found {kind} values; expected numbers, bools or strings, or lists")
    except (pa.ArrowInvalid, UnicodeError) as error:
        raise EncodingError(f"feature {name!r}: {error}; expected 64-bit signed integers or valid Unicode") from error
    # The oneof must be set also where no value was written.
    if feature.WhichOneof("values") is None:
        _message(feature, kind).SetInParent()
    if lengths is not None:
        feature.MergeFromString(_packed(6, lengths.astype("<i4", copy=False)))
    return feature


def encode_all(columns: Columns, types: Mapping[str, str] | None = None) -> list[pb.Feature]:
    types = types or {}
    return [encode(name, column, types.get(name)) for name, column in columns.items()]


def _chosen(name: Any, names: Iterable[str] | None) -> bool:
    return names is None or name in names


def _is_pandas(value: object, kind: str) -> bool:
    pandas = sys.modules.get("pandas")  # whoever has pandas data has imported it
    return pandas is not None and isinstance(value, getattr(pandas, kind))


def _column(name: str, values: Any, scalars: bool) -> Any:
    if values is None or isinstance(values, str | bytes | Number | np.generic) or getattr(values, "shape", None) == ():
        if not scalars:
            raise EncodingError(f"feature {name!r}: found a single value; expected one per row, in a list or array")
        values = [values[()] if isinstance(values, np.ndarray) else values]
    try:
        return _to_arrow(values)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        raise EncodingError(
            f"feature {name!r}: {error}; expected one kind of value (numbers, bools or strings) or lists of it"
        ) from error


def _to_arrow(values: Any) -> Any:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, pa.Array):
        return _nan_to_null(values)
    if _is_pandas(values, "Series") or _is_pandas(values, "Index"):
        return _nan_to_null(_one_array(pa.array(values, from_pandas=True)))
    if isinstance(values, np.ma.MaskedArray):
        return pa.array(_native(values.data), mask=np.ma.getmaskarray(values))
    if not isinstance(values, list | tuple):
        values = np.asarray(values)
    if isinstance(values, np.ndarray):
        if values.ndim == 2:
            offsets = np.arange(values.shape[0] + 1, dtype=np.int32) * values.shape[1]
            return pa.ListArray.from_arrays(offsets, _to_arrow(values.reshape(-1)))
        values = _native(values)
    try:
        return _one_array(pa.array(values))
    except (pa.ArrowException, TypeError):
        # Strings among which pandas' NaN or NA stands for what is missing.
        column = _one_array(pa.array(values, from_pandas=True))
        if not _is_string(_value_type(column.type)):
            raise
        return column


def _one_array(column: Any) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _native(values: Any) -> Any:
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _nan_to_null(column: Any) -> Any:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if _is_list(kind) and pa.types.is_floating(kind.value_type):
        # A null list becomes an empty one, which means the same.
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        return pa.LargeListArray.from_arrays(offsets, _nan_to_null(column.flatten()))
    if pa.types.is_floating(kind):
        if pa.types.is_float16(kind):
            column = column.cast(pa.float32())
        return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    return column


def _integral_as_int(column: Any) -> Any:
    """int64 where all floats are integers, in plain columns (pandas holds ints with gaps as floats)."""
    if not pa.types.is_floating(column.type):
        return column
    try:
        return column.cast(pa.int64(), safe=True)
    except pa.ArrowInvalid:
        return column


def _value_type(kind: Any) -> Any:
    while pa.types.is_dictionary(kind) or _is_list(kind):
        kind = kind.value_type
    return kind


def _is_list(kind: Any) -> bool:
    return bool(
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list_view(kind)
        or pa.types.is_large_list_view(kind)
    )


def _is_string(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _flatten(column: Any) -> tuple[Any, Any]:
    """Values without nulls, and values per row as int32 (None: one in every row)."""
    lengths = None
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if _is_list(column.type):
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int32)
        column = column.flatten()
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if column.null_count:
            rows = np.repeat(np.arange(len(lengths)), lengths)
            present = pc.is_valid(column).to_numpy(zero_copy_only=False)
            lengths = np.bincount(rows[present], minlength=len(lengths)).astype(np.int32)
            column = column.drop_null()
    elif column.null_count:
        lengths = pc.is_valid(column).to_numpy(zero_copy_only=False).astype(np.int32)
        column = column.drop_null()
    if lengths is not None and (lengths == 1).all():
        lengths = None
    return column, lengths


def _numbers(column: Any, kind: Any) -> np.ndarray[Any, Any]:
    numbers: np.ndarray[Any, Any] = column.cast(kind).to_numpy(zero_copy_only=False)
    return numbers.astype(numbers.dtype.newbyteorder("<"), copy=False)


def _message(feature: pb.Feature, kind: Any) -> Any:
    if _is_string(kind):
        return feature.strings
    if pa.types.is_floating(kind):
        return feature.floats if kind in _FLOAT32 else feature.doubles
    return feature.ints


def _packed(field: int, values: np.ndarray[Any, Any]) -> bytes:
    """A packed repeated field of fixed-width numbers: tag, number of bytes as a varint, the bytes."""
    if not values.size:
        return b""
    size = values.nbytes
    head = bytearray([field << 3 | 2])
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + values.tobytes()
