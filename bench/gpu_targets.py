"""What the kernels were asked to reach on a GPU, judged by the rows of one file."""

from typing import Any

from bench.gpu_engines import OURS
from bench.result import Result

SPEED = ((("R1", "R3"), range(1, 1025), 1.5), (("R1", "R3"), range(16384, 16385), 1.15))
PEAK = ("R2", 16384, 0.60)
STEP = (("R1", "R3"), 1.3)

# `part` of rows that are not of the whole function.
TRAINING = "training step"
HEADS = "experts and heads"


def add_targets(result: Result) -> None:
    """Restates every number with the value of these rows; None where the file has none."""
    ours = [row for row in result.results if row["backend"] == OURS]
    forward = [row for row in ours if "part" not in row]
    training = [row for row in ours if row.get("part") == TRAINING]
    for shapes, counts, factor in SPEED:
        for shape in shapes:
            where = f"up to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
            found = [row for row in forward if row["shape"] == shape and row["rows"] in counts]
            what = f"{shape}, {where} rows: least ratio of the best peer's time to ours"
            result.target(f"speed.{shape}.rows{counts[-1]}", what, _least(found), ">=", factor)
    shape, rows, fraction = PEAK
    peak = [row["peak_fraction"] for row in forward if (row["shape"], row["rows"]) == (shape, rows)]
    what = f"{shape}, {rows} rows: share of the measured bf16 peak"
    result.target(f"peak.{shape}", what, min(peak, default=None), ">=", fraction)
    shapes, factor = STEP
    for shape in shapes:
        found = [row for row in training if row["shape"] == shape]
        what = f"{shape}, forward and backward of interaction and heads: least ratio of torch.compile's time to ours"
        result.target(f"training.{shape}", what, _least(found), ">=", factor)


def _least(rows: list[dict[str, Any]]) -> Any:
    """None when there is no row, or one without a peer."""
    ratios = [row["ratio_best_peer"] for row in rows]
    return None if None in ratios else min(ratios, default=None)
