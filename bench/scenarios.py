"""Many scenarios in one server: throughput, memory and start-up against one scenario, and against an engine for each.

    python -m bench.scenarios [--quick] --json bench/results/scenarios.json

For each number of scenarios one server is started on a registry with as many, each with weights of its own. Closed
loops of R1 requests then take turns over all servers, traffic uniform or by Zipf's law. The peers are called
in-process, without a server in front, one process per core, each scenario's engine in one of them: none has to load or
drop an engine to answer. Exit status 1 if something could not be measured.

The limit for small requests: every request needs its scenario's packed weights, which with 300 scenarios come from
memory. At best reading them goes on while rows are computed, so a request of r rows takes no less than
max(r / rows_per_second of one scenario, packed bytes / bandwidth), with the bandwidth that all cores read with.
"""

import argparse
import contextlib
import gc
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.engines import EachOnnxRuntime, EachOpenVino, Fused
from bench.fleet import Fleet
from bench.inprocess import Factory, Workers
from bench.load import K, Sample, Samples, alternate, closed, requests
from bench.machine import read_bandwidth
from bench.result import Result
from bench.servers import SmtServer
from bench.shapes import load_shape
from smt.kernels import cpu
from smt.serving.fused import tile_program
from smt.serving.registry import Registry

CACHE = Path("build/bench")
WORKERS = 2
CALLERS = 4
COUNTS = (1, 10, 100, 300)
ROWS = (64, 256)
TRAFFIC = ("uniform", "zipf")
MOST = max(COUNTS)
PEERS: dict[str, Callable[[Fleet], Factory]] = {"OpenVINO bf16": EachOpenVino, "ONNX Runtime fp32": EachOnnxRuntime}
IN_PROCESS: dict[str, Callable[[Fleet], Factory]] = {"smt in-process": Fused, **PEERS}
_ZIPF = 1.0  # exponent
_PAYLOADS = 512  # of all scenarios together, but at least 4 of each

Name = tuple[str, int, str, int]  # backend, scenarios, traffic, rows


def shares(count: int, traffic: str) -> list[float]:
    """How traffic is spread over scenarios: weights, the greatest first. Raises KeyError for another law."""
    exponent = {"uniform": 0.0, "zipf": _ZIPF}[traffic]
    return [(number + 1) ** -exponent for number in range(count)]


def streaming_limit(rows: int, rows_per_second: float, packed_bytes: int, bandwidth: float) -> float:
    """Rows/s at most, where each request of `rows` reads its weights from memory while others are computed.

    Args:
        rows_per_second: of one scenario, whose weights stay in the caches.
        bandwidth: bytes/s that all cores together read.
    """
    return rows / max(rows / rows_per_second, packed_bytes / bandwidth)


class Bench:
    """One run: a server for each number of scenarios, and what was measured."""

    def __init__(self, quick: bool) -> None:
        self.result = Result("scenarios")
        self.rounds, self.seconds = (2, 0.7) if quick else (5, 2.0)
        self.template = load_shape("R1").template
        self.fleet = Fleet(self.template, MOST, CACHE)
        self.packed_bytes = cpu.packed_bytes(tile_program(self.template, "bf16"))
        self.left_out: list[dict[str, str]] = []
        self.samples: dict[Name, Samples] = {}
        self.rss: dict[int, int] = {}
        self.start_seconds: dict[int, float] = {}
        self.peer_memory: dict[str, int] = {}

    @contextlib.contextmanager
    def servers(self) -> Iterator[dict[int, SmtServer]]:
        """Publishes every scenario, and starts a server for each number of them, one after the other."""
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-scenarios-")))
            registries = {count: folder / str(count) for count in COUNTS}
            self.fleet.publish(Registry(registries[MOST]), lambda done: _progress("published", done + 1, MOST))
            servers = {}
            for count in COUNTS:
                self._subset(registries, count)
                servers[count] = stack.enter_context(SmtServer(registries[count], workers=WORKERS))
                self.rss[count] = servers[count].rss_bytes()
                self.start_seconds[count] = servers[count].start_seconds
                print(f"{count} scenarios: ready after {self.start_seconds[count]:.2f} s, "
                      f"{self.rss[count] / 2**20:.0f} MiB", flush=True)  # fmt: skip
            yield servers

    def _subset(self, registries: dict[int, Path], count: int) -> None:
        """A registry with the first scenarios of the largest one, by links to their folders."""
        registry, whole = registries[count], registries[MOST]
        if registry == whole:
            return
        (registry / "scenarios").mkdir(parents=True)
        (registry / "templates").symlink_to(whole / "templates")
        for name in self.fleet.names[:count]:
            (registry / "scenarios" / name).symlink_to(whole / "scenarios" / name)

    def measure(self, servers: dict[int, SmtServer]) -> None:
        """Ours, through gRPC."""
        contenders: dict[Name, Callable[[int], Sample]] = {}
        for count, server in servers.items():
            for traffic in TRAFFIC if count > 1 else TRAFFIC[:1]:
                for rows in ROWS:
                    contenders["smt", count, traffic, rows] = self._ours(server, count, traffic, rows)
        self.samples |= alternate(contenders, self.rounds, _say)

    def _ours(self, server: SmtServer, count: int, traffic: str, rows: int) -> Callable[[int], Sample]:
        mix = dict(zip(self.fleet.names, shares(count, traffic), strict=False))

        def measure(number: int) -> Sample:
            payloads = max(4, _PAYLOADS // count)
            streams = requests(self.fleet, server.target, mix, rows, number, payloads=payloads)
            return closed(server.target, streams, CALLERS, self.seconds, number)

        return measure

    def measure_in_process(self) -> None:
        """Ours without a server, then an engine of each peer for every scenario; one kind after the other, since all
        at once would not fit the memory of a small machine."""
        for backend, make in IN_PROCESS.items():
            try:
                with Workers(WORKERS, make(self.fleet)) as workers:
                    self.peer_memory[backend] = workers.memory_bytes
                    points = [(traffic, rows) for traffic in TRAFFIC for rows in ROWS]
                    contenders = {
                        (backend, MOST, traffic, rows): self._in_process(workers, traffic, rows)
                        for traffic, rows in points
                    }
                    self.samples |= alternate(contenders, self.rounds, _say)
            except RuntimeError as error:
                if backend not in PEERS:
                    raise
                self.left_out.append({"backend": backend, "why": str(error)})
                print(f"left out: {backend}: {error}", flush=True)

    def _in_process(self, workers: Workers, traffic: str, rows: int) -> Callable[[int], Sample]:
        mix = shares(MOST, traffic)
        return lambda number: Sample.of_calls(workers.measure(rows, self.seconds, mix), rows)

    def add_results(self, bandwidth: float) -> None:
        """A row for each point, then the targets."""
        for (backend, count, traffic, rows), samples in self.samples.items():
            row = {"shape": f"R1, {traffic}", "rows": rows, "threads": WORKERS, "backend": backend, "scenarios": count}
            row |= samples.to_json()
            if backend == "smt":
                one = self.samples["smt", 1, "uniform", rows].rows_per_second
                limit = one if count == 1 else streaming_limit(rows, one, self.packed_bytes, bandwidth)
                row |= {"ratio_one_scenario": samples.rows_per_second / one}
                row |= {"limit_rows_per_second": limit, "ratio_limit": samples.rows_per_second / limit}
            if backend not in PEERS and count == MOST and (best := self._best_peer(traffic, rows)) is not None:
                row |= {"best_peer": best[0], "ratio_best_peer": samples.rows_per_second / best[1]}
            self.result.results.append(row)
        self._add_targets()

    def _best_peer(self, traffic: str, rows: int) -> tuple[str, float] | None:
        found = {
            peer: samples.rows_per_second
            for (peer, _, law, size), samples in self.samples.items()
            if peer in PEERS and (law, size) == (traffic, rows)
        }
        return max(found.items(), key=lambda item: item[1]) if found else None

    def _add_targets(self) -> None:
        add = self.result.target
        largest = [row for row in self.result.results if row["backend"] == "smt" and row["scenarios"] == MOST]
        for rows, key, what in (
            (256, "ratio_one_scenario", "those of one scenario"),
            (64, "ratio_limit", "the limit of streaming weights"),
        ):
            worst = min(row[key] for row in largest if row["rows"] == rows)
            add(f"scenarios.rows_{rows}", f"{MOST} scenarios, {rows} rows: rows/s over {what}", worst, ">=", 0.9)
        ratios = [row["ratio_best_peer"] for row in largest if "ratio_best_peer" in row]
        worst_ratio = min(ratios) if len(ratios) == len(largest) else None
        what = f"{MOST} scenarios: rows/s through gRPC over those of one engine per scenario in-process"
        add("scenarios.engines", what, worst_ratio, ">=", 2.0)
        added = (self.rss[MOST] - self.rss[1]) / (MOST - 1) - self.served_bytes
        add("scenarios.memory", "memory per added scenario beyond its weights, MiB", added / 2**20, "<=", 1.0)
        add("scenarios.start", f"start-up with {MOST} scenarios, s", self.start_seconds[MOST], "<=", 20.0)

    @property
    def served_bytes(self) -> int:
        """Of one scenario's weights as the server holds them: dense ones packed, the table in float32."""
        return self.packed_bytes + 4 * self.fleet.table_rows * self.template.slots.dim

    def write(self, path: Path, bandwidth: float) -> bool:
        """Writes the file, and says whether every target was measured."""
        self.result.extra = {
            "machine": {"read_gb_per_s": bandwidth * 1e-9, "load_average": list(os.getloadavg())},
            "weights": {"packed_bytes": self.packed_bytes, "served_bytes": self.served_bytes,
                        "published_bytes": self.fleet.weight_bytes},
            "servers": [
                {"scenarios": count, "rss_bytes": self.rss[count], "start_seconds": self.start_seconds[count]}
                for count in COUNTS
            ],
            "engines": [
                {"backend": backend, "scenarios": MOST, "memory_bytes": memory, "bytes_per_scenario": memory / MOST}
                for backend, memory in self.peer_memory.items()
            ],
            "left_out": self.left_out,
        }  # fmt: skip
        self.result.write(path)
        return all(target["value"] is not None for target in self.result.targets)


def _progress(what: str, done: int, of: int) -> None:
    if done % 50 == 0 or done == of:
        print(f"{what} {done} of {of}", flush=True)


def _say(name: K, sample: Sample) -> None:
    assert isinstance(name, tuple)
    backend, count, traffic, rows = name
    print(
        f"{backend:18} {count:3} scenarios, {traffic:7}, {rows:3} rows: {sample.rows_per_second:10,.0f} rows/s, "
        f"p50 {sample.p50_ms:7.3f} ms",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions; at most three minutes")
    parser.add_argument("--json", type=Path, required=True, help="result file to write")
    arguments = parser.parse_args()
    bench = Bench(arguments.quick)
    bandwidth = read_bandwidth(WORKERS)
    with bench.servers() as servers:
        bench.measure(servers)
    gc.collect()
    bench.measure_in_process()
    bench.add_results(bandwidth)
    complete = bench.write(arguments.json, bandwidth)
    bench.result.print_targets()
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    main()
