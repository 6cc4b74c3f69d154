"""Swaps under load: does anybody notice? Line 1 of bench.hotswap.

Twenty scenarios of R1. An open loop at 60 % of what the server computes asks for all of them; phases without and with
swaps (see hotswap_swapper.py) take turns, and a third kind, in which the publisher does the same to a registry that
nobody serves: generator, server and publisher share the machine's cores, and what the publisher takes of them is not
what a swap costs. Every answer of every phase is compared, bit by bit, with what the version that it names scores
in-process.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.hotswap_swapper import KEPT, Swapper
from bench.hotswap_versions import Expected, Variants, Verdict
from bench.load import LoadError, closed, requests
from bench.result import Result
from bench.servers import SmtServer
from bench.shapes import load_shape
from smt.serving import loadgen
from smt.serving.registry import Registry

SCENARIOS = 20
WORKERS = 2
ROWS = 16
SHARE = 0.6  # of capacity
RATE = 25.0  # swaps per second, over all scenarios
_CALLERS = 8  # that reach capacity
_CONNECTIONS = 4
_PAYLOADS = 4  # of each scenario
_WARM_UP = 1.0
_SETTLE_SECONDS = 10.0
_REST_SECONDS = 15.0  # the allocator keeps freed pages for ten (serving/server/allocator.cc)
QUANTILES = {"p50": 0.5, "p99": 0.99, "p999": 0.999}


@dataclass(frozen=True)
class Length:
    """Of a run: rounds of a phase of each kind; `steady_seconds` are those of the two kinds without swaps."""

    rounds: int
    steady_seconds: float
    swapping_seconds: float


# A core's speed changes by a third for seconds at a time, so that the ratio of one round may be 0.7 or 1.5: many short
# rounds, each of which is compared with itself.
FULL = Length(16, 11.0, 25.0)
QUICK = Length(4, 4.0, 6.0)
KINDS = ("steady", "publishing elsewhere", "swapping")


@dataclass(frozen=True)
class Phase:
    """One phase. swaps: that the server made of `asked`, each a version loaded and put into service."""

    name: str  # one of KINDS
    result: loadgen.LoadResult
    verdict: Verdict
    asked: int
    swaps: int
    published: int
    rss_bytes: int  # after it, at rest
    cpu_seconds: float  # of the server

    def quantile_ms(self, share: float) -> float:
        found = self.result.total.latency.quantile_ms(share)
        if found is None:
            raise LoadError(f"none of the {self.name} calls ended OK: {dict(self.result.total.totals)}")
        return found

    @property
    def failed(self) -> int:
        total = self.result.total.totals
        return sum(total.values()) - total.get("OK", 0)

    def to_json(self) -> dict[str, Any]:
        total = self.result.total
        times = {("median_ms" if name == "p50" else f"{name}_ms"): self.quantile_ms(q) for name, q in QUANTILES.items()}
        return {
            "part": "swaps",
            "shape": f"R1, {self.name}",
            "rows": ROWS,
            "threads": WORKERS,
            "backend": "smt",
            **times,
            "calls": sum(total.totals.values()),
            "failed": self.failed,
            "ended": dict(total.totals),
            "wrong": self.verdict.wrong,
            "compared": self.verdict.answers,
            "versions": len(self.verdict.of_version),
            "swaps": self.swaps,
            "published": self.published,
            "swaps_per_second": self.swaps / (self.result.seconds + _WARM_UP),
            "rows_per_second": total.rows_per_second,
            "generator_lag_p99_ms": self.result.lag.quantile_ms(0.99),
            "server_cpu_seconds": self.cpu_seconds,
            "rss_mib": self.rss_bytes / 2**20,
        }


class Bench:
    """One run on one server."""

    def __init__(self, variants: Variants, length: Length, say: Callable[[str], None] = print) -> None:
        self.variants, self.length, self._say = variants, length, say

    def run(self, folder: Path, rate: float = RATE) -> list[Phase]:
        """`folder`: for the registry and the answers. Raises LoadError, ServerError, RuntimeError."""
        root = folder / "registry"
        root.mkdir()
        self.versions = self.variants.publish(Registry(root))
        elsewhere = folder / "elsewhere"
        elsewhere.mkdir()
        others = self.variants.publish(Registry(elsewhere))
        with (
            SmtServer(root, workers=WORKERS) as server,
            Swapper(self.variants, root, self.versions) as swapper,
            Swapper(self.variants, elsewhere, others) as other,
        ):
            publishers = {"swapping": swapper, "publishing elsewhere": other}
            mix = dict.fromkeys(self.variants.fleet.names, 1.0)
            self._streams = requests(self.variants.fleet, server.target, mix, ROWS, 0, payloads=_PAYLOADS)
            self._expected: Expected = self.variants.expected(Registry(root), self._streams)
            self.fresh_rss = server.rss_bytes()
            self.capacity = closed(server.target, self._streams, _CALLERS, self.length.steady_seconds).rows_per_second
            self._say(f"capacity {self.capacity:,.0f} rows/s")
            # Afterwards every scenario has the version before in memory, as it will have at the end.
            self._phase(server, "swapping", swapper, folder, rate, 3 * self.variants.scenarios / rate)
            self.first_rss = _rss_at_rest(server)
            phases = []
            for number in range(self.length.rounds):
                turn = KINDS[number % 3 :] + KINDS[: number % 3]
                for kind in turn if number % 2 == 0 else turn[::-1]:
                    seconds = self.length.swapping_seconds if kind == "swapping" else self.length.steady_seconds
                    phases.append(self._phase(server, kind, publishers.get(kind), folder, rate, seconds))
                    row = phases[-1].to_json()
                    keys = (
                        "median_ms",
                        "p99_ms",
                        "p999_ms",
                        "calls",
                        "failed",
                        "wrong",
                    )
                    self._say(f"{kind:20} " + ", ".join(f"{key} {row[key]:.6g}" for key in keys))
            self.last_rss = _rss_at_rest(server)
            return phases

    def _phase(
        self, server: SmtServer, kind: str, publisher: Swapper | None, folder: Path, rate: float, seconds: float
    ) -> Phase:
        loads, cpu = server.metric("smt_snapshot_loads_total"), server.cpu_seconds()
        with tempfile.TemporaryDirectory(dir=folder) as answers:
            plan = loadgen.Plan(
                [server.target],
                [loadgen.Source(loadgen.Open(SHARE * self.capacity / ROWS), self._streams)],
                seconds=seconds,
                warm_up_seconds=_WARM_UP,
                connections=_CONNECTIONS,
                answers=Path(answers),
            )
            asked = published = 0
            if publisher is not None:
                publisher.start(rate, seconds + _WARM_UP)
            result = loadgen.run(plan)
            if publisher is not None:
                made = publisher.wait(seconds)
                if kind == "swapping":
                    self.versions |= made.published
                    asked, published = made.count, len(made.published)
            swaps = _settled(server, loads + asked) - loads
            cpu = server.cpu_seconds() - cpu
            verdict = self._expected.check(loadgen.read_answers(Path(answers)), self.versions)
        return Phase(kind, result, verdict, asked, round(swaps), published, server.rss_bytes(), cpu)


def _settled(server: SmtServer, loads: float) -> float:
    """How many loads the server has made, when it has made so many or makes no more."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while (found := server.metric("smt_snapshot_loads_total")) < loads and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def _rss_at_rest(server: SmtServer) -> int:
    """Bytes, when the server had time to give back what it freed."""
    time.sleep(_REST_SECONDS)
    return server.rss_bytes()


def compared(phases: list[Phase], kind: str, quantile: float) -> tuple[float, float]:
    """A quantile in phases of a kind over that without swaps, in the median round; and the latter in ms, in the median
    phase."""
    steady, found = ([p.quantile_ms(quantile) for p in phases if p.name == name] for name in ("steady", kind))
    return median(b / a for a, b in zip(steady, found, strict=True)), median(steady)


def pooled_ms(phases: list[Phase], name: str, quantile: float) -> float | None:
    """Of all calls of the phases of one kind together."""
    found = [phase.result.total.latency for phase in phases if phase.name == name]
    return loadgen.Histogram.merged(found).quantile_ms(quantile)


def measure(result: Result, quick: bool, cache: Path) -> None:
    """Adds rows, figures and targets. Raises what Bench.run raises."""
    with tempfile.TemporaryDirectory(prefix="bench-hotswap-") as folder:
        variants = Variants(load_shape("R1").template, SCENARIOS, KEPT, cache)
        bench = Bench(variants, QUICK if quick else FULL)
        phases = bench.run(Path(folder))
    swapping = [phase for phase in phases if phase.name == "swapping"]
    result.results += [phase.to_json() for phase in phases]
    result.extra["swaps"] = {
        "a_swap": "one scenario's `current` names a version that is not in memory: the server reads, verifies, packs "
        "and tries it, and serves it; nine of ten by promotion, one of ten by a new publication",
        "scenarios": SCENARIOS,
        "capacity_rows_per_second": bench.capacity,
        "load_share": SHARE,
        "swaps": sum(phase.swaps for phase in swapping),
        "published": sum(phase.published for phase in swapping),
        "weight_mib_per_version": bench.variants.fleet.weight_bytes / 2**20,
        "rss_mib": {
            "fresh": bench.fresh_rss / 2**20,
            "before": bench.first_rss / 2**20,
            "after": bench.last_rss / 2**20,
        },
        "publishing_elsewhere_over_steady": {
            name: compared(phases, "publishing elsewhere", q)[0] for name, q in QUANTILES.items()
        },
        "pooled_ms": {f"{kind} {name}": pooled_ms(phases, kind, q) for kind in KINDS for name, q in QUANTILES.items()},
    }
    add = result.target
    if not quick:
        add("swaps.count", "swaps under load", sum(phase.swaps for phase in swapping), ">=", 10_000)
    rate = sum(phase.swaps for phase in swapping) / sum(phase.result.seconds + _WARM_UP for phase in swapping)
    add("swaps.rate", f"swaps per second over {SCENARIOS} scenarios", rate, ">=", 20.0)
    calls = sum(phase.verdict.answers for phase in swapping)
    failed = sum(phase.failed for phase in phases)
    add("swaps.failed", f"requests that failed, of {calls:,} while swapping", failed, "==", 0)
    wrong = sum(phase.verdict.wrong for phase in phases)
    add("swaps.wrong", "answers whose scores are not, bit by bit, those of the version they name", wrong, "==", 0)
    for name, most in (("p99", 1.05), ("p999", 1.25)):
        ratio, steady = compared(phases, "swapping", QUANTILES[name])
        label = name.replace("p999", "p99.9")
        what = f"{label} while swapping over {label} without ({steady:.3f} ms), median of {len(swapping)} rounds"
        add(f"swaps.{name}", what, ratio, "<=", most)
    grown = bench.last_rss / bench.first_rss
    what = f"the server's memory after all swaps over that before, each {_REST_SECONDS:.0f} s after the last request"
    add("swaps.rss", what, grown, "<=", 1.02)
