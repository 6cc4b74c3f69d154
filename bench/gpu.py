"""The Triton kernels on a GPU: correctness against float64 first, then time against what could replace them.

    python -m bench.gpu [--quick] [--shapes R1 R3] [--append] --json bench/results/gpu.json

bench/gpu.sh runs the tests on the GPU before this. Per shape and number of rows, ours and the peers are captured in
CUDA graphs and take turns (bench/gpu_time.py); engines that are further from float64 than bfloat16 explains are not
timed. Then a training step, forward and backward of the interaction and the heads, against torch.compile; and, of a
template with experts, experts and heads alone. What could not run is listed in the file under `left_out` with the
reason. --append keeps the rows of shapes that this run does not measure, so that a long run can be made in parts. Exit
status 1 without a GPU, or when ours could not be measured.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench import gpu_engines
from bench.gpu_engines import OURS, OURS_COMPILED, Engine, OnnxRuntimeCuda, Problem, batch_bytes, on_device
from bench.gpu_heads import ExpertsHeads
from bench.gpu_targets import HEADS, TRAINING, add_targets
from bench.gpu_time import Timing, alternate, bf16_peak, captured, input_sets
from bench.gpu_training import TrainingStep, relative_error
from bench.result import Result
from bench.shapes import TABLE_ROWS, Batch, Shape, load_shape, random_arena, random_batch, random_table, reference

ROWS = (1, 16, 64, 256, 1024, 4096, 16384)
QUICK_ROWS = (1, 256, 1024, 16384)
TRAINING_ROWS = (4096, 16384)
REPLAYS, QUICK_REPLAYS = 60, 20
CHECKED_ROWS = 256  # of the first batch, in float64 on the CPU
# A probability that is further off is of another function: what bfloat16 does to these random weights is less.
SANE = 0.1
# Of a gradient or probabilities, by norm: bfloat16 autocast alone is 0.06 off on some biases' gradients.
SANE_PART = 0.15
MOST_STEP_SETS = 8  # of a training step: it keeps its activations as well
ONNX_CALLS = 50


class Bench:
    """One run: its rows, and what it left out."""

    def __init__(self, quick: bool) -> None:
        self.result = Result("gpu")
        self.left_out: list[dict[str, Any]] = []
        self.rows = QUICK_ROWS if quick else ROWS
        self.replays = QUICK_REPLAYS if quick else REPLAYS
        self.device = torch.device("cuda")
        self.peak = bf16_peak()

    def measure_shape(self, shape: Shape) -> None:
        """Ids to probabilities, at every number of rows."""
        slab, table = random_arena(shape, 1)[0], random_table(shape)
        problem = Problem(shape, slab, table.to(self.device))
        rng = np.random.default_rng(0)
        shared: dict[str, Engine] = {}
        for name, build in self._shared_engines(problem, rng).items():
            self._build(shape, None, name, build, shared)
        for rows in self.rows:
            self._measure_point(problem, rows, rng, dict(shared), reference_of(shape, slab, table))

    def _shared_engines(self, problem: Problem, rng: np.random.Generator) -> dict[str, Callable[[], Engine]]:
        """Those that take any number of rows."""
        example = on_device(random_batch(problem.shape, 2 * gpu_engines.ROW_BLOCK, rng), self.device)
        return {
            OURS: lambda: gpu_engines.triton(problem),
            OURS_COMPILED: lambda: gpu_engines.triton_compiled(problem, example),
            "eager bf16": lambda: gpu_engines.eager(problem),
            "ONNX Runtime CUDA": lambda: OnnxRuntimeCuda(problem, example),
        }

    def _build(self, shape: Shape, rows: int | None, name: str, build: Callable[[], Any], into: dict[str, Any]) -> None:
        started = time.monotonic()
        try:
            into[name] = build()
        except Exception as error:  # whatever an engine raises is why it is left out
            self._leave_out(shape, rows, name, error)
        else:
            print(f"{shape.name} {rows or ''} {name}: built in {time.monotonic() - started:.0f} s", flush=True)

    def _leave_out(self, shape: Shape, rows: int | None, name: str, why: Exception | str) -> None:
        lines = str(why).strip().splitlines()
        reason = lines[0] if lines else type(why).__name__
        self.left_out.append({"shape": shape.name, "rows": rows, "backend": name, "why": reason})
        print(f"{shape.name} {rows or ''} {name}: left out: {reason}", flush=True)

    def _measure_point(
        self, problem: Problem, rows: int, rng: np.random.Generator, engines: dict[str, Engine],
        expected: Callable[[Batch], NDArray[np.float64]],
    ) -> None:  # fmt: skip
        shape = problem.shape
        torch._dynamo.reset()
        first = random_batch(shape, rows, rng)
        on_gpu = on_device(first, self.device)
        self._build(shape, rows, "torch.compile bf16", lambda: gpu_engines.compiled(problem), engines)
        self._build(shape, rows, "AOTInductor bf16", lambda: gpu_engines.aot_inductor(problem, on_gpu), engines)
        exact, off = expected(first), {}
        for name in list(engines):
            try:
                with torch.no_grad():
                    found = engines[name](on_gpu)[:CHECKED_ROWS].double().cpu().numpy()
                off[name] = float(np.abs(found - exact).max()) if np.isfinite(found).all() else float("inf")
                if off[name] > SANE:
                    raise RuntimeError(f"differs from float64 by {off[name]:.3g}")
            except Exception as error:
                self._leave_out(shape, rows, name, error)
                del engines[name]
        count = input_sets(batch_bytes(on_gpu))
        sets = [on_gpu, *(on_device(random_batch(shape, rows, rng), self.device) for _ in range(count - 1))]
        timings = self._time(shape, rows, engines, sets)
        for name, timing in timings.items():
            flops = shape.flops_per_row * rows / (timing.median_ms * 1e-3)
            row = self._row(shape, rows, name, timing) | {"max_abs_dp": off[name], "input_sets": count}
            row |= {"gflops": flops * 1e-9, "peak_fraction": flops / self.peak}
            self.result.results.append(row | _ratio(name, timings))

    def _time(
        self, shape: Shape, rows: int, engines: dict[str, Any], sets: list[Any], grad: bool = False
    ) -> dict[str, Timing]:
        graphs = {}
        timings = {}
        with torch.set_grad_enabled(grad):
            for name, engine in engines.items():
                try:
                    if isinstance(engine, OnnxRuntimeCuda):
                        timings[name] = self._by_the_clock(engine, sets)
                    else:
                        graphs[name] = captured(engine, sets)
                except Exception as error:
                    self._leave_out(shape, rows, name, error)
        timings |= alternate(graphs, len(sets), self.replays)
        for name, timing in timings.items():
            print(f"{shape.name} {rows:6} rows {name:24} {timing.median_ms * 1e3:10.1f} us", flush=True)
        return timings

    @staticmethod
    def _by_the_clock(engine: OnnxRuntimeCuda, sets: list[Batch]) -> Timing:
        seconds = []
        for i in range(ONNX_CALLS + 5):
            started = time.perf_counter()
            engine(sets[i % len(sets)])
            seconds.append(time.perf_counter() - started)
        return Timing(np.array(seconds[5:]))

    def _row(self, shape: Shape, rows: int, name: str, timing: Timing) -> dict[str, Any]:
        return {
            "shape": shape.name,
            "rows": rows,
            "threads": 1,
            "backend": name,
            "median_ms": timing.median_ms,
            "p99_ms": timing.p99_ms,
        }

    def measure_training(self, shape: Shape) -> None:
        """Forward and backward of interaction and heads."""
        slab = random_arena(shape, 1)[0].to(self.device)
        for rows in TRAINING_ROWS:
            torch._dynamo.reset()
            step, generator = TrainingStep(shape, slab), torch.Generator().manual_seed(1)
            first = step.random_inputs(rows, generator)
            exact = TrainingStep(shape, slab.double()).gradients(first.double(), "reference")
            engines: dict[str, Any] = {OURS: lambda inputs, step=step: step.gradients(inputs, "triton")}
            self._build(shape, rows, "torch.compile bf16", step.compiled, engines)
            count = min(MOST_STEP_SETS, input_sets(first.x0.nbytes + first.h.nbytes + first.cross_gradient.nbytes))
            sets = [first, *(step.random_inputs(rows, generator) for _ in range(count - 1))]
            self._measure_part(shape, rows, TRAINING, engines, sets, exact, grad=True)

    def measure_heads(self, shape: Shape) -> None:
        """Experts and heads alone, forward: one launch, two launches, and the peers."""
        heads = ExpertsHeads(shape, random_arena(shape, 1)[0].to(self.device))
        generator = torch.Generator().manual_seed(2)
        for rows in self.rows:
            torch._dynamo.reset()
            first = heads.random_inputs(rows, generator)
            engines: dict[str, Any] = {OURS: heads.one_launch(), f"{OURS}, two launches": heads.two_launches()}
            engines["eager bf16"] = heads.reference
            self._build(shape, rows, "torch.compile bf16", heads.compiled, engines)
            sets = [first]
            sets += [heads.random_inputs(rows, generator) for _ in range(input_sets(first.nbytes) - 1)]
            self._measure_part(shape, rows, HEADS, engines, sets, (heads.exact(first),), grad=False)

    def _measure_part(
        self, shape: Shape, rows: int, part: str, engines: dict[str, Any], sets: list[Any],
        exact: tuple[torch.Tensor, ...], grad: bool,
    ) -> None:  # fmt: skip
        off = {}
        for name in list(engines):
            try:
                with torch.set_grad_enabled(grad):
                    found = engines[name](sets[0])
                off[name] = relative_error(found if isinstance(found, tuple) else (found,), exact)
                if off[name] > SANE_PART:
                    raise RuntimeError(f"differs from float64 by {off[name]:.3g} of the norm")
            except Exception as error:
                self._leave_out(shape, rows, f"{name}, {part}", error)
                del engines[name]
        timings = self._time(shape, rows, engines, sets, grad=grad)
        for name, timing in timings.items():
            row = self._row(shape, rows, name, timing) | {"part": part, "input_sets": len(sets)}
            self.result.results.append(row | {"relative_error": off[name]} | _ratio(name, timings))

    def write(self, path: Path, kept: dict[str, Any]) -> bool:
        """Adds what an earlier run measured, and the targets; says whether ours was measured everywhere."""
        self.result.results[:0] = kept.get("results", [])
        self.result.extra = {
            "machine": {"bf16_peak_tflops": self.peak * 1e-12, "cuda": torch.version.cuda, "triton": _triton_version()},
            "left_out": kept.get("left_out", []) + self.left_out,
        }
        add_targets(self.result)
        self.result.write(path)
        return not any(entry["backend"].startswith(OURS) for entry in self.left_out)


def _ratio(name: str, timings: dict[str, Timing]) -> dict[str, Any]:
    """How many times faster ours is than the best peer; None without a peer. Nothing for peers."""
    if not name.startswith(OURS):
        return {}
    peers = {peer: timing.median_ms for peer, timing in timings.items() if not peer.startswith(OURS)}
    best = min(peers, key=lambda peer: peers[peer], default=None)
    return {"best_peer": best, "ratio_best_peer": peers[best] / timings[name].median_ms if best else None}


def reference_of(shape: Shape, slab: torch.Tensor, table: torch.Tensor) -> Callable[[Batch], NDArray[np.float64]]:
    """Probabilities of a batch's first CHECKED_ROWS rows in float64, on the CPU."""

    def expected(batch: Batch) -> NDArray[np.float64]:
        rows, slots = min(batch.size, CHECKED_ROWS), batch.rows.shape[1]
        part = Batch(
            dense=batch.dense[:rows],
            rows=batch.rows[:rows],
            rows32=batch.rows32[:rows],
            ids=batch.ids[: rows * slots],
            offsets=batch.offsets[: rows * slots + 1],
            bag_index=batch.bag_index[:rows],
            block_slot=batch.block_slot,
        )
        return reference(shape, slab[None], table, part)

    return expected


def kept_rows(path: Path, shapes: list[str]) -> dict[str, Any]:
    """What the file has on other shapes."""
    if not path.exists():
        return {}
    content = json.loads(path.read_text())
    return {
        name: [row for row in content.get(name, []) if row["shape"] not in shapes] for name in ("results", "left_out")
    }


def _triton_version() -> str:
    import triton

    return str(triton.__version__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer numbers of rows, fewer repetitions")
    parser.add_argument("--shapes", nargs="+", choices=list(TABLE_ROWS), default=list(TABLE_ROWS))
    parser.add_argument("--append", action="store_true", help="keep the file's rows of other shapes")
    parser.add_argument("--json", type=Path, required=True, help="result file to write")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("bench.gpu: torch finds no GPU (torch.cuda.is_available() is False); run it on a machine with one")
    torch.backends.cuda.matmul.allow_tf32 = True
    bench = Bench(arguments.quick)
    for name in arguments.shapes:
        bench.measure_shape(load_shape(name))
        bench.measure_training(load_shape(name))
        if load_shape(name).template.components.experts.name == "mmoe":
            bench.measure_heads(load_shape(name))
    complete = bench.write(arguments.json, kept_rows(arguments.json, arguments.shapes) if arguments.append else {})
    for target in bench.result.targets:
        verdict = "met   " if target["met"] else "MISSED"
        print(f"{verdict} {target['id']}: {target['value']} {target['op']} {target['target']}")
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    main()
