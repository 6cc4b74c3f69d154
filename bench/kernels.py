"""The fused kernels on the CPU, whole function from ids to probabilities, against every engine that could replace them.

    python -m bench.kernels [--quick] --json bench/results/kernels.json

At each point (shape, rows, threads) ours and the peers take turns on the same fresh random inputs, in blocks of calls
of which the first is not counted: it brings the engine's weights and threads back. Each engine is compared with float64
before it is timed; the median counts. The core's peak takes turns with them too, for the shares of it.
What did not run is listed in the file under `left_out`, with the reason.

Compiled peers and trained models are kept in build/bench. --quick makes fewer repetitions, and does without peers
that take long to compile unless a full run has compiled them. Exit status 1 if something could not be measured.
"""

import os

# Before torch is loaded: threads that wait for the next parallel region spin for libgomp's default time, as they do for
# whoever uses PyTorch as it comes. smt.training has them sleep at once, which is slower where nothing else runs.
os.environ.setdefault("GOMP_SPINCOUNT", "300000")

import argparse
import sys
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import census
from bench.kernel_targets import add_targets
from bench.machine import Pace, bf16_product, core_peak, kernel_peak, read_bandwidth
from bench.measure import Contender, Effort, Timing, alternate, difference
from bench.ours import FusedEngine
from bench.peer_build import ArtefactCache, Problem
from bench.peers import PEERS, Engine
from bench.result import Result
from bench.shapes import (
    ROWS,
    TABLE_ROWS,
    Batch,
    Shape,
    blocks_of,
    load_shape,
    random_arena,
    random_batch,
    random_table,
    reference,
    split_rows,
)
from smt.kernels import cpu
from smt.kernels.cpu import Precision
from smt.serving.registry import Registry

CACHE = Path("build/bench")
THREADS = (1, 2)
# Ours: fp32 is for debugging, and no part of this.
FUSED: tuple[Precision, ...] = ("bf16", "int8")
QUICK = Effort(rounds=2, block_seconds=0.02, least_calls=2)
FULL = Effort(rounds=6, block_seconds=0.15, least_calls=3)
MIXED_SHAPE, MIXED_ROWS, MIXED_SCENARIOS = "R1", 1024, (1, 4, 32)
# A peer whose probabilities are further off computes something else. Int8 is this far off on weights that are random.
SANE: dict[Precision, float] = {"fp32": 1e-4, "bf16": 0.1, "int8": 0.3}

Key = tuple[str, str]  # backend and variant
PACE: Key = ("pace", "")  # takes turns with the engines, and is none


class Bench:
    """One run: what it measures with, and what it has found."""

    def __init__(self, quick: bool) -> None:
        self.result = Result("kernels")
        self.effort = QUICK if quick else FULL
        self.cache = ArtefactCache(CACHE, slow_builds=not quick)
        self.left_out: list[dict[str, Any]] = []
        self.peaks = {precision: core_peak(precision) for precision in SANE}
        self.kernel_peak = kernel_peak("bf16")
        self.bandwidth = {threads: read_bandwidth(threads) for threads in THREADS}

    def measure_shape(self, shape: Shape) -> None:
        """Every number of rows on every number of threads."""
        problem = Problem(shape, random_arena(shape, 1)[0], random_table(shape))
        rng = np.random.default_rng(1)
        checked = {rows: random_batch(shape, rows, rng) for rows in ROWS}
        arena = problem.slab.unsqueeze(0)
        expected = {rows: reference(shape, arena, problem.table, batch) for rows, batch in checked.items()}
        for threads in THREADS:
            engines: dict[Key, Engine] = {
                (f"fused {precision}", ""): FusedEngine(
                    shape.template, precision, arena, problem.table, threads, self.cache
                )
                for precision in FUSED
            }
            engines |= self._peers(problem, threads, None)
            for rows in ROWS:
                here = engines | self._peers(problem, threads, rows)
                self._measure_point(shape, rows, threads, here, checked[rows], expected[rows])

    def _peers(self, problem: Problem, threads: int, rows: int | None) -> dict[Key, Engine]:
        """Peers that take any number of rows (None), or those made for exactly so many; those that fail are noted."""
        loaded: dict[Key, Engine] = {}
        for peer, variants in PEERS.items():
            for variant in variants:
                if variant.fixed_rows != (rows is not None):
                    continue
                try:
                    loaded[peer, variant.name] = variant.load(problem, rows or 0, threads, self.cache)
                except Exception as error:  # whatever an engine raises is why it is left out
                    self._leave_out(problem.shape, rows, threads, (peer, variant.name), _reason(error))
        return loaded

    def _leave_out(self, shape: Shape, rows: int | None, threads: int, key: Key, why: str) -> None:
        where = {"shape": shape.name, "rows": rows, "threads": threads, "backend": key[0], "variant": key[1]}
        self.left_out.append({**where, "why": why})

    def _measure_point(
        self,
        shape: Shape,
        rows: int,
        threads: int,
        engines: dict[Key, Engine],
        batch: Batch,
        expected: NDArray[np.float64],
    ) -> None:
        def make(rng: np.random.Generator) -> Batch:
            return random_batch(shape, rows, rng)

        off: dict[Key, float] = {}
        for key, engine in engines.items():
            try:
                found = difference(engine, batch, expected)
            except Exception as error:  # a peer may fail on this number of rows alone
                if key[0] not in PEERS:
                    raise
                self._leave_out(shape, rows, threads, key, _reason(error))
                continue
            if found <= SANE[_precision(key[0])]:
                off[key] = found
                continue
            why = f"differs from float64 by {found:.3g}"
            if key[0] not in PEERS:
                raise RuntimeError(f"{key[0]} on {rows} rows of {shape.name}, {threads} threads: {why}")
            self._leave_out(shape, rows, threads, key, why)
        pace = Pace("bf16")
        contenders = {PACE: Contender(pace, make)} | {key: Contender(engines[key], make) for key in off}
        timings = alternate(contenders, self.effort)
        del timings[PACE]
        speed = median(pace.found) / self.kernel_peak
        # Of each peer the variant that is fastest here.
        fastest = {key[0]: key for key in sorted(timings, key=lambda key: timings[key].median_ms, reverse=True)}
        peers = {name: timings[key] for name, key in fastest.items() if name in PEERS}
        for name, key in fastest.items():
            row = self._row(shape, rows, threads, name, timings[key], speed)
            row |= {"variant": key[1] or None, "max_abs_dp": off[key]}
            if name not in PEERS:
                row |= _ratios(timings[key], peers)
            self.result.results.append(row)
        best = min(peers, key=lambda name: peers[name].median_ms)
        ours = timings[("fused bf16", "")]
        print(
            f"{shape.name} {rows:5} rows, {threads} threads: {ours.median_ms:8.3f} ms; best peer "
            f"{peers[best].median_ms:8.3f} ms ({best}): {peers[best].median_ms / ours.median_ms:.2f}x",
            flush=True,
        )

    def _row(self, shape: Shape, rows: int, threads: int, backend: str, timing: Timing, speed: float) -> dict[str, Any]:
        """`speed`: of the machine meanwhile, over the best that was seen of it."""
        flops = shape.flops_per_row * rows / (timing.median_ms * 1e-3)
        return {
            "shape": shape.name,
            "rows": rows,
            "threads": threads,
            "backend": backend,
            "median_ms": timing.median_ms,
            "min_ms": timing.min_ms,
            "p99_ms": timing.p99_ms,
            "calls": len(timing.seconds),
            "gflops": flops * 1e-9,
            "machine_speed": speed,
            "peak_fraction": flops / (self.peaks[_precision(backend)] * speed * threads),
        }

    def measure_mixed(self) -> None:
        """Rows of several scenarios in one call; all read one pool of embeddings, so that only the weights differ."""
        shape = load_shape(MIXED_SHAPE)
        table = random_table(shape)
        arena = random_arena(shape, max(MIXED_SCENARIOS))
        rng = np.random.default_rng(2)
        slots = {count: blocks_of(split_rows(MIXED_ROWS, count, rng)) for count in MIXED_SCENARIOS}
        for threads in THREADS:
            engine = FusedEngine(shape.template, "bf16", arena, table, threads, self.cache)
            contenders = {count: Contender(engine, _mixed_batches(shape, slots[count])) for count in MIXED_SCENARIOS}
            off = {}
            for count, contender in contenders.items():
                batch = contender.make_batch(rng)
                off[count] = difference(engine, batch, reference(shape, arena, table, batch))
            pace = Pace("bf16")
            timings = alternate(contenders | {0: Contender(pace, _mixed_batches(shape, slots[1]))}, self.effort)
            del timings[0]
            speed = median(pace.found) / self.kernel_peak
            alone = timings[1].median_ms
            for count, timing in timings.items():
                padded = len(slots[count]) * cpu.ROW_BLOCK
                compute = alone * padded / MIXED_ROWS
                stream = count * engine.packed_bytes / self.bandwidth[threads] * 1e3
                row = self._row(shape, MIXED_ROWS, threads, "fused bf16", timing, speed)
                row |= {"shape": f"{shape.name}, scenarios: {count}", "scenarios": count, "max_abs_dp": off[count]}
                row |= {"padded_rows": padded, "compute_ms": compute, "stream_ms": stream}
                row |= {
                    "ratio_one_scenario": timing.median_ms / alone,
                    "ratio_limit": timing.median_ms / max(compute, stream),
                }
                self.result.results.append(row)
                print(f"{row['shape']}, {threads} threads: {timing.median_ms:.3f} ms, {padded} rows with padding")

    def measure_quality(self, registry: Registry) -> None:
        """Normalized entropy of trained models, in float64 and by the kernels."""
        for precision in FUSED:
            rows = census.quality_changes(registry, precision, self.cache)
            self.result.results += rows
            worst = max(row["ne_change"] for row in rows)
            print(f"census, fused {precision}: NE changes by {worst:.2e} at most", flush=True)

    def write(self, path: Path) -> bool:
        """Adds the targets, writes the file, and says whether all of them were measured."""
        self.result.extra = {
            "kernels": cpu.current(),
            "machine": {
                "peak_gflops_per_core": {precision: peak * 1e-9 for precision, peak in self.peaks.items()},
                "torch_bf16_product_gflops": {str(threads): bf16_product(threads) * 1e-9 for threads in THREADS},
                "read_gb_per_s": {str(threads): value * 1e-9 for threads, value in self.bandwidth.items()},
                "load_average": list(os.getloadavg()),
            },
            "shapes": {name: _described(load_shape(name)) for name in TABLE_ROWS},
            "left_out": self.left_out,
        }
        add_targets(self.result)
        self.result.write(path)
        return all(target["value"] is not None for target in self.result.targets)


def _mixed_batches(shape: Shape, block_slot: NDArray[np.int32]) -> Any:
    def make(rng: np.random.Generator) -> Batch:
        return random_batch(shape, len(block_slot) * cpu.ROW_BLOCK, rng, block_slot)

    return make


def _ratios(ours: Timing, peers: dict[str, Timing]) -> dict[str, Any]:
    """How many times faster than the best peer, and than the best that computes in floating point."""
    floating = {name: timing for name, timing in peers.items() if _precision(name) != "int8"}
    best, best_floating = (min(group, key=lambda name: group[name].median_ms) for group in (peers, floating))
    return {
        "best_peer": best,
        "ratio_best_peer": peers[best].median_ms / ours.median_ms,
        "best_float_peer": best_floating,
        "ratio_best_float_peer": peers[best_floating].median_ms / ours.median_ms,
    }


def _precision(backend: str) -> Precision:
    return next(precision for precision in SANE if backend.endswith(precision))


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _described(shape: Shape) -> dict[str, Any]:
    slots = shape.template.slots
    return {
        "mflop_per_row": shape.flops_per_row * 1e-6,
        "slab_mb": shape.slab_bytes * 1e-6,
        "table_rows_per_slot": shape.table_rows,
        "table_mb": slots.categorical * shape.table_rows * slots.dim * 4e-6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="fewer repetitions; some ten minutes on a CPU without bf16 instructions, three on others",
    )
    parser.add_argument("--json", type=Path, required=True, help="result file to write")
    parser.add_argument(
        "--registry", type=Path, help="snapshots of the census example; default: trained here (--quick: one scenario)"
    )
    arguments = parser.parse_args()
    bench = Bench(arguments.quick)
    for name in TABLE_ROWS:
        bench.measure_shape(load_shape(name))
    bench.measure_mixed()
    if arguments.registry is not None:
        registry = Registry(arguments.registry)
    elif arguments.quick:
        registry = census.trained_registry(CACHE / "census-quick", census.SCENARIOS[:1], epochs=1)
    else:
        registry = census.trained_registry(CACHE / "census", census.SCENARIOS, epochs=None)
    bench.measure_quality(registry)
    complete = bench.write(arguments.json)
    bench.result.print_targets()
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    main()
