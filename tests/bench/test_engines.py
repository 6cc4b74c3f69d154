"""Engines of many scenarios compute each one's own function, in processes of their own too."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.engines import EachOnnxRuntime, EachOpenVino, Fused
from bench.fleet import Fleet
from bench.inprocess import Callee, Workers, share
from bench.shapes import Shape, random_batch, reference
from tests.bench.support import tiny_shape

ALLOWED: dict[Callable[[Fleet], Any], float] = {Fused: 3e-2, EachOpenVino: 3e-2, EachOnnxRuntime: 1e-5}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    folder = tmp_path_factory.mktemp("fleet")
    return Fleet(tiny_shape(folder).template, 5, folder)


@pytest.mark.parametrize("kind", list(ALLOWED), ids=lambda kind: kind.__name__)
def test_every_scenario_has_its_own_weights(fleet: Fleet, kind: Callable[[Fleet], Any]) -> None:
    engine: Callee = kind(fleet)(1, 2)[0]
    mine = [weights for number, weights in enumerate(fleet.weights()) if number in (1, 3)]
    batches = [random_batch(fleet.shape, 33, np.random.default_rng(seed)) for seed in range(2)]
    for scenario, weights in enumerate(mine):
        for batch in batches:
            found = engine.run(scenario, engine.prepare(batch)).copy()
            expected = reference(fleet.shape, weights.slab[None], weights.table, batch)
            assert np.abs(found - expected).max() <= ALLOWED[kind]
            other = mine[1 - scenario]
            assert np.abs(found - reference(fleet.shape, other.slab[None], other.table, batch)).max() > 0.05


def test_scenarios_are_shared_out() -> None:
    assert [list(share(range(5), number, 2)) for number in range(2)] == [[0, 2, 4], [1, 3]]
    assert [list(share(range(1), number, 2)) for number in range(2)] == [[0], [0]]


class Slow:
    """Takes a millisecond, and remembers which scenarios it was called for."""

    def prepare(self, batch: Any) -> Any:
        return batch

    def run(self, scenario: int, prepared: Any) -> Any:
        import time

        assert scenario == 1  # the other one has no weight
        end = time.perf_counter() + 1e-3
        while time.perf_counter() < end:
            pass


class Factory:
    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def __call__(self, number: int, count: int) -> tuple[Callee, Shape]:
        return Slow(), self.shape


def test_processes_compute_at_the_same_time(fleet: Fleet) -> None:
    with Workers(2, Factory(fleet.shape)) as workers:
        measured = workers.measure(rows=16, seconds=0.3, mix=[0, 0, 1, 1])
    assert 1.0 <= measured.median_ms < 5.0
    assert len(measured.seconds) > 20
    assert measured.rows_per_second == pytest.approx(2 * 16 / measured.seconds.mean(), rel=0.2)


def broken(number: int, count: int) -> tuple[Callee, Shape]:
    raise RuntimeError("no memory")


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="in-process engine 0: RuntimeError: no memory"), Workers(1, broken):
        pass


def test_a_fleet_is_sent_to_processes_and_the_same_in_each(fleet: Fleet, tmp_path: Path) -> None:
    copy = pickle.loads(pickle.dumps(fleet))
    for one, other in zip(fleet.weights(), copy.weights(), strict=True):
        np.testing.assert_array_equal(one.slab, other.slab)
        np.testing.assert_array_equal(one.table, other.table)
