"""What a server does with more than it can compute: goodput, rejections, memory, and deadlines."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.load import LoadError, Sample, Samples, closed
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
    """Open loops at a rate beyond capacity, one after the other.

    Attributes:
        goodput: rows/s of answers OK, the median over rounds.
        total: all rounds together.
        rejected_p99_ms: from a call's first bytes, which is when the server can know of it, to the status
            RESOURCE_EXHAUSTED; None: none was rejected.
        rejected_since_due_p99_ms: the same from the scheduled moment, so with what the call waited in the client.
        other: outcomes that are neither OK nor a rejection.
        rss_bytes: resident memory of the server, in steps of _SAMPLE_SECONDS.
    """

    rounds: Sequence[loadgen.LoadResult]
    rss_bytes: Sequence[int]

    @staticmethod
    def of(runs: Sequence["Overload"]) -> "Overload":
        """All rounds of all runs."""
        return Overload(
            [result for run in runs for result in run.rounds], [bytes_ for run in runs for bytes_ in run.rss_bytes]
        )

    @property
    def goodput(self) -> float:
        return median(result.total.rows_per_second for result in self.rounds)

    @property
    def total(self) -> loadgen.StreamResult:
        return loadgen.StreamResult.merged("total", [result.total for result in self.rounds])

    @property
    def rejected_p99_ms(self) -> float | None:
        histogram = self.total.since_sent.get(REJECTED)
        return histogram.quantile_ms(0.99) if histogram is not None else None

    @property
    def rejected_since_due_p99_ms(self) -> float | None:
        histogram = self.total.outcomes.get(REJECTED)
        return histogram.quantile_ms(0.99) if histogram is not None else None

    @property
    def other(self) -> dict[str, int]:
        return {
            name: histogram.count
            for name, histogram in self.total.outcomes.items()
            if name not in ("OK", REJECTED) and histogram.count
        }

    def to_json(self) -> dict[str, Any]:
        total = self.total
        lag = loadgen.Histogram.merged(result.lag for result in self.rounds).quantile_ms(0.99)
        cpu = sum(result.generator_cpu_seconds for result in self.rounds)
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
            "generator_us_per_call": cpu / total.calls * 1e6 if total.calls else None,
            "rounds": len(self.rounds),
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
        return Overload([run.result()], memory)


@dataclass(frozen=True)
class Turns:
    """Capacity and what is left of it beyond, measured in turns.

    Attributes:
        peaks: closed loops on the connections that the overload has, by the number of callers.
        beyond: the open loops between them.
        offered: rows/s, in each of those.
    """

    peaks: Mapping[int, Samples]
    beyond: Overload
    offered: Sequence[float]

    @property
    def peak(self) -> float:
        """rows/s: the median over rounds, with the number of callers that reaches most."""
        return max(samples.rows_per_second for samples in self.peaks.values())


def in_turns(
    server: SmtServer,
    streams: Sequence[loadgen.Stream],
    callers: Sequence[int],
    factor: float,
    rounds: int,
    seconds: float,
) -> Turns:
    """Rounds of overload, at `factor` times the peak as found so far, each between two looks at the peak.

    A machine whose speed wanders by tenths within minutes does so for both. `seconds`: of each measurement.
    """
    rows = streams[0].payloads[0].rows
    peaks: dict[int, list[Sample]] = {count: [] for count in callers}
    runs: list[Overload] = []
    offered: list[float] = []

    def look() -> Turns:
        for count, samples in peaks.items():
            samples.append(closed(server.target, streams, count, seconds, connections=_CONNECTIONS))
        return Turns({count: Samples(samples) for count, samples in peaks.items()}, Overload.of(runs), offered)

    for _ in range(rounds):
        offered.append(factor * look().peak)
        runs.append(overload(server, [loadgen.Source(loadgen.Open(offered[-1] / rows), streams)], seconds))
    return look()


def with_deadlines(**options: Any) -> dict[str, Any]:
    """Options of streams whose calls have mixed deadlines, and that wait for late answers."""
    return {
        **options,
        "timeouts": [loadgen.Timeout(seconds) for seconds in DEADLINES],
        "linger_seconds": _LINGER_SECONDS,
    }
