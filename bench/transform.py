"""Feature transformation: rows per second on one thread, against vectorised Arrow, pandas and NumPy.

    python -m bench.transform [--quick] --json bench/results/transform.json

The peers compute the same mapping of each column alone; ours validates the batch as well and lays it out as the
template's inputs. Before anything is timed, ours is compared with the reference on the first rows. Every repetition
has fresh random values, and takes turns between ours and the peer; the median counts.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bench.result import Result
from smt.kernels.transform import FeatureTransform, columns_from_arrow
from smt.kernels.transform.reference import ReferenceTransform

COLUMNS = 31  # as many as Census-Income has strings
CHECKED_ROWS = 32
Peer = Callable[[pa.RecordBatch], Any]


def _spec(features: list[dict[str, Any]]) -> dict[str, Any]:
    dense = [feature for feature in features if feature["kind"] == "dense"]
    categorical = [feature for feature in features if feature["kind"] == "categorical"]
    first = 0
    for slot, feature in enumerate(categorical):
        feature |= {"slot": slot, "first_row": first}
        first += feature["rows"]
    for slot, feature in enumerate(dense):
        feature["slot"] = slot
    return {
        "format": 1,
        "dense_slots": max(len(dense), 1),
        "categorical_slots": max(len(categorical), 1),
        "table_rows": first,
        "features": features,
    }


def _feature(name: str, kind: str, type_: str, **rest: Any) -> dict[str, Any]:
    return {"name": name, "input": name, "type": type_, "required": True, "kind": kind, "default": None, **rest}


def vocabulary_case(size: int) -> tuple[dict[str, Any], Peer, list[str]]:
    """Strings looked up among `size` known ones; the peer is Arrow's index_in."""
    values = [f"value-{i:08d}" for i in range(size)]
    known = pa.array(values)
    features = [
        _feature(f"c{i}", "categorical", "string", rows=size + 2, multi_valued=False, max_length=1,
                 encode={"op": "vocabulary", "values": values})
        for i in range(COLUMNS)
    ]  # fmt: skip
    return _spec(features), lambda batch: [pc.index_in(column, value_set=known) for column in batch.columns], values


def hash_case(size: int) -> tuple[dict[str, Any], Peer, list[str]]:
    """Strings hashed into `size` buckets; the peer is pandas' hash_array."""
    features = [
        _feature(f"c{i}", "categorical", "string", rows=size + 2, multi_valued=False, max_length=1,
                 encode={"op": "hash", "size": size, "seed": 0})
        for i in range(COLUMNS)
    ]  # fmt: skip

    def peer(batch: pa.RecordBatch) -> list[NDArray[np.uint64]]:
        return [
            pd.util.hash_array(column.to_numpy(zero_copy_only=False), categorize=False) % np.uint64(size)
            for column in batch.columns
        ]

    return _spec(features), peer, [f"value-{i:08d}" for i in range(size)]


def dense_case() -> tuple[dict[str, Any], Peer, None]:
    """log, clip, normalise of doubles; the peer is NumPy, one whole column at a time."""
    steps = [
        {"op": "log"},
        {"op": "clip", "low": 0.0, "high": 9.0},
        {"op": "normalise", "mean": 3.0, "std": 1.5},
    ]
    features = [_feature(f"c{i}", "dense", "number", steps=steps) for i in range(COLUMNS)]

    def peer(batch: pa.RecordBatch) -> list[NDArray[np.float32]]:
        out = []
        for column in batch.columns:
            x = column.to_numpy()
            x = np.clip(np.sign(x) * np.log1p(np.abs(x)), 0.0, 9.0)
            out.append(((x - 3.0) / 1.5).astype(np.float32))
        return out

    return _spec(features), peer, None


def batch_of(values: list[str] | None, rows: int, rng: np.random.Generator) -> pa.RecordBatch:
    """Random rows: one in twenty strings is unknown."""
    names = [f"c{i}" for i in range(COLUMNS)]
    if values is None:
        return pa.RecordBatch.from_arrays([pa.array(rng.lognormal(3, 2, rows)) for _ in names], names=names)
    pool = pa.array([*values, *(f"unknown-{i}" for i in range(-(-len(values) // 20)))])
    return pa.RecordBatch.from_arrays(
        [pool.take(pa.array(rng.integers(0, len(pool), rows))) for _ in names], names=names
    )


def check(spec: dict[str, Any], transform: FeatureTransform, batch: pa.RecordBatch) -> None:
    """Ours against the reference on the first rows."""
    part = batch.slice(0, CHECKED_ROWS)
    columns = columns_from_arrow(part, part.schema.names)
    ours, expected = (t.apply(part.num_rows, columns) for t in (transform, ReferenceTransform(spec)))
    for name in ("dense", "ids", "offsets", "bag_index"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(expected, name), err_msg=name)


def measure(case: str, peer_name: str, rows: int, repetitions: int) -> dict[str, Any]:
    kind, _, size = case.partition(" ")
    cases = {"vocabulary": vocabulary_case, "hash": hash_case}
    spec, peer, values = cases[kind](int(size)) if size else dense_case()
    transform = FeatureTransform(spec)
    rng = np.random.default_rng(2024)
    check(spec, transform, batch_of(values, rows, rng))
    ours: list[float] = []
    theirs: list[float] = []
    for repetition in range(repetitions + 2):
        batch = batch_of(values, rows, rng)
        started = time.perf_counter()
        transform.apply(rows, columns_from_arrow(batch, batch.schema.names))
        middle = time.perf_counter()
        peer(batch)
        ended = time.perf_counter()
        if repetition >= 2:  # the first ones grow buffers
            ours.append(middle - started)
            theirs.append(ended - middle)
    return {
        "shape": f"{COLUMNS} columns, {case}",
        "rows": rows,
        "threads": 1,
        "backend": "c++",
        "median_ms": median(ours) * 1e3,
        "p99_ms": quantiles(ours, n=100)[98] * 1e3,
        "rows_per_second": rows / median(ours),
        "peer": peer_name,
        "peer_median_ms": median(theirs) * 1e3,
        "ratio_best_peer": median(theirs) / median(ours),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--json", type=Path, required=True, help="result file to write")
    arguments = parser.parse_args()
    pa.set_cpu_count(1)
    result = Result("transform")
    cases = [
        ("vocabulary 50", "pyarrow index_in"),
        ("vocabulary 5000", "pyarrow index_in"),
        ("vocabulary 100000", "pyarrow index_in"),
        ("hash 100000", "pandas hash_array"),
        ("log, clip, normalise", "numpy"),
    ]
    for case, peer in cases:
        for rows in (1, 64, 1024, 4096):
            name = "dense" if case.startswith("log") else case
            row = measure(name, peer, rows, 20 if arguments.quick else 100)
            result.results.append(row)
            print(f"{row['shape']}, {rows} rows: {row['median_ms']:.3f} ms, {row['ratio_best_peer']:.1f}x {peer}")
    for kind in ("vocabulary", "hash", "dense"):
        ratios = [row["ratio_best_peer"] for row in result.results if f", {kind}" in row["shape"]]
        result.target(f"transform.{kind}", f"least ratio to the peer, {kind}", min(ratios), ">=", 1.0)
    result.write(arguments.json)


if __name__ == "__main__":
    main()
