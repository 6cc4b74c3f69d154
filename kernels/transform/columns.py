"""Raw columns: what a request or a training batch holds before the transformation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smt.kernels.transform._transform import InputError

_NUMBERS = (np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64))
_OFFSETS = (np.dtype(np.int32), np.dtype(np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class StringValues:
    """n strings in Arrow's layout: string i is the UTF-8 `data[offsets[i]:offsets[i + 1]]`.

    offsets: int32 or int64 [n + 1], increasing, need not start at 0. data: uint8 buffer.
    """

    offsets: NDArray[Any]
    data: NDArray[np.uint8]

    @classmethod
    def from_strings(cls, values: Iterable[str]) -> StringValues:
        """Copies Python strings into the layout. Raises UnicodeEncodeError for a lone surrogate."""
        encoded = [value.encode() for value in values]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(value) for value in encoded], out=offsets[1:])
        return cls(offsets, np.frombuffer(b"".join(encoded), np.uint8))

    def __len__(self) -> int:
        return max(len(self.offsets) - 1, 0)

    def to_bytes(self) -> list[bytes]:
        """The n values as Python bytes."""
        data = self.data.tobytes()
        return [data[start:end] for start, end in zip(self.offsets[:-1], self.offsets[1:], strict=True)]


@dataclass(frozen=True, slots=True, eq=False)
class RawColumn:
    """One input column. Nothing is copied when the arrays are contiguous.

    values: float32, float64 or int64 [n], or StringValues of n strings.
    lengths: int32 [rows], values per row (0: missing, or an empty list); None or empty: one value in every row.
    Raises InputError for other dtypes and shapes; values are checked against the spec by FeatureTransform.apply.
    """

    name: str
    values: NDArray[Any] | StringValues
    lengths: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.values, StringValues):
            offsets = _array(self.name, "string offsets", self.values.offsets, _OFFSETS)
            data = _array(self.name, "string data", self.values.data, (np.dtype(np.uint8),))
            object.__setattr__(self, "values", StringValues(offsets, data))
        else:
            object.__setattr__(self, "values", _array(self.name, "values", self.values, _NUMBERS))
        if self.lengths is not None:
            object.__setattr__(self, "lengths", _array(self.name, "lengths", self.lengths, (np.dtype(np.int32),)))


def _array(name: str, what: str, array: object, allowed: tuple[np.dtype[Any], ...]) -> NDArray[Any]:
    if not isinstance(array, np.ndarray):
        found = type(array).__name__
    elif array.ndim != 1:
        found = f"an array of shape {list(array.shape)}"
    elif array.dtype not in allowed:
        found = f"dtype {array.dtype}"
    else:
        return np.require(array, requirements=["C", "A"])
    names = " or ".join(str(dtype) for dtype in allowed)
    raise InputError(f"feature '{name}': {what}: {found}; expected a numpy array [n] of {names}")
