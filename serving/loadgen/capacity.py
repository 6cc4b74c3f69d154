"""The largest rate at which a server keeps a promise: p99 under a limit, errors under another.

Every point is an open loop with Poisson arrivals, so that a server that falls behind shows it at once. The search
doubles or halves the rate until it holds a rate that is met and one that is not, halves the gap between them (in
proportion) until it is as small as asked for, and then measures the best one again, longer: what a lucky run reached is
not capacity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from smt.serving.loadgen.result import LoadResult

_LEAST_RATE, _MOST_RATE = 0.1, 1e7
_MOST_CONFIRMATIONS = 12
# A miss by less than this may be the machine's fault, and is measured again.
_NARROW = 3.0


@dataclass(frozen=True)
class Slo:
    """p99_ms: of calls answered OK. errors: the share of calls that may end in anything else."""

    p99_ms: float
    errors: float = 0.0


@dataclass(frozen=True)
class Point:
    """One measured rate. Latencies in milliseconds; server_cores: CPU seconds per second; None where not known.

    Attributes:
        missed: why the promise was not kept; empty if it was.
        lag_p99_ms: how late the generator was.
    """

    rate: float
    seconds: float
    calls_per_second: float
    rows_per_second: float
    p50_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    errors: int
    error_share: float
    lag_p99_ms: float | None
    server_cores: float | None
    server_resident_bytes: int | None
    missed: str

    @property
    def met(self) -> bool:
        return not self.missed


Measure = Callable[[float, bool], Point]  # the rate, and whether to take longer for it


@dataclass(frozen=True)
class Capacity:
    """best: the confirmed point; None if no rate keeps the promise, or all do. points: as they were measured."""

    best: Point | None
    points: list[Point]


def point_of(
    rate: float, result: LoadResult, slo: Slo, server_cores: float | None, server_resident_bytes: int | None
) -> Point:
    total, latency = result.total, result.total.latency
    share = total.errors / total.calls if total.calls else 0.0
    p99 = latency.quantile_ms(0.99)
    missed = ""
    if share > slo.errors:
        worst = max((n for n in total.outcomes if n != "OK"), key=lambda n: total.outcomes[n].count)
        missed = f"{total.errors:,} of {total.calls:,} calls failed, most of them {worst}"
    elif p99 is None:
        missed = "no call was answered"
    elif p99 > slo.p99_ms:
        missed = f"p99 {p99:.3g} ms"
    return Point(
        rate=rate,
        seconds=result.seconds,
        calls_per_second=total.ok_per_second,
        rows_per_second=total.rows_per_second,
        p50_ms=latency.quantile_ms(0.5),
        p99_ms=p99,
        p999_ms=latency.quantile_ms(0.999),
        errors=total.errors,
        error_share=share,
        lag_p99_ms=result.lag.quantile_ms(0.99),
        server_cores=server_cores,
        server_resident_bytes=server_resident_bytes,
        missed=missed,
    )


def search(measure: Measure, slo: Slo, start: float, resolution: float) -> Capacity:
    """Finds the capacity to within `resolution` (0.05: the next rate that was tried and missed is at most 5 % higher).

    Args:
        start: the first rate to try; a good guess saves points and changes nothing else.
    """
    points: list[Point] = []

    def met(rate: float) -> bool:
        for _ in range(2):
            points.append(measure(rate, False))
            point = points[-1]
            narrow = point.error_share <= slo.errors and (point.p99_ms or 0.0) < _NARROW * slo.p99_ms
            if point.met or not narrow:
                break
        return points[-1].met

    low, high, rate = 0.0, float("inf"), start
    while high == float("inf") or low == 0:
        if met(rate):
            low, rate = rate, rate * 2
        else:
            high, rate = rate, rate / 2
        if not _LEAST_RATE <= rate <= _MOST_RATE:
            return Capacity(None, points)
    while high / low > 1 + resolution:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if met(middle) else (low, middle)
    for _ in range(_MOST_CONFIRMATIONS):
        points.append(measure(low, True))
        if points[-1].met:
            return Capacity(points[-1], points)
        low /= 1 + resolution
    return Capacity(None, points)
