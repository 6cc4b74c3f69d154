"""Load on servers, as the serving benchmarks make it: closed and open loops of R1 requests, in turns."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

from bench.fleet import Fleet
from bench.inprocess import Measured
from smt.serving import loadgen

WARM_UP_SECONDS = 0.3
# Numbers of variance 1, as the network's weights expect them.
_NUMBERS = (-1.73, 1.73)
K = TypeVar("K", bound=Hashable)


class LoadError(RuntimeError):
    """A measurement that says nothing; the message says why."""


@dataclass(frozen=True)
class Sample:
    """One contender in one round. Latencies in milliseconds; None in-process, where only a call's time is known."""

    rows_per_second: float
    calls_per_second: float
    p50_ms: float
    p99_ms: float | None

    @staticmethod
    def of_load(result: loadgen.LoadResult) -> "Sample":
        """Raises LoadError if a call failed: a rate of errors is no throughput."""
        total = result.total
        if total.errors or not total.ok:
            raise LoadError(f"{total.ok} calls ended OK, and {total.errors} otherwise: {dict(total.totals)}")
        p50, p99 = (total.latency.quantile_ms(share) for share in (0.5, 0.99))
        assert p50 is not None
        return Sample(total.rows_per_second, total.ok_per_second, p50, p99)

    @staticmethod
    def of_calls(measured: Measured, rows: int) -> "Sample":
        rate = measured.rows_per_second
        return Sample(rate, rate / rows, measured.median_ms, None)


@dataclass(frozen=True)
class Samples:
    """One contender in all rounds: medians of them."""

    samples: Sequence[Sample]

    @property
    def rows_per_second(self) -> float:
        return median(sample.rows_per_second for sample in self.samples)

    @property
    def calls_per_second(self) -> float:
        return median(sample.calls_per_second for sample in self.samples)

    @property
    def p50_ms(self) -> float:
        return median(sample.p50_ms for sample in self.samples)

    @property
    def p99_ms(self) -> float | None:
        found = [sample.p99_ms for sample in self.samples if sample.p99_ms is not None]
        return median(found) if found else None

    def to_json(self) -> dict[str, Any]:
        return {
            "median_ms": self.p50_ms,
            "p99_ms": self.p99_ms,
            "rows_per_second": self.rows_per_second,
            "calls_per_second": self.calls_per_second,
            "rounds": len(self.samples),
        }


def alternate(
    contenders: Mapping[K, Callable[[int], Sample]], rounds: int, say: Callable[[K, Sample], None]
) -> dict[K, Samples]:
    """Measures the contenders in turns, starting with another one in each round. They are called with the round."""
    names = list(contenders)
    found: dict[K, list[Sample]] = {name: [] for name in names}
    for number in range(rounds):
        first = number * len(names) // rounds
        for name in names[first:] + names[:first]:
            found[name].append(contenders[name](number))
            say(name, found[name][-1])
    return {name: Samples(samples) for name, samples in found.items()}


def requests(
    fleet: Fleet, target: str, mix: Mapping[str, float], rows: int, seed: int, **options: Any
) -> list[loadgen.Stream]:
    """Random requests to our server for scenarios of a fleet, with weights. `options`: of every Stream."""
    ranges: dict[str, Any] = {f"number_{slot}": _NUMBERS for slot in range(fleet.template.slots.dense)}
    return loadgen.smt_streams(target, mix, {rows: 1.0}, ranges=ranges, seed=seed, **options)


def closed(
    target: str,
    streams: Sequence[loadgen.Stream],
    callers: int,
    seconds: float,
    seed: int = 0,
    connections: int | None = None,
) -> Sample:
    """Callers that wait for their answer and call again. `connections`: None: one for each of them."""
    source = loadgen.Source(loadgen.Closed(callers), streams)
    plan = loadgen.Plan(
        [target],
        [source],
        seconds=seconds,
        warm_up_seconds=WARM_UP_SECONDS,
        connections=callers if connections is None else connections,
        seed=seed,
    )
    return Sample.of_load(loadgen.run(plan))
