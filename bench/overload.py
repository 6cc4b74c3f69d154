"""What a server does with more than it can compute: goodput, rejections, memory, and deadlines."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from bench.load import LoadError
from bench.servers import SmtServer
from smt.serving import loadgen

REJECTED = "RESOURCE_EXHAUSTED"
# Deadlines of the mixed load, in seconds: some that no request under overload can meet, and some that many can.
DEADLINES = (0.002, 0.005, 0.02, 0.1)
# How long an answer is waited for beyond its deadline, to see whether the server gives one.
_LINGER_SECONDS = 1.0
_CONNECTIONS = 8
_SAMPLE_SECONDS = 0.1  # between looks at the server's memory


@dataclass(frozen=True)
class Overload:
    """An open loop at a rate beyond capacity.

    Attributes:
        goodput: rows/s of answers OK.
        rejected_p99_ms: from a call's first bytes, which is when the server can know of it, to the status
            RESOURCE_EXHAUSTED; None: none was rejected.
        rejected_since_due_p99_ms: the same from the scheduled moment, so with what the call waited in the client.
        other: outcomes that are neither OK nor a rejection.
        rss_bytes: resident memory of the server, in steps of _SAMPLE_SECONDS.
    """

    result: loadgen.LoadResult
    rss_bytes: Sequence[int]

    @property
    def goodput(self) -> float:
        return self.result.total.rows_per_second

    @property
    def rejected_p99_ms(self) -> float | None:
        histogram = self.result.total.since_sent.get(REJECTED)
        return histogram.quantile_ms(0.99) if histogram is not None else None

    @property
    def rejected_since_due_p99_ms(self) -> float | None:
        histogram = self.result.total.outcomes.get(REJECTED)
        return histogram.quantile_ms(0.99) if histogram is not None else None

    @property
    def other(self) -> dict[str, int]:
        return {
            name: histogram.count
            for name, histogram in self.result.total.outcomes.items()
            if name not in ("OK", REJECTED) and histogram.count
        }

    def to_json(self) -> dict[str, Any]:
        total, lag = self.result.total, self.result.lag.quantile_ms(0.99)
        return {
            "rows_per_second": self.goodput,
            "calls": {name: histogram.count for name, histogram in total.outcomes.items()},
            "median_ms": total.latency.quantile_ms(0.5),
            "p99_ms": total.latency.quantile_ms(0.99),
            "rejected_p99_ms": self.rejected_p99_ms,
            "rejected_since_due_p99_ms": self.rejected_since_due_p99_ms,
            "late_ok": total.late_ok,
            "latest_ok_ms": total.latest_ok_ms,
            "generator_lag_p99_ms": lag,
            "generator_us_per_call": self.result.cpu_us_per_call,
            "rss_bytes": {"first": self.rss_bytes[0], "most": max(self.rss_bytes), "last": self.rss_bytes[-1]},
        }


def growth(samples: Sequence[int]) -> int:
    """From the first third of a run to its last: queues are full long before. Raises LoadError for too few samples."""
    if len(samples) < 3:
        raise LoadError(f"{len(samples)} samples of the server's memory; expected at least 3")
    third = len(samples) // 3
    return max(samples[-third:]) - max(samples[:third])


def overload(
    server: SmtServer, sources: Sequence[loadgen.Source], seconds: float, warm_up_seconds: float = 1.0
) -> Overload:
    """Runs open loops, and watches the server's memory meanwhile."""
    memory: list[int] = []
    plan = loadgen.Plan(
        [server.target], sources, seconds=seconds, warm_up_seconds=warm_up_seconds, connections=_CONNECTIONS
    )
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(loadgen.run, plan)
        while not wait([run], _SAMPLE_SECONDS).done:
            memory.append(server.rss_bytes())
        return Overload(run.result(), memory)


def with_deadlines(**options: Any) -> dict[str, Any]:
    """Options of streams whose calls have mixed deadlines, and that wait for late answers."""
    return {
        **options,
        "timeouts": [loadgen.Timeout(seconds) for seconds in DEADLINES],
        "linger_seconds": _LINGER_SECONDS,
    }
