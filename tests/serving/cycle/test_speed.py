"""How binaries are compared, without asking how fast this machine is."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from smt.serving.cycle.speed import compare_calls, median_interval, speed_measurement
from smt.training.cycle.capacity import CapacityGate, Speed
from smt.training.cycle.variant import Variant
from smt.training.techniques.technique import registered
from tests.training.support import make_scenario


def test_the_interval_of_a_median_covers_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    found = [median_interval(rng.lognormal(0, 1, 101)) for _ in range(2000)]
    assert all(low <= median <= high for low, median, high in found)
    assert 0.94 < np.mean([low <= 1 <= high for low, _, high in found]) < 0.98


def test_the_ratio_is_of_pairs_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    order: list[str] = []

    def spend(name: str, seconds: float) -> None:
        nonlocal clock
        order.append(name)
        # Everything takes twice as long from the middle on, on both sides.
        clock += seconds * (2 if len(order) > 120 else 1)

    monkeypatch.setattr(time, "perf_counter", lambda: clock)
    found = compare_calls(lambda: spend("before", 0.010), lambda: spend("after", 0.008), rows=100, repetitions=100)
    assert (found.low, found.ratio, found.high) == pytest.approx((1.25, 1.25, 1.25))
    assert order[20:24] == ["after", "before", "before", "after"]


def test_the_same_binary_is_not_measured_and_a_slower_one_is_refused(tmp_path: Path) -> None:
    path = make_scenario(tmp_path, train=100, valid=100).template.path
    incumbent = Variant.of(path)
    measured = []

    def measure(*templates: object) -> Speed:
        measured.append(templates)
        return Speed(1000, 980, 0.98, 0.97, 0.99)

    gate = CapacityGate(incumbent.template(), 0.01, measure)
    free = incumbent.plus(registered()["ema"].model_validate({"name": "ema"}))
    assert gate.fault(free) == ""
    assert not measured
    assert gate.to_json(free)["same_binary"]

    other = Variant(path, incumbent.data.replace('"rank":4', '"rank":3'))
    assert gate.sizes_fault(other) == ""
    assert "1,000 -> 980 rows/s, ratio 0.9800" in gate.fault(other)
    assert len(measured) == 1
    gate.fault(other)
    assert len(measured) == 1
    assert gate.to_json(other)["speed"]["ratio"] == 0.98
    assert CapacityGate(incumbent.template(), 0.03, measure).fault(other) == ""
    assert "none can be compiled" in CapacityGate(incumbent.template(), 0.01, None).fault(other)

    larger = Variant(path, incumbent.data.replace('"rank":4', '"rank":6'))
    assert "flops_per_row" in gate.fault(larger)
    assert "slab_bytes" in gate.fault(larger)
    assert len(measured) == 2  # of the other gate, not of the larger one


def test_two_templates_are_compiled_and_measured(tmp_path: Path) -> None:
    path = make_scenario(tmp_path, train=100, valid=100).template.path
    incumbent = Variant.of(path)
    other = Variant(path, incumbent.data.replace('"rank":4', '"rank":3'))
    measure = speed_measurement(tmp_path / "binaries", rows=16, repetitions=20)
    speed = measure(incumbent.template(), other.template())
    assert speed.low <= speed.ratio <= speed.high
    assert min(speed.before, speed.after) > 0
    assert len(list((tmp_path / "binaries").rglob("model.pt2"))) == 2
    again = speed_measurement(tmp_path / "binaries", rows=16, repetitions=20)
    assert again(incumbent.template(), other.template()) == speed  # recorded: a replay decides the same
