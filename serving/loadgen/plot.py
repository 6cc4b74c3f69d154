"""Plots: latency by percentile, as HDR histograms are drawn (each step to the right has ten times fewer calls beyond
it), and latency by rate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smt.serving.loadgen.histogram import Histogram

if TYPE_CHECKING:
    from smt.serving.loadgen.capacity import Capacity, Slo
    from smt.serving.loadgen.result import LoadResult

_MOST_LINES = 8


def plot_latency(path: Path, result: LoadResult, title: str) -> None:
    """Draws the streams' latencies of calls that ended OK (of all together, if they are many), and of each other
    outcome of all streams. The file's ending says the format."""
    streams = result.streams
    lines = {name: stream.latency for name, stream in streams.items()} if len(streams) <= _MOST_LINES else {}
    if len(lines) != 1:
        lines["all streams"] = result.total.latency
    for outcome, histogram in result.total.outcomes.items():
        if outcome != "OK":
            lines[outcome] = histogram
    figure, axes = new_figure(title)
    for name, histogram in lines.items():
        if histogram.count:
            draw(axes, name, histogram)
    finish(axes)
    figure.savefig(path, dpi=150)


def plot_capacity(path: Path, capacity: Capacity, slo: Slo, title: str) -> None:
    """Draws latency against the rate offered, and where the promise was kept."""
    figure, axes = new_figure(title)
    points = sorted(capacity.points, key=lambda point: point.rate)
    for name, values in (("p50", [p.p50_ms for p in points]), ("p99", [p.p99_ms for p in points])):
        found = [(point.rate, value) for point, value in zip(points, values, strict=True) if value is not None]
        if found:
            axes.plot(*zip(*found, strict=True), label=name, linewidth=1.2)
    for met, marker, label in ((True, "o", "kept"), (False, "x", "missed")):
        found = [(p.rate, p.p99_ms) for p in points if p.met is met and p.p99_ms is not None]
        if found:
            axes.scatter(*zip(*found, strict=True), marker=marker, label=label, color="C1", zorder=3)
    axes.axhline(slo.p99_ms, linestyle="--", color="gray", label=f"p99 {slo.p99_ms:g} ms")
    if capacity.best is not None:
        axes.axvline(capacity.best.rate, linestyle=":", color="gray", label=f"{capacity.best.rate:,.4g} calls/s")
    axes.set_yscale("log")
    axes.set_xlabel("offered, calls/s")
    axes.set_ylabel("latency, ms")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)


def new_figure(title: str) -> tuple[Any, Any]:
    # Without pyplot, which looks for a display and keeps every figure.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10)
    return figure, axes


def draw(axes: Any, name: str, histogram: Histogram) -> None:
    below = np.concatenate([[0], np.cumsum(histogram.counts)[:-1]]) / histogram.count
    # x: one call of so many takes this long or longer.
    axes.step(
        1 / (1 - below), histogram.lowest / 1e6, where="post", label=f"{name} ({histogram.count:,})", linewidth=1.2
    )


def finish(axes: Any) -> None:
    axes.set_xscale("log")
    high = max(axes.get_xlim()[1], 100)
    ticks = [10.0**power for power in range(int(np.log10(high)) + 1)]
    axes.set_xlim(1, high)
    axes.set_xticks(ticks, [f"{100 * (1 - 1 / tick):.6g} %" for tick in ticks])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("percentile of calls")
    axes.set_ylabel("latency, ms")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
