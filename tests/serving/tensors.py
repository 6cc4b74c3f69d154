"""Rows as tensors of the Open Inference Protocol, made with tritonclient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import np_to_triton_dtype


def tensor(name: str, values: NDArray[Any]) -> triton.InferInput:
    made = triton.InferInput(name, values.shape, np_to_triton_dtype(values.dtype))
    made.set_data_from_numpy(values)
    return made


def text(values: list[str]) -> NDArray[np.object_]:
    return np.array([value.encode() for value in values], dtype=object)


def array(values: list[Any], kind: pa.DataType) -> NDArray[Any]:
    return text(values) if pa.types.is_string(kind) else np.array(values, dtype=kind.to_pandas_dtype())


def tensors(rows: pa.Table) -> list[triton.InferInput]:
    """A tensor per column, in its type; of one with lists or missing values, the values and their lengths."""
    made = []
    for field, column in zip(rows.schema, rows.columns, strict=True):
        nested = pa.types.is_list(field.type)
        lists = [value if nested else [value] * (value is not None) for value in column.to_pylist()]
        values = [value for row in lists for value in row]
        made.append(tensor(field.name, array(values, field.type.value_type if nested else field.type)))
        if nested or len(values) != len(lists):
            made.append(tensor(f"{field.name}.lengths", np.array([len(row) for row in lists], dtype=np.int32)))
    return made
