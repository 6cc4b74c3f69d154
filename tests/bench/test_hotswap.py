"""The parts of the benchmark of swaps, each on something small: they find what is wrong, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bench.delta import compiled
from bench.hotswap import keep
from bench.hotswap_crashes import kill_both
from bench.hotswap_freshness import deltas, peak_bytes, reset_peak, wholes
from bench.hotswap_swapper import KEPT, Rotation, Swaps
from bench.hotswap_versions import Name, Variants
from bench.result import Result
from smt.serving.registry import Registry
from tests.bench.support import tiny_shape


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Variants:
    folder = tmp_path_factory.mktemp("variants")
    return Variants(tiny_shape(folder).template, 2, KEPT, folder)


def test_a_swap_never_asks_for_what_the_server_has(variants: Variants, tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    versions = variants.publish(registry)
    rotation, made = Rotation(variants, registry, versions), Swaps()
    history = {name: [registry.current(name)] for name in variants.fleet.names}
    for number in range(60):
        rotation.swap(made)
        name = variants.fleet.names[number % 2]
        current = registry.current(name)
        assert current not in history[name][-2:]
        history[name].append(current)
    assert made.count == 60
    assert len(made.published) == 6
    assert set(made.published) <= {Name(name, version) for name in history for version in history[name] if version}
    assert all(KEPT <= len(registry.versions(name)) <= KEPT + 1 for name in history)


def test_the_peak_of_memory_is_kept() -> None:
    reset_peak(os.getpid())
    before = peak_bytes(os.getpid())
    block = bytearray(64 << 20)
    del block
    assert peak_bytes(os.getpid()) > before + (48 << 20)
    reset_peak(os.getpid())
    assert peak_bytes(os.getpid()) < before + (48 << 20)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_whole_versions_and_deltas_are_taken(cache: Path, tmp_path: Path) -> None:
    compiled(cache, tmp_path / "whole")
    whole, disk = wholes(tmp_path / "whole", 2, 2e6)
    assert len(disk) == 2
    assert min(disk) > 0
    assert [one.measured.chain for one in whole] == [0, 0]
    compiled(cache, tmp_path / "delta")
    changed, bookkeeping = deltas(tmp_path / "delta", 1, 20_000)
    assert [one.measured.chain for one in changed] == list(range(1, 9))
    assert all(one.measured.response_seconds > 0 < one.measured.publish_seconds for one in [*whole, *changed])
    assert bookkeeping > 0


def test_killed_publishers_and_servers_lose_nothing(cache: Path, tmp_path: Path) -> None:
    compiled(cache, tmp_path)
    found = kill_both(tmp_path, 3, seed=2)
    assert (found.kills, found.servers, sum(found.in_what.values())) == (3, 3, 3)
    assert (found.faults, found.lost, found.unserved) == ([], [], [])
    assert found.published


def test_parts_that_were_not_measured_are_kept() -> None:
    before: dict[str, Any] = {
        "parts": {"swaps": {"commit": "a"}, "freshness": {"commit": "b"}},
        "swaps": {"capacity": 1},
        "results": [{"part": "swaps", "rows": 1}, {"part": "freshness", "rows": 2}],
        "targets": [{"id": "swaps.p99"}, {"id": "freshness.whole"}],
    }
    result = Result("hotswap")
    result.extra["parts"] = {"freshness": {"commit": "c"}}
    keep(result, before, ["freshness"])
    assert result.extra["parts"] == {"freshness": {"commit": "c"}, "swaps": {"commit": "a"}}
    assert (result.results, result.targets) == (before["results"][:1], before["targets"][:1])
    assert result.extra["swaps"] == {"capacity": 1}
