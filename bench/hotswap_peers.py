"""The same swaps in servers that have no weights-only update: line 6 of bench.hotswap.

Each server serves a few scenarios of R1. An open loop at 60 % of what it computes itself, for a while without swaps and
for a while with them: one scenario after the other gets new weights, each as soon as the one before is served, and no
sooner than the pace asks. Memory is that of all the server's processes, looked at every ten milliseconds.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from bench.hotswap_contenders import Contender, contenders
from bench.hotswap_versions import Variants
from bench.load import closed
from bench.peer_server import PeerUnavailableError
from bench.result import Result
from bench.servers import rss_bytes
from bench.shapes import load_shape
from bench.soak_changes import Repeated
from smt.serving import loadgen

SCENARIOS = 4
ROWS = 16
SHARE = 0.6
PACE = 20.0  # swaps per second at most
FULL, QUICK = 20.0, 5.0  # seconds of a phase
_CALLERS = 8
_LOOK_SECONDS = 0.01


class Memory:
    """The most that processes have resident together while it is looked at."""

    def __init__(self, contender: Contender) -> None:
        self._contender = contender
        self.most = 0

    def __call__(self) -> None:
        total = 0
        for pid in self._contender.pids:
            try:
                total += rss_bytes(pid)
            except (OSError, IndexError):  # one that has just ended
                continue
        self.most = max(self.most, total)


def compare(contender: Contender, scenarios: list[str], seconds: float) -> dict[str, Any]:
    """A row: one running contender without and with swaps. Raises LoadError, SwapError."""
    streams = contender.streams(ROWS)
    capacity = closed(contender.target, streams, _CALLERS, seconds / 2).rows_per_second
    source = loadgen.Source(loadgen.Open(SHARE * capacity / ROWS), streams)
    plan = loadgen.Plan([contender.target], [source], seconds=seconds, warm_up_seconds=1.0)
    steady = loadgen.run(plan)
    memory = Memory(contender)
    memory()
    before = memory.most
    end = threading.Event()
    with ThreadPoolExecutor(1) as pool, Repeated(memory, _LOOK_SECONDS):
        swaps = pool.submit(_swap, contender, scenarios, end)
        try:
            swapping = loadgen.run(plan)
        finally:
            end.set()
        taken = swaps.result()
    row: dict[str, Any] = {
        "part": "peers",
        "shape": "R1",
        "rows": ROWS,
        "threads": 2,
        "backend": contender.name,
        "scenarios": len(scenarios),
        "capacity_rows_per_second": capacity,
        "swaps": len(taken),
        "swaps_per_second": len(taken) / sum(taken) if taken else 0.0,
        "first_answer_ms": median(taken) * 1e3 if taken else None,
        "calls": sum(swapping.total.totals.values()),
        "failed": swapping.total.errors,
        "grown_mib": (memory.most - before) / 2**20,
        "resident_mib": before / 2**20,
    }
    for name, share in (("median", 0.5), ("p99", 0.99), ("p999", 0.999)):
        row[f"steady_{name}_ms"] = steady.total.latency.quantile_ms(share)
        row[f"{name}_ms"] = swapping.total.latency.quantile_ms(share)
    row["ratio_p99"] = row["p99_ms"] / row["steady_p99_ms"]
    return row


def _swap(contender: Contender, scenarios: list[str], end: threading.Event) -> list[float]:
    """Seconds of each swap, until `end`."""
    taken: list[float] = []
    while not end.is_set():
        began = time.monotonic()
        contender.swap(scenarios[len(taken) % len(scenarios)])
        taken.append(time.monotonic() - began)
        end.wait(max(0.0, 1 / PACE - taken[-1]))
    return taken


def measure(result: Result, quick: bool, cache: Path) -> None:
    """Adds a row for each server and targets. A peer that cannot be had is left out, and the file says why."""
    variants = Variants(load_shape("R1").template, SCENARIOS, 2, cache)
    left_out: dict[str, str] = {}
    rows = []
    for contender in contenders(variants):
        try:
            with contender:
                rows.append(compare(contender, variants.fleet.names, QUICK if quick else FULL))
        except PeerUnavailableError as error:
            left_out[contender.name] = str(error)
            continue
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    result.results += rows
    result.extra["peers"] = {"left_out": left_out}
    ours, *others = rows
    for key, what in (
        ("first_answer_ms", "from new weights to the first answer by them"),
        ("grown_mib", "growth of memory while swapping"),
        ("p99_ms", "p99 while swapping, each at 60 % of its own capacity"),
    ):
        ratio = ours[key] / min(row[key] for row in others) if others else None
        result.target(f"peers.{key.rpartition('_')[0]}", f"{what}, over the best peer's", ratio, "<", 1.0)
