"""The GPU benchmark without a GPU: it refuses to run; what it computes and writes, with plain calls for graphs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from bench import gpu, gpu_engines, gpu_targets
from bench.gpu_heads import ExpertsHeads
from bench.gpu_time import Timing
from bench.gpu_training import TrainingStep, relative_error
from bench.result import Result
from bench.shapes import FOLDER, Shape, random_arena, random_slab
from smt.kernels.backend import interpreting
from smt.training.template import load_template

ROOT = Path(__file__).resolve().parents[2]
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture(params=["r1", "r3"])
def shape(request: pytest.FixtureRequest, tmp_path: Path) -> Shape:
    """R1 or R3 with narrow layers."""
    template = yaml.safe_load((FOLDER / f"{request.param}.yaml").read_text())
    template["slots"] |= {"categorical": 3, "dim": 8}
    components = template["components"]
    components["dense_arch"]["units"] = [8, 8]
    components["interaction"]["rank"] = 4
    components["deep"]["units"] = [16]
    if components["experts"]["type"] == "mmoe":
        components["experts"] |= {"count": 3, "units": [12]}
    components["heads"] |= {"tasks": 2, "units": [6]}
    path = tmp_path / "template.yaml"
    path.write_text(yaml.safe_dump(template))
    return Shape(request.param.upper(), load_template(path), table_rows=50)


@no_gpu
@pytest.mark.parametrize("command", [["bash", "bench/gpu.sh"], [sys.executable, "-m", "bench.gpu", "--json", "x.json"]])
def test_without_a_gpu_it_says_so(command: list[str]) -> None:
    done = subprocess.run(
        command, cwd=ROOT, env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "GPU" in done.stderr
    assert "Traceback" not in done.stderr


def test_gradients_of_the_step(shape: Shape) -> None:
    """Ours and torch.compile's peer, before it is compiled, are the float64 step; a wrong gradient is seen."""
    if not interpreting():
        pytest.skip("bench/gpu.sh compares the step on the GPU")
    slab = random_slab(shape.template)
    step = TrainingStep(shape, slab)
    inputs = step.random_inputs(9, torch.Generator().manual_seed(0))
    exact = TrainingStep(shape, slab.double()).gradients(inputs.double(), "reference")
    ours = step.gradients(inputs, "triton")
    assert len(ours) == 2 + len(step.weights)
    assert relative_error(ours, exact) < 1e-5
    assert relative_error(step.gradients(inputs, "reference"), exact) < 1e-5
    assert relative_error((ours[0] * 1.1, *ours[1:]), exact) > 0.09
    assert relative_error((ours[0] * float("nan"), *ours[1:]), exact) == float("inf")


class _Calls:
    """In place of a graph."""

    def __init__(self, call: Callable[[Any], object], sets: Sequence[Any]) -> None:
        self._call, self._sets = call, sets

    def replay(self) -> None:
        for inputs in self._sets:
            self._call(inputs)


def _alternate(graphs: Mapping[str, _Calls], calls: int, replays: int) -> dict[str, Timing]:
    seconds = {}
    for name, graph in graphs.items():
        started = time.perf_counter()
        graph.replay()
        seconds[name] = Timing(np.array([(time.perf_counter() - started) / calls]))
    return seconds


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> gpu.Bench:
    """A run on the CPU, of engines that need no compiler."""
    if not interpreting():
        pytest.skip("kernels are not interpreted")

    def refuse(*_: object) -> gpu_engines.Engine:
        raise RuntimeError("not on a CPU")

    for name, value in {"captured": _Calls, "alternate": _alternate, "bf16_peak": lambda: 1e12}.items():
        monkeypatch.setattr(gpu, name, value)
    monkeypatch.setattr(gpu, "input_sets", lambda size: 2)
    monkeypatch.setattr(gpu, "OnnxRuntimeCuda", type("OnnxRuntimeCuda", (), {"__init__": refuse}))
    for name in ("triton_compiled", "compiled", "aot_inductor"):
        monkeypatch.setattr(gpu_engines, name, refuse)
    monkeypatch.setattr(gpu, "TRAINING_ROWS", (5,))
    for part in (TrainingStep, ExpertsHeads):
        monkeypatch.setattr(part, "compiled", refuse)
    run = gpu.Bench(quick=True)
    run.device, run.rows = torch.device("cpu"), (1, 5, 300)
    return run


def test_a_run(bench: gpu.Bench, shape: Shape, tmp_path: Path) -> None:
    bench.measure_shape(shape)
    bench.measure_training(shape)
    if shape.name == "R3":
        bench.measure_heads(shape)
    path = tmp_path / "gpu.json"
    assert not bench.write(path, {}), "ours in AOTInductor did not run"
    content = json.loads(path.read_text())
    forward = [row for row in content["results"] if "part" not in row]
    assert {(row["backend"], row["rows"]) for row in forward} == {
        (name, rows) for name in ("triton", "eager bf16") for rows in (1, 5, 300)
    }
    for row in forward:
        assert row.keys() >= {"shape", "rows", "threads", "backend", "median_ms", "p99_ms", "gflops", "peak_fraction"}
        assert row["max_abs_dp"] < (1e-5 if row["backend"] == "triton" else gpu.SANE)
    ratios = {row["rows"]: row["ratio_best_peer"] for row in forward if row["backend"] == "triton"}
    for row in forward:
        if row["backend"] == "eager bf16":
            ours = next(r for r in forward if r["backend"] == "triton" and r["rows"] == row["rows"])
            assert ratios[row["rows"]] == pytest.approx(row["median_ms"] / ours["median_ms"])
    (training,) = [row for row in content["results"] if row.get("part") == "training step"]
    assert training["relative_error"] < 1e-5
    assert training["ratio_best_peer"] is None, "no peer ran"
    heads = [row for row in content["results"] if row.get("part") == "experts and heads"]
    backends = {"triton", "triton, two launches", "eager bf16"} if shape.name == "R3" else set()
    assert {(row["backend"], row["rows"]) for row in heads} == {(name, r) for name in backends for r in (1, 5, 300)}
    assert all(row["relative_error"] < 1e-5 for row in heads)
    assert {"torch.compile bf16", "AOTInductor bf16", "ONNX Runtime CUDA", "triton in AOTInductor"} == {
        entry["backend"] for entry in content["left_out"]
    }


def test_what_computes_something_else_is_not_timed(
    bench: gpu.Bench, shape: Shape, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_engines, "eager", lambda problem: lambda batch: torch.ones(batch.size, 2))
    bench.measure_shape(shape)
    assert {row["backend"] for row in bench.result.results} == {"triton"}
    assert any(entry["backend"] == "eager bf16" and "float64" in entry["why"] for entry in bench.left_out)


def _row(shape: str, rows: int, ratio: float | None, **more: Any) -> dict[str, Any]:
    return {"shape": shape, "rows": rows, "backend": "triton", "ratio_best_peer": ratio, "peak_fraction": 0.5, **more}


def test_targets() -> None:
    result = Result("gpu")
    result.results = [
        _row("R1", 16, 1.8), _row("R1", 1024, 1.6), _row("R1", 16384, 1.2), _row("R3", 1, 1.4), _row("R2", 16384, 9.0),
        _row("R1", 4096, 0.1, part="training step"), _row("R3", 16384, None),
    ]  # fmt: skip
    gpu_targets.add_targets(result)
    found = {target["id"]: (target["value"], target["met"]) for target in result.targets}
    assert found == {
        "speed.R1.rows1024": (1.6, True),
        "speed.R3.rows1024": (1.4, False),
        "speed.R1.rows16384": (1.2, True),
        "speed.R3.rows16384": (None, False),
        "peak.R2": (0.5, False),
        "training.R1": (0.1, False),
        "training.R3": (None, False),
    }


def test_append_keeps_other_shapes(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    assert gpu.kept_rows(path, ["R1"]) == {}
    path.write_text(json.dumps({"results": [_row("R1", 1, 1.0), _row("R2", 1, 2.0)], "left_out": [{"shape": "R1"}]}))
    assert gpu.kept_rows(path, ["R1"]) == {"results": [_row("R2", 1, 2.0)], "left_out": []}


def test_the_peers_compute_the_function(shape: Shape) -> None:
    problem = gpu_engines.Problem(shape, random_arena(shape, 1)[0], torch.randn(150, 8) * 0.3)
    batch = gpu.random_batch(shape, 7, np.random.default_rng(0))
    exact = gpu.reference_of(shape, problem.slab, problem.table)(batch)
    assert np.abs(gpu_engines.eager(problem)(batch).numpy() - exact).max() < 0.05
