"""Requests for smt.v1 Predict: random ones by what a scenario reads, or of a table's rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from smt.serving.client import Client
from smt.serving.loadgen.plan import LoadgenError, Payload, Stream
from smt.serving.loadgen.values import MOST_VALUES, Range, Values
from smt.serving.request import Query
from smt.serving.rows import read_rows
from smt.serving.tls import Tls

PREDICT = "/smt.v1.PredictionService/Predict"

# Random payloads of all streams together, so that 300 scenarios do not take minutes to prepare; and the least of each.
_PAYLOADS = 512
_LEAST_PAYLOADS = 8
# Whole numbers are ids to be hashed, or unknown to a vocabulary: any will do.
SMT_BELOW = 1 << 31


def smt_streams(
    target: str,
    scenarios: Mapping[str, float],
    rows: Mapping[int, float],
    *,
    data: Path | None = None,
    payloads: int | None = None,
    seed: int = 0,
    ranges: Mapping[str, Range] | None = None,
    tls: Tls | None = None,
    **options: Any,
) -> list[Stream]:
    """Streams of Predict calls: one per scenario, or per scenario and number of rows if those differ.

    Args:
        target: a server to ask what the scenarios read.
        scenarios, rows: what calls are for, with weights.
        data: a file to take the rows from, in order (.parquet, .csv, .jsonl); default: random values.
        payloads: random messages per stream.
        ranges: where to draw features' values from.
        options: of every Stream (timeouts, headers, …).

    Raises:
        LoadgenError, RowsError for the file, PredictError for a server or scenario that is not there.
    """
    count = payloads or payload_count(len(scenarios) * len(rows))
    random = np.random.default_rng(seed)
    made = []
    with Client(target, tls=tls) as client:
        for scenario, weight in scenarios.items():
            metadata = client.scenario(scenario)
            unknown = sorted(set(ranges or {}) - {feature.name for feature in metadata.inputs})
            if unknown and len(scenarios) == 1:
                names = ", ".join(feature.name for feature in metadata.inputs)
                raise LoadgenError(f"scenario {scenario!r} reads no input {unknown[0]!r}; it reads {names}")
            for size, share in rows.items():
                if data is None:
                    messages = random_payloads(metadata, size, count, random, ranges)
                else:
                    messages = table_payloads(metadata, read_rows(data, list(metadata.inputs)), size)
                name = stream_name(scenario, size, rows)
                made.append(Stream(name, PREDICT, messages, weight=weight * share, **options))
    return made


def random_payloads(
    metadata: Any, rows: int, count: int, random: np.random.Generator, ranges: Mapping[str, Range] | None = None
) -> list[Payload]:
    """Messages of `rows` candidates with random values for every input of the scenario (ScenarioMetadata)."""
    ranges = ranges or {}
    sources = {feature.name: _Column(feature, random, ranges.get(feature.name)) for feature in metadata.inputs}
    made = []
    for _ in range(count):
        columns = {name: values.draw(rows) for name, values in sources.items()}
        query = Query(metadata.scenario, columns, None, rows=rows).resolved(metadata)
        made.append(Payload(query.message().SerializeToString(), rows))
    return made


def table_payloads(metadata: Any, table: Any, rows: int) -> list[Payload]:
    """Messages of a table's rows, `rows` in each; what is left at the end makes a smaller one."""
    return [
        table_payload(metadata, table.slice(first, min(rows, table.num_rows - first)))
        for first in range(0, table.num_rows, rows)
    ]


def table_payload(metadata: Any, table: Any) -> Payload:
    """One message of all of a table's rows."""
    query = Query(metadata.scenario, table, None).resolved(metadata)
    return Payload(query.message().SerializeToString(), query.rows)


class _Column:
    """Draws one feature's column; of a multi-valued feature lists of 0 to 5 values."""

    def __init__(self, feature: Any, random: np.random.Generator, drawn_from: Range | None) -> None:
        self._values = Values(feature.name, feature.type, random, drawn_from, SMT_BELOW)
        self._multi_valued = feature.multi_valued
        self._random = random

    def draw(self, rows: int) -> Any:
        if not self._multi_valued:
            return pa.array(self._values.draw(rows))
        offsets = np.concatenate([[0], np.cumsum(self._random.integers(0, MOST_VALUES + 1, rows))])
        kind = pa.string() if self._values.kind == "string" else None  # also where there is no value
        return pa.ListArray.from_arrays(
            pa.array(offsets, pa.int32()), pa.array(self._values.draw(int(offsets[-1])), kind)
        )


def payload_count(streams: int) -> int:
    """How many random messages each of so many streams gets."""
    return max(_LEAST_PAYLOADS, _PAYLOADS // max(1, streams))


def stream_name(scenario: str, rows: int, mix: Mapping[int, float]) -> str:
    """Names the rows where they differ."""
    return scenario if len(mix) == 1 else f"{scenario} x {rows}"
