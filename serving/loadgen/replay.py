"""Calls that were recorded: the rows of a parquet file, at the moments that it names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from smt.serving.client import Client
from smt.serving.loadgen.payloads import PREDICT, table_payload
from smt.serving.loadgen.plan import Arrival, LoadgenError, Payload, Replay, Source, Stream
from smt.serving.rows import read_rows
from smt.serving.tls import Tls


def replay_source(
    target: str,
    scenarios: Sequence[str],
    path: Path,
    *,
    time_column: str,
    scenario_column: str | None = None,
    speed: float = 1.0,
    tls: Tls | None = None,
    **options: Any,
) -> tuple[Source, float]:
    """The source that repeats a file, and its length in seconds.

    Rows next to each other with the same time (and scenario) are one call.

    Args:
        target: a server to ask what the scenarios read.
        scenarios: those to call; with `scenario_column` the file's other rows are left out.
        time_column: timestamps, or numbers of seconds, in rising order.
        options: of every Stream.

    Raises:
        LoadgenError, RowsError or PredictError.
    """
    if len(scenarios) > 1 and scenario_column is None:
        raise LoadgenError(f"{path}: name the column that says which of {len(scenarios)} scenarios a row is for")
    seconds = _times(path, time_column) / speed
    names = _names(path, scenario_column, len(seconds), scenarios)
    starts = np.flatnonzero(np.concatenate([[True], (seconds[1:] != seconds[:-1]) | (names[1:] != names[:-1])]))
    ends = np.append(starts[1:], len(seconds))
    arrivals, payloads = [], [list[Payload]() for _ in scenarios]
    with Client(target, tls=tls) as client:
        metadata = [client.scenario(name) for name in scenarios]
    tables = [read_rows(path, list(one.inputs)) for one in metadata]
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        stream = int(names[start])
        if stream < 0:
            continue
        payload = table_payload(metadata[stream], tables[stream].slice(start, end - start))
        arrivals.append(Arrival(float(seconds[start]), stream, len(payloads[stream])))
        payloads[stream].append(payload)
    missing = [name for name, found in zip(scenarios, payloads, strict=True) if not found]
    if missing:
        raise LoadgenError(f"{path}: column {scenario_column!r} names no row for scenario {missing[0]!r}")
    streams = [Stream(name, PREDICT, found, **options) for name, found in zip(scenarios, payloads, strict=True)]
    # Half a mean gap after the last call, so that it is part of the run.
    length = arrivals[-1].seconds + max(arrivals[-1].seconds / len(arrivals) / 2, 1e-3)
    return Source(Replay(arrivals), streams), length


def _column(path: Path, name: str) -> Any:
    try:
        schema = pa.parquet.read_schema(path)
        if name not in schema.names:
            raise LoadgenError(f"{path}: found no column {name!r}; it has {', '.join(schema.names)}")
        return pa.parquet.read_table(path, columns=[name]).column(0).combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise LoadgenError(f"{path}: {error}") from error


def _times(path: Path, name: str) -> NDArray[np.float64]:
    """Seconds since the first row."""
    column = _column(path, name)
    if pa.types.is_timestamp(column.type):
        column, unit = column.cast(pa.timestamp("ns")).cast(pa.int64()), 1e-9
    elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        unit = 1.0
    else:
        raise LoadgenError(f"{path}: column {name!r}: found {column.type}; expected timestamps or seconds")
    if len(column) == 0 or column.null_count:
        raise LoadgenError(f"{path}: column {name!r}: found {'no row' if not len(column) else 'missing values'}")
    values = column.to_numpy(zero_copy_only=False)
    seconds: NDArray[np.float64] = (values - values[0]).astype(np.float64) * unit
    if not (np.diff(seconds) >= 0).all():
        row = int(np.argmin(np.diff(seconds) >= 0)) + 1
        raise LoadgenError(f"{path}: column {name!r}, row {row + 1}: before the row above it; expected rising times")
    return seconds


def _names(path: Path, column: str | None, rows: int, scenarios: Sequence[str]) -> NDArray[np.int64]:
    """Which scenario each row is for; -1: none of them."""
    if column is None:
        return np.zeros(rows, np.int64)
    place = {name: number for number, name in enumerate(scenarios)}
    return np.array([place.get(name, -1) for name in _column(path, column).to_pylist()], np.int64)
