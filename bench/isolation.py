"""One scenario's latency while another is offered far more than the machine can compute.

    python -m bench.isolation [--quick] --json bench/results/isolation.json

Scenario A is sent 30 % of what the machine computes, at Poisson moments, alone and while scenario B is offered five
times what the machine computes; the two conditions take turns, and the medians over rounds count. Latencies count from
the moment a request was due. A and B have a load generator each, on the server's cores. Exit status 1 if something
could not be measured.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from bench.engines import Fused
from bench.fleet import Fleet
from bench.inprocess import Workers
from bench.load import LoadError, closed, requests
from bench.result import Result
from bench.servers import SmtServer
from bench.shapes import load_shape
from smt.serving import loadgen
from smt.serving.registry import Registry

CACHE = Path("build/bench")
WORKERS = 2
ROWS = 64
FLOOD_ROWS = 256
SHARE, FLOOD = 0.3, 5.0
# What a worker of smt-server computes in one go, and A may have to wait for: rows, by default of --block-rows, or what
# takes so long if that is less (kBlockSeconds of its scheduler).
BLOCK_ROWS, BLOCK_MS = 256, 2.0
_CALLERS = 8  # that reach capacity
_CONNECTIONS = 4
_PAYLOADS = 64


class Bench:
    """One run, on a server of two scenarios."""

    def __init__(self, quick: bool) -> None:
        self.result = Result("isolation")
        self.rounds, self.seconds = (3, 5.0) if quick else (7, 10.0)
        self.fleet = Fleet(load_shape("R1").template, 2, CACHE)

    def measure(self, server: SmtServer, workers: Workers) -> None:
        """Both conditions in turns, then the targets."""
        a, b = self.fleet.names
        block_ms = min(workers.measure(BLOCK_ROWS, 1.0).median_ms, BLOCK_MS)
        streams = requests(self.fleet, server.target, {b: 1.0}, FLOOD_ROWS, 0, payloads=_PAYLOADS)
        capacity = closed(server.target, streams, _CALLERS, self.seconds / 2).rows_per_second
        print(f"capacity {capacity:,.0f} rows/s; a block takes {block_ms:.3f} ms", flush=True)
        conditions: dict[str, list[loadgen.LoadResult]] = {"alone": [], "flooded": []}
        # Before any flood: what they are made of is asked of the server.
        fresh = [
            requests(self.fleet, server.target, {a: 1.0}, ROWS, number, payloads=_PAYLOADS)
            for number in range(self.rounds)
        ]
        for number, quiet in enumerate(fresh):
            order = list(conditions)
            for condition in order if number % 2 == 0 else order[::-1]:
                result, flood = self._round(server, quiet, streams if condition == "flooded" else None, capacity)
                conditions[condition].append(result)
                self._add_row(f"A {condition}", ROWS, result)
                if flood is not None:
                    self._add_row("B", FLOOD_ROWS, flood)
        self._add_targets(conditions, block_ms)
        machine = {"load_average": list(os.getloadavg())}
        self.result.extra = {"machine": machine, "capacity_rows_per_second": capacity, "block_ms": block_ms}

    def _round(
        self,
        server: SmtServer,
        quiet: Sequence[loadgen.Stream],
        flood: Sequence[loadgen.Stream] | None,
        capacity: float,
    ) -> tuple[loadgen.LoadResult, loadgen.LoadResult | None]:
        """A's calls, and B's in the background from before A's are measured until after."""
        plan = self._plan(server, quiet, SHARE * capacity / ROWS, self.seconds, 1.0)
        if flood is None:
            return loadgen.run(plan), None
        with ThreadPoolExecutor(1) as pool:
            rate = FLOOD * capacity / FLOOD_ROWS
            background = pool.submit(loadgen.run, self._plan(server, flood, rate, self.seconds + 1.5, 0.0))
            return loadgen.run(plan), background.result()

    @staticmethod
    def _plan(
        server: SmtServer, streams: Sequence[loadgen.Stream], rate: float, seconds: float, warm_up_seconds: float
    ) -> loadgen.Plan:
        source = loadgen.Source(loadgen.Open(rate), streams)
        return loadgen.Plan(
            [server.target], [source], seconds=seconds, warm_up_seconds=warm_up_seconds, connections=_CONNECTIONS
        )

    def _add_row(self, who: str, rows: int, result: loadgen.LoadResult) -> None:
        total = result.total
        row = {
            "shape": f"R1, {who}",
            "rows": rows,
            "threads": WORKERS,
            "backend": "smt",
            "median_ms": total.latency.quantile_ms(0.5),
            "p99_ms": total.latency.quantile_ms(0.99),
            "rows_per_second": total.rows_per_second,
            "calls": {name: histogram.count for name, histogram in total.outcomes.items()},
            "generator_lag_p99_ms": result.lag.quantile_ms(0.99),
        }
        self.result.results.append(row)
        print(
            f"{who:10} p50 {row['median_ms'] or 0:7.3f} ms, p99 {row['p99_ms'] or 0:7.3f} ms, {row['calls']}",
            flush=True,
        )

    def _add_targets(self, conditions: dict[str, list[loadgen.LoadResult]], block_ms: float) -> None:
        p99 = {name: median(_p99(result) for result in results) for name, results in conditions.items()}
        allowed = 1.3 * p99["alone"] + block_ms
        what = f"A's p99 with B at {FLOOD:g}x capacity over 1.3 x its p99 alone ({p99['alone']:.3f} ms) + one block"
        self.result.target("isolation.p99", what, p99["flooded"] / allowed, "<=", 1.0)
        failed = sum(result.total.errors for results in conditions.values() for result in results)
        self.result.target("isolation.failures", "requests of A that failed", failed, "==", 0)


def _p99(result: loadgen.LoadResult) -> float:
    found = result.total.latency.quantile_ms(0.99)
    if found is None:
        raise LoadError(f"none of A's calls ended OK: {dict(result.total.totals)}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions; at most three minutes")
    parser.add_argument("--json", type=Path, required=True, help="result file to write")
    arguments = parser.parse_args()
    bench = Bench(arguments.quick)
    with tempfile.TemporaryDirectory(prefix="bench-isolation-") as folder:
        bench.fleet.publish(Registry(folder))
        with Workers(WORKERS, Fused(bench.fleet)) as workers, SmtServer(Path(folder), workers=WORKERS) as server:
            bench.measure(server, workers)
    bench.result.write(arguments.json)
    bench.result.print_targets()
    sys.exit(0 if all(target["value"] is not None for target in bench.result.targets) else 1)


if __name__ == "__main__":
    main()
