"""smt-loadgen against a running smt-server: paces, mixes, outcomes, and that no wait is left out of a latency."""

from __future__ import annotations

from typing import Any

import pytest

from smt.serving import loadgen
from smt.serving.loadgen import Closed, LoadResult, Open, Plan, Source, Stream
from tests.serving.support import RunningServer

MIX = {"feed": 3.0, "search": 1.0}


@pytest.fixture(scope="module")
def streams(server: RunningServer) -> list[Stream]:
    return loadgen.smt_streams(server.target, MIX, {16: 1.0}, payloads=8)


def load(server: RunningServer, source: Source, **options: Any) -> LoadResult:
    plan: dict[str, Any] = {"seconds": 0.5, "warm_up_seconds": 0.1, **options}
    return loadgen.run(Plan([server.target], [source], **plan))


def test_closed_loop(server: RunningServer, streams: list[Stream]) -> None:
    result = load(server, Source(Closed(4), streams))
    total = result.total
    assert total.errors == 0
    assert set(total.outcomes) == {"OK"}
    assert total.ok_rows == 16 * total.ok
    assert result.lag.count == 0
    feed, search = (result.streams[name].totals["OK"] for name in MIX)
    assert 2 < feed / search < 4.5


def test_open_loop_keeps_the_rate(server: RunningServer, streams: list[Stream]) -> None:
    """Fixed: exactly so many calls; Poisson: as many as its seed says, each time the same."""
    fixed = load(server, Source(Open(200, "fixed"), streams))
    assert (fixed.total.ok, fixed.total.totals) == (100, {"OK": 120})
    assert fixed.lag.count == 100
    counts = {load(server, Source(Open(400), streams), seed=seed).total.totals["OK"] for seed in (1, 1)}
    assert len(counts) == 1
    assert 180 < counts.pop() < 300
