"""What a request is made of: features of its candidates and of their context, encoded for whoever reads them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import grpc

from smt.serving import encode
from smt.serving.encode import Columns, Data, EncodingError
from smt.serving.prediction import PredictError
from smt.serving.protos import prediction_pb2 as pb


class Features:
    """Columns of candidates and context. Immutable; of tabular data they are known once it is `fitted`.

    Raises PredictError (INVALID_ARGUMENT) for values that no feature can hold.

    Attributes:
        rows: number of candidates.
        untold: what to send depends on what is read: of tabular data the columns, of columns without a value the type.
    """

    def __init__(self, candidates: Data | None, context: Data | None, rows: int | None) -> None:
        self._data = ({} if candidates is None else candidates, {} if context is None else context)
        self._types: dict[str, str] = {}
        self._span: tuple[int, int] | None = None
        with _reported():
            self._tabular = [encode.frame_columns(data) is not None for data in self._data]
            self._columns = [
                {} if tabular else encode.to_columns(data, scalars=number == 1)
                for number, (data, tabular) in enumerate(zip(self._data, self._tabular, strict=True))
            ]
        self.rows = self._count() if rows is None else rows
        self.untold = any(self._tabular) or any(encode.untyped(columns) for columns in self._columns)

    def fitted(self, types: Mapping[str, str]) -> Features:
        """The same features for a reader of the inputs `types`, which maps names to number, int or string."""
        fitted = copy.copy(self)
        fitted._types = dict(types)
        with _reported():
            fitted._columns = [
                encode.fit_types(encode.to_columns(data, list(types)), types) if tabular else columns
                for data, tabular, columns in zip(self._data, self._tabular, self._columns, strict=True)
            ]
        if self._span is not None and self._tabular[0]:
            fitted._columns[0] = _sliced(fitted._columns[0], *self._span)
        return fitted

    def slice(self, start: int, stop: int) -> Features:
        """Some of the candidates, counted from the first of all."""
        part = copy.copy(self)
        first = self._span[0] if self._span is not None else 0
        part._columns = [_sliced(self._columns[0], start - first, stop - first), self._columns[1]]
        part._span, part.rows = (start, stop), stop - start
        return part

    def encoded(self) -> tuple[list[pb.Feature], list[pb.Feature]]:
        """Candidates and context as messages."""
        with _reported():
            candidates, context = (encode.encode_all(columns, self._types) for columns in self._columns)
        return candidates, context

    def check_lengths(self) -> None:
        """Raises PredictError when a candidate feature has another number of rows than there are."""
        for name, column in self._columns[0].items():
            if len(column) != self.rows:
                raise PredictError(
                    grpc.StatusCode.INVALID_ARGUMENT, f"feature {name!r}: {len(column)} rows; expected {self.rows}"
                )

    def _count(self) -> int:
        if self._tabular[0]:
            data = self._data[0]
            return int(data.num_rows) if hasattr(data, "num_rows") else len(data)
        first: Any = next(iter(self._columns[0].values()), None)
        if first is None:
            raise PredictError(
                grpc.StatusCode.INVALID_ARGUMENT, "rows: nothing to count them by; give candidate features or `rows`"
            )
        return len(first)


class _reported:
    """Turns an EncodingError into the error that the server would have answered with."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: Any) -> None:
        if isinstance(error, EncodingError):
            raise PredictError(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from error


def _sliced(columns: Columns, start: int, stop: int) -> Columns:
    return {name: column.slice(start, stop - start) for name, column in columns.items()}
