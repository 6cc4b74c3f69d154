"""The search for a server's capacity: on made-up servers, whose capacity is known, and on a real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from smt.serving.cli import app
from smt.serving.loadgen import Histogram, LoadgenError
from smt.serving.loadgen.capacity import Point, Slo, search
from smt.serving.loadgen.server_use import cores_between, local_server, look_at_metrics, look_at_process
from tests.serving.support import RunningServer

SLO = Slo(p99_ms=10.0)


class MadeUp:
    """A server whose p99 passes 10 ms at `capacity`; `hiccups` of its points are spoilt by something else."""

    def __init__(self, capacity: float, hiccups: frozenset[int] = frozenset()) -> None:
        self.capacity = capacity
        self.hiccups = hiccups
        self.count = 0
        self.longer: list[float] = []

    def __call__(self, rate: float, longer: bool) -> Point:
        self.count += 1
        self.longer += [rate] if longer else []
        p99 = 10.0 * (rate / self.capacity) ** 4 + (5.0 if self.count in self.hiccups else 0.0)
        missed = "" if p99 <= SLO.p99_ms else "slow"
        return Point(rate, 1.0, rate, rate, 1.0, p99, p99, 0, 0.0, 0.0, None, None, missed)


@settings(max_examples=200, deadline=None)
@given(st.floats(0.5, 1e6), st.floats(0.1, 1e6), st.sampled_from([0.01, 0.05, 0.3]), st.frozensets(st.integers(1, 40)))
def test_finds_the_capacity(capacity: float, start: float, resolution: float, hiccups: frozenset[int]) -> None:
    server = MadeUp(capacity)
    found = search(server, SLO, start, resolution)
    assert found.best is not None
    assert capacity / (1 + resolution) <= found.best.rate <= capacity
    assert found.points[-1] == found.best
    assert server.longer == [found.best.rate], "what was found is measured again, longer"
    assert len(found.points) < 100
    # Whatever disturbs single points, what is called capacity was kept when it was measured longer.
    disturbed = search(MadeUp(capacity, hiccups), SLO, start, resolution)
    assert disturbed.best is None or (disturbed.best.met and disturbed.best.rate <= capacity)


def test_one_hiccup_does_not_decide() -> None:
    """A narrow miss is measured again."""
    for number in range(1, 12):
        found = search(MadeUp(1000.0, frozenset({number})), SLO, 400.0, 0.05)
        assert found.best is not None
        assert found.best.rate > 1000 / 1.05**2


def test_servers_that_keep_no_promise_or_every_one() -> None:
    assert search(MadeUp(1e-3), SLO, 100.0, 0.1).best is None
    assert search(MadeUp(1e9), SLO, 100.0, 0.1).best is None


# Histograms


def histogram_of(values: list[int]) -> Histogram:
    """As smt-loadgen counts nanoseconds: see histogram.h."""
    lows = [value >> (shift := max(value.bit_length() - 11, 0)) << shift for value in values]
    lowest, counts = np.unique(np.array(lows, np.int64), return_counts=True)
    return Histogram(lowest, counts, float(sum(values)), min(values, default=0), max(values, default=0))


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 1 << 40), max_size=50), min_size=1, max_size=4), st.floats(0, 1))
def test_merged_histograms_are_as_exact_as_one(parts: list[list[int]], q: float) -> None:
    values = sorted(value for part in parts for value in part)
    merged = Histogram.merged(histogram_of(part) for part in parts)
    assert merged.count == len(values)
    if not values:
        assert merged.quantile_ms(q) is merged.mean_ms is merged.max_ms is None
        return
    exact = values[max(int(np.ceil(q * len(values))), 1) - 1] / 1e6
    found = merged.quantile_ms(q)
    assert found is not None
    assert exact <= found <= exact * (1 + 1 / 1024) + 1e-12
    assert merged.max_ms == values[-1] / 1e6
    assert merged.mean_ms == pytest.approx(sum(values) / len(values) / 1e6)
    assert Histogram.from_json(json.loads(json.dumps(merged.to_json()))).quantile_ms(q) == found


# What a server uses


@pytest.fixture
def busy() -> Iterator[subprocess.Popen[str]]:
    """A process whose child uses one core and 64 MiB, and which listens."""
    child = "x = bytearray(64 << 20)\nwhile True: pass"
    program = (
        "import socket, subprocess, sys\n"
        "listener = socket.create_server(('127.0.0.1', 0))\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        "print(listener.getsockname()[1], child.pid, flush=True)\n"
        "sys.stdin.read()\nchild.kill()\nchild.wait()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def test_use_of_a_process_and_its_children(busy: subprocess.Popen[str]) -> None:
    assert busy.stdout is not None
    port, child = (int(word) for word in busy.stdout.readline().split())
    assert local_server(f"127.0.0.1:{port}") == local_server(f"localhost:{port}") == busy.pid
    first = look_at_process(busy.pid)
    until = time.monotonic() + 30
    while (last := look_at_process(busy.pid)).cpu_seconds - first.cpu_seconds < 0.2:
        assert time.monotonic() < until, "the child's CPU time is not counted"
        time.sleep(0.05)
    assert last.resident_bytes > 64 << 20
    cores = cores_between(first, last)
    assert cores is not None
    assert 0 < cores < os.cpu_count() + 1  # type: ignore[operator]
    assert look_at_process(child).cpu_seconds <= last.cpu_seconds + 1


def test_use_that_cannot_be_seen(server: RunningServer) -> None:
    assert local_server("192.0.2.1:80") is None  # an address of documentation, so of another machine
    assert local_server("127.0.0.1:1") is None
    with pytest.raises(LoadgenError, match="no such process"):
        look_at_process(1 << 22)
    with pytest.raises(LoadgenError, match="Connection refused"):
        look_at_metrics("http://127.0.0.1:1/metrics")


def test_use_of_a_server_by_its_own_metrics_and_by_proc(server: RunningServer) -> None:
    own, ours = look_at_metrics(server.metrics_url), look_at_process(server.process.pid)
    assert local_server(server.target) == server.process.pid
    assert own.cpu_seconds == pytest.approx(ours.cpu_seconds, abs=0.5)
    assert own.resident_bytes == pytest.approx(ours.resident_bytes, rel=0.2)


# The command


def test_command(server: RunningServer, tmp_path: Path) -> None:
    output, plot = tmp_path / "capacity.json", tmp_path / "capacity.svg"
    options = ["-s", "feed:3", "-s", "search", "--rows", "16", "--payloads", "4", "--slo-p99-ms", "500"]
    effort = ["--seconds", "0.5", "--warm-up", "0.1", "--resolution", "1", "--start", "200"]
    files = ["--output", str(output), "--plot", str(plot), "--metrics", server.metrics_url]
    result = CliRunner().invoke(app, ["bench", "capacity", server.target, *options, *effort, *files])
    assert result.exit_code == 0, result.output
    assert "server's cores" in result.stdout
    content = json.loads(output.read_text())
    best = content["capacity"]
    assert best["met"]
    assert best["p99_ms"] <= 500
    assert best["rate"] >= 200
    assert {point["met"] for point in content["results"]} == {True, False}
    assert "<svg" in plot.read_text()
