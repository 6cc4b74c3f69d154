"""The server, through gRPC and with its load generator on the same cores: against its own binary, an empty gRPC call,
and NVIDIA Triton with OpenVINO; then beyond its capacity.

    python -m bench.serving [--quick] --json bench/results/serving.json

Everything that is compared takes turns in one run, on fresh random requests; the medians over rounds count. All servers
run from the start, and are idle while another is measured. Requests are of R1 (bench/templates/r1.yaml): per row 13
numbers and 26 integers, all sent per candidate. Exit status 1 if something could not be measured.
"""

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np

from bench.engines import Fused
from bench.fleet import Fleet
from bench.inprocess import Workers
from bench.load import K, Sample, Samples, alternate, closed, requests
from bench.overload import DEADLINES, Overload, growth, in_turns, overload, with_deadlines
from bench.peer_server import SETUPS, PeerUnavailableError, TritonServer, infer_request
from bench.result import Result
from bench.servers import EMPTY_METHOD, EmptyServer, SmtServer
from bench.shapes import load_shape, random_batch
from smt.serving import loadgen
from smt.serving.registry import Registry

CACHE = Path("build/bench")
WORKERS = 2
CALLERS = 4
# What the peer is measured on; the first is also compared with the binary.
ROWS = (256, 64)
ONE_ROW_CALLERS = (16, 64)
# Of the closed loops that show what the server's peak is; the best of them counts.
PEAK_CALLERS = (8, 16)
OVERLOAD_ROWS, OVERLOAD, DEADLINE_OVERLOAD = 256, 3.0, 2.0
FLAT_BYTES = 16 << 20
_PAYLOADS = 64
_MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"

Name = tuple[str, int, int]  # backend, rows, callers; callers 0: in-process


class Bench:
    """One run: its servers, and what was measured of them."""

    def __init__(self, quick: bool) -> None:
        self.result = Result("serving")
        self.rounds, self.seconds = (2, 1.0) if quick else (7, 2.0)
        self.overload_rounds, self.deadline_seconds = (7, 8.0) if quick else (15, 20.0)
        self.fleet = Fleet(load_shape("R1").template, 1, CACHE)
        self.mix = {self.fleet.names[0]: 1.0}
        self.left_out: list[dict[str, str]] = []
        self.samples: dict[Name, Samples] = {}

    @contextlib.contextmanager
    def servers(self) -> Iterator[None]:
        """Starts everything that is measured, and ends it."""
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-serving-")))
            self.fleet.publish(Registry(folder))
            self.workers = stack.enter_context(Workers(WORKERS, Fused(self.fleet)))
            self.empty = stack.enter_context(EmptyServer(CACHE))
            self.triton: TritonServer | None = None
            try:
                self.triton = stack.enter_context(TritonServer(self.fleet.problem(), SETUPS, CACHE))
            except PeerUnavailableError as error:
                self.left_out.append({"backend": "Triton", "why": str(error)})
                print(f"left out: {error}", flush=True)
            self.server = stack.enter_context(SmtServer(folder, workers=WORKERS))
            yield

    def measure(self) -> None:
        """Everything that takes turns."""
        contenders: dict[Name, Callable[[int], Sample]] = {}
        for rows in ROWS:
            contenders["in-process", rows, 0] = self._in_process(rows)
            contenders["smt", rows, CALLERS] = self._ours(rows, CALLERS)
            for model in self.triton.models if self.triton else ():
                contenders[f"Triton {model}", rows, CALLERS] = self._triton(model, rows)
        contenders["in-process", 1, 0] = self._in_process(1)
        for callers in (1, *ONE_ROW_CALLERS):
            contenders["smt", 1, callers] = self._ours(1, callers)
            contenders["empty gRPC call", 1, callers] = self._empty(callers)
        self.samples = alternate(contenders, self.rounds, _say)
        for (backend, rows, callers), samples in self.samples.items():
            self._add_row(backend, rows, callers, samples)

    def _add_row(self, backend: str, rows: int, callers: int, samples: Samples) -> None:
        row = {"shape": "R1", "rows": rows, "threads": WORKERS, "backend": backend, "callers": callers or None}
        self.result.results.append(row | samples.to_json())

    def measure_overload(self) -> None:
        """Beyond capacity: without deadlines, in turns with capacity itself, and with mixed ones."""
        streams = requests(self.fleet, self.server.target, self.mix, OVERLOAD_ROWS, seed=99)
        cpu = self.server.cpu_seconds()
        turns = in_turns(self.server, streams, PEAK_CALLERS, OVERLOAD, self.overload_rounds, self.seconds)
        cpu = self.server.cpu_seconds() - cpu
        plain, peak = turns.beyond, turns.peak
        for callers, samples in turns.peaks.items():
            self._add_row("smt", OVERLOAD_ROWS, callers, samples)
        self._add_overload("overload", median(turns.offered), peak, cpu, plain)
        before, cpu = self.server.metric("smt_expired_rows_total"), self.server.cpu_seconds()
        streams = requests(self.fleet, self.server.target, self.mix, OVERLOAD_ROWS, seed=99, **with_deadlines())
        offered = DEADLINE_OVERLOAD * peak
        source = loadgen.Source(loadgen.Open(offered / OVERLOAD_ROWS), streams)
        mixed = overload(self.server, [source], self.deadline_seconds)
        self._add_overload("overload, deadlines", offered, peak, self.server.cpu_seconds() - cpu, mixed)
        expired = self.server.metric("smt_expired_rows_total") - before
        add = self.result.target
        add("overload.goodput", f"{OVERLOAD:g}x capacity offered: goodput over peak", plain.goodput / peak, ">=", 0.95)
        what = f"{OVERLOAD:g}x capacity offered: p99 of rejected calls from their first bytes on, ms"
        add("overload.rejected_p99", what, plain.rejected_p99_ms, "<=", 5.0)
        what = f"{OVERLOAD:g}x capacity offered: growth of the server's memory once its queues are full, MiB"
        add("overload.memory", what, growth(plain.rss_bytes) / 2**20, "<=", FLAT_BYTES / 2**20)
        deadlines = ", ".join(f"{seconds * 1e3:g}" for seconds in DEADLINES)
        what = f"{DEADLINE_OVERLOAD:g}x capacity offered, deadlines of {deadlines} ms: "
        add("deadlines.expired", what + "rows computed after their deadline", expired, "==", 0)
        late = mixed.total.late_ok
        add("deadlines.late", what + "answers OK after their deadline by the client's clock", late, "==", 0)

    def _add_overload(self, name: str, offered: float, peak: float, cpu_seconds: float, found: Overload) -> None:
        row = {"shape": f"R1, {name}", "rows": OVERLOAD_ROWS, "threads": WORKERS, "backend": "smt"}
        row |= {"offered_per_second": offered / OVERLOAD_ROWS, "peak_rows_per_second": peak}
        self.result.results.append(row | {"server_cpu_seconds": cpu_seconds} | found.to_json())
        print(f"{name}: {found.goodput / peak:.3f} of peak; {dict(found.total.totals)}", flush=True)

    def _in_process(self, rows: int) -> Callable[[int], Sample]:
        return lambda number: Sample.of_calls(self.workers.measure(rows, self.seconds), rows)

    def _ours(self, rows: int, callers: int) -> Callable[[int], Sample]:
        def measure(number: int) -> Sample:
            streams = requests(self.fleet, self.server.target, self.mix, rows, number, payloads=_PAYLOADS)
            return closed(self.server.target, streams, callers, self.seconds)

        return measure

    def _triton(self, model: str, rows: int) -> Callable[[int], Sample]:
        assert self.triton is not None
        target = self.triton.target

        def measure(number: int) -> Sample:
            rng = np.random.default_rng(number)
            batches = [random_batch(self.fleet.shape, rows, rng) for _ in range(_PAYLOADS)]
            payloads = [loadgen.Payload(infer_request(model, batch), rows) for batch in batches]
            # As many bytes as the scores are, or it is no answer.
            least = 4 * rows * self.fleet.template.tasks
            stream = loadgen.Stream(model, _MODEL_INFER, payloads, min_response_bytes=least)
            return closed(target, [stream], CALLERS, self.seconds)

        return measure

    def _empty(self, callers: int) -> Callable[[int], Sample]:
        stream = loadgen.Stream("empty", EMPTY_METHOD, [loadgen.Payload(b"", 1)], min_response_bytes=0)
        return lambda number: closed(self.empty.target, [stream], callers, self.seconds)

    def add_targets(self) -> None:
        """What is asked of everything but overload."""
        add, at = self.result.target, self.samples
        rows = ROWS[0]
        share = at["smt", rows, CALLERS].rows_per_second / at["in-process", rows, 0].rows_per_second
        add("serving.binary", f"{CALLERS} clients x {rows} rows: rows/s over those of the binary", share, ">=", 0.8)
        ours, empty = (
            max(at[name, 1, callers].calls_per_second for callers in ONE_ROW_CALLERS)
            for name in ("smt", "empty gRPC call")
        )
        add("serving.one_row", "1 row: calls/s over those of an empty gRPC call", ours / empty, ">=", 0.5)
        over = at["smt", 1, 1].p50_ms - at["in-process", 1, 0].p50_ms
        what = "1 client, 1 row: p50 without compute over that of an empty gRPC call"
        add("serving.latency", what, over / at["empty gRPC call", 1, 1].p50_ms, "<=", 2.0)
        for rows, least in zip(ROWS, (2.0, 2.5), strict=True):
            ratio, p99 = _against_peer(at, rows)
            what = f"{CALLERS} clients x {rows} rows: "
            add(f"serving.triton_{rows}", what + "rows/s over Triton's", ratio, ">=", least)
            add(f"serving.triton_{rows}_p99", what + "p99 over Triton's", p99, "<", 1.0)

    def write(self, path: Path) -> bool:
        """Writes the file, and says whether every target was measured."""
        self.result.extra = {"machine": {"load_average": list(os.getloadavg())}, "left_out": self.left_out}
        self.result.write(path)
        return all(target["value"] is not None for target in self.result.targets)


def _against_peer(at: dict[Name, Samples], rows: int) -> tuple[float | None, float | None]:
    """Ours over the peer's set-up that is fastest at this point: rows/s and p99. None without a peer."""
    peers = [samples for name, samples in at.items() if name[0].startswith("Triton") and name[1] == rows]
    if not peers:
        return None, None
    ours, best = at["smt", rows, CALLERS], max(peers, key=lambda samples: samples.rows_per_second)
    assert ours.p99_ms is not None
    assert best.p99_ms is not None
    return ours.rows_per_second / best.rows_per_second, ours.p99_ms / best.p99_ms


def _say(name: K, sample: Sample) -> None:
    backend, rows, callers = name if isinstance(name, tuple) else (name, "", "")
    p99 = "" if sample.p99_ms is None else f", p99 {sample.p99_ms:7.3f} ms"
    print(
        f"{backend:24} {callers or '-':>3} x {rows:4} rows: {sample.rows_per_second:10,.0f} rows/s, "
        f"p50 {sample.p50_ms:7.3f} ms{p99}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions; at most three minutes")
    parser.add_argument("--json", type=Path, required=True, help="result file to write")
    arguments = parser.parse_args()
    bench = Bench(arguments.quick)
    with bench.servers():
        bench.measure()
        bench.add_targets()
        bench.measure_overload()
    complete = bench.write(arguments.json)
    bench.result.print_targets()
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    main()
