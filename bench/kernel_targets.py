"""What the kernels were asked to reach on the CPU, judged by the rows of one run."""

from typing import Any

from bench.result import Result

# Rows, and times the best peer, by shape.
SPEED: dict[str, list[tuple[tuple[int, ...], float]]] = {
    "R1": [((1,), 1.0), ((16, 64, 256, 1024), 2.0)],
    "R2": [((1,), 1.0), ((16,), 1.2), ((64, 256, 1024), 1.5)],
    "R3": [((1,), 1.0), ((16, 64, 256, 1024), 2.0)],
}
PEAK_ROWS, PEAK_FRACTION = 256, 0.55
LARGEST_DIFFERENCE = 4e-3
NE_CHANGE = {"bf16": 1e-4, "int8": 5e-4}


def add_targets(result: Result) -> None:
    """Restates every number with the value of these rows; None where the run has none."""
    rows = result.results
    bf16 = [row for row in rows if row["backend"] == "fused bf16" and "threads" in row]
    for shape, asked in SPEED.items():
        for counts, factor in asked:
            for threads in (1, 2):
                found = [
                    row["ratio_best_peer"]
                    for row in bf16
                    if row["shape"] == shape and row["threads"] == threads and row["rows"] in counts
                ]
                where = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"
                what = f"{shape}, {where} rows, {threads} threads: least ratio of the best peer's time to ours"
                value = min(found) if len(found) == len(counts) else None
                result.target(f"speed.{shape}.rows{where}.threads{threads}", what, value, ">=", factor)
    for shape in SPEED:
        what = f"{shape}, {PEAK_ROWS} rows, 1 thread: share of one core's bf16 peak, the gather of embeddings included"
        one = [r for r in bf16 if (r["shape"], r["rows"], r["threads"]) == (shape, PEAK_ROWS, 1)]
        result.target(f"peak.{shape}", what, _only(one, "peak_fraction"), ">=", PEAK_FRACTION)
    trained = [row for row in rows if "ne_change" in row]
    for precision, bound in NE_CHANGE.items():
        of = [row for row in trained if row["backend"] == f"fused {precision}"]
        what = f"{precision}, trained census models: largest relative change of NE against float64"
        result.target(f"accuracy.{precision}.ne", what, max((r["ne_change"] for r in of), default=None), "<=", bound)
    what = "bf16, trained census models: largest |p - p in float64|"
    found = [row["max_abs_dp"] for row in trained if row["backend"] == "fused bf16"]
    result.target("accuracy.bf16.dp", what, max(found, default=None), "<=", LARGEST_DIFFERENCE)
    for threads in (1, 2):
        for count, key, bound in ((4, "ratio_one_scenario", 1.05), (32, "ratio_limit", 1.10)):
            against = "the time of as many rows of one" if count == 4 else "the larger of compute and streaming weights"
            what = f"R1, 1024 rows of {count} scenarios, {threads} threads: time, padding included, over {against}"
            mixed = [r for r in bf16 if r.get("scenarios") == count and r["threads"] == threads]
            result.target(f"mixed.{count}.threads{threads}", what, _only(mixed, key), "<=", bound)


def _only(rows: list[dict[str, Any]], key: str) -> Any:
    """The figure of the single row there is; None without."""
    return rows[0][key] if len(rows) == 1 else None
