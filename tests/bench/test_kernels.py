"""The kernel benchmark: turns are fair, wrong and failing peers are reported, and the file says what was reached."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import kernels, machine, tables
from bench.kernel_targets import add_targets
from bench.measure import Contender, Effort, alternate
from bench.peers import PEERS, Engine, Load, Variant
from bench.result import Result
from bench.shapes import Batch, random_batch
from tests.bench.support import tiny_shape

EFFORT = Effort(rounds=3, block_seconds=0, least_calls=4)
ROW_KEYS = {"shape", "rows", "threads", "backend", "median_ms", "p99_ms", "max_abs_dp", "gflops", "peak_fraction"}


class Recorder:
    """An engine that notes what it is given."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name
        self.inputs: list[Batch] = []

    def bind(self, batch: Batch) -> None:
        self.inputs.append(batch)

    def run(self) -> None:
        self.log.append(self.name)

    def output(self) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return np.zeros((self.inputs[-1].size, 3), np.float32)


def test_engines_take_turns_on_the_same_fresh_inputs(tmp_path: Path) -> None:
    shape = tiny_shape(tmp_path)
    log: list[str] = []
    engines = {name: Recorder(log, name) for name in "ab"}

    def make(rng: np.random.Generator) -> Batch:
        return random_batch(shape, 2, rng)

    timings = alternate({name: Contender(engine, make) for name, engine in engines.items()}, EFFORT)
    block = EFFORT.least_calls + 1
    for name, engine in engines.items():
        assert len(timings[name].seconds) == EFFORT.rounds * EFFORT.least_calls
        timed = engine.inputs[-EFFORT.rounds * block :]
        assert len({batch.dense.numpy().tobytes() for batch in timed}) == len(timed)
    both = zip(engines["a"].inputs, engines["b"].inputs, strict=True)
    assert all(a.dense.equal(b.dense) for a, b in both)
    turns = "".join(log[-2 * EFFORT.rounds * block :])
    a, b = "a" * block, "b" * block
    assert turns == a + b + a + b + b + a


class Sensitive(Recorder):
    """An engine that fails on one row."""

    def run(self) -> None:
        if self.inputs[-1].size == 1:
            raise RuntimeError("expected more rows")


def sensitive(problem: Any, rows: int, threads: int, cache: Any) -> Engine:
    return Sensitive([], "sensitive")


def failing(*arguments: object) -> Engine:
    raise RuntimeError("needs another CPU\nand a second line")


def wrong(problem: Any, rows: int, threads: int, cache: Any) -> Engine:
    return Recorder([], "wrong")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> kernels.Bench:
    """A benchmark of one peer that is right, one that is wrong, one that fails on some rows and one that is absent."""
    monkeypatch.setattr(kernels, "core_peak", lambda precision: 1e11)
    monkeypatch.setattr(kernels, "kernel_peak", lambda precision: 2e11)
    monkeypatch.setattr(machine.cpu, "peak_flops", lambda precision: 1e11)  # half of what was seen before
    monkeypatch.setattr(kernels, "read_bandwidth", lambda threads: 1e10)
    monkeypatch.setattr(kernels, "bf16_product", lambda threads: 1e11)
    monkeypatch.setattr(kernels, "CACHE", tmp_path)
    monkeypatch.setattr(kernels, "FULL", EFFORT)
    monkeypatch.setattr(kernels, "ROWS", (1, 17))
    monkeypatch.setattr(kernels, "THREADS", (1,))
    monkeypatch.setattr(kernels, "FUSED", ("bf16",))
    loads: dict[str, Load] = {"wrong fp32": wrong, "absent bf16": failing, "sensitive fp32": sensitive}
    peers = {name: [Variant("only", load)] for name, load in loads.items()}
    monkeypatch.setattr(kernels, "PEERS", {"eager fp32": PEERS["eager fp32"], **peers})
    return kernels.Bench(quick=False)


def test_result_file(bench: kernels.Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = tiny_shape(tmp_path)
    bench.measure_shape(shape)
    path = tmp_path / "kernels.json"
    assert not bench.write(path), "what was asked of R1, R2 and R3 was not measured"
    content = json.loads(path.read_text())
    rows = content["results"]
    assert len(rows) == 4
    expected = {(count, name) for count in (1, 17) for name in ("eager fp32", "fused bf16")}
    assert {(row["rows"], row["backend"]) for row in rows} == expected
    for row in rows:
        assert set(row) >= ROW_KEYS
        assert row["min_ms"] <= row["median_ms"] <= row["p99_ms"]
        assert row["gflops"] == pytest.approx(shape.flops_per_row * row["rows"] / row["median_ms"] * 1e-6)
        assert row["machine_speed"] == 0.5
        assert row["peak_fraction"] == pytest.approx(row["gflops"] / 50)
        assert row["max_abs_dp"] < (1e-5 if row["backend"] == "eager fp32" else 3e-2)
        if row["backend"] == "fused bf16":
            assert row["best_peer"] == "eager fp32"
            [peer] = [r for r in rows if r["rows"] == row["rows"] and r["backend"] == "eager fp32"]
            assert row["ratio_best_peer"] == pytest.approx(peer["median_ms"] / row["median_ms"])
    left_out = {(entry["backend"], entry["rows"]): entry["why"] for entry in content["left_out"]}
    assert left_out[("absent bf16", None)] == "needs another CPU"
    assert left_out[("sensitive fp32", 1)] == "expected more rows"
    assert left_out[("wrong fp32", 17)].startswith("differs from float64 by 0.")
    assert all(target["value"] is None and not target["met"] for target in content["targets"])


def point(shape: str, rows: int, threads: int, ratio: float, peak: float) -> dict[str, Any]:
    return {
        "shape": shape, "rows": rows, "threads": threads, "backend": "fused bf16", "ratio_best_peer": ratio,
        "peak_fraction": peak,
    }  # fmt: skip


def test_targets_judge_the_worst_point() -> None:
    result = Result("kernels")
    for shape in ("R1", "R2", "R3"):
        for threads in (1, 2):
            for rows in (1, 16, 64, 256, 1024):
                slow = (shape, rows, threads) == ("R1", 64, 2)
                result.results.append(point(shape, rows, threads, 1.9 if slow else 2.1, 0.5 if shape == "R2" else 0.6))
    for threads in (1, 2):
        for count, ratio in ((4, 1.04), (32, 1.2)):
            ratios = {"ratio_one_scenario": ratio, "ratio_limit": ratio}
            result.results.append(
                {**point(f"R1, scenarios: {count}", 1024, threads, 0, 0.6), "scenarios": count, **ratios}
            )
    for precision, change in (("bf16", 0.9e-4), ("bf16", 2e-4), ("int8", 2e-4)):
        trained = {"shape": "census a", "backend": f"fused {precision}", "ne_change": change, "max_abs_dp": 1e-3}
        result.results.append(trained)
    add_targets(result)
    missed = {target["id"]: target["value"] for target in result.targets if not target["met"]}
    assert missed == {
        "speed.R1.rows16-1024.threads2": 1.9,
        "peak.R2": 0.5,
        "accuracy.bf16.ne": 2e-4,
        "mixed.32.threads1": 1.2,
        "mixed.32.threads2": 1.2,
    }
    assert len(result.targets) == 14 + 3 + 3 + 4


def test_a_point_that_is_missing_is_not_measured() -> None:
    result = Result("kernels")
    result.results = [point("R1", rows, 1, 3.0, 0.6) for rows in (1, 16, 64, 1024)]
    add_targets(result)
    values = {target["id"]: target["value"] for target in result.targets}
    assert values["speed.R1.rows1.threads1"] == 3.0
    assert values["speed.R1.rows16-1024.threads1"] is None
    assert values["peak.R1"] is None


def test_table() -> None:
    common = {"shape": "R1", "rows": 16, "threads": 1, "gflops": 400.0, "peak_fraction": 0.5, "max_abs_dp": 2e-3}
    content = {
        "shapes": {"R1": {}},
        "results": [
            {**common, "backend": "OpenVINO bf16", "median_ms": 0.5},
            {
                **common,
                "backend": "fused bf16",
                "median_ms": 0.25,
                "best_peer": "OpenVINO bf16",
                "ratio_best_peer": 2.0,
            },
            {"shape": "census a", "task": "t", "rows": 5, "backend": "fused bf16", "ne_change": 1e-5},
        ],
        "targets": [{"what": "speed", "value": None, "op": ">=", "target": 2.0, "met": False}],
    }
    lines = tables.kernels(content)
    assert "| speed | - | >= 2.0 | **no** |" in lines
    assert "| R1 | 16 | 1 | fused bf16 | 0.2500 | 400.0 | 0.5000 | 2.0e-03 | OpenVINO bf16 | 2.0000 |" in lines
    assert lines[-1] == "| R1 | 16 | 1 | 0.5000 | 0.2500 |"
