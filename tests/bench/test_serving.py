"""Parts of the serving benchmarks: their servers, requests, turns, and what is made of the figures."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from bench import isolation
from bench.fleet import Fleet, feature_spec
from bench.load import LoadError, Sample, Samples, alternate, closed, requests
from bench.overload import DEADLINES, growth, in_turns, overload, with_deadlines
from bench.result import ROOT
from bench.scenarios import shares, streaming_limit
from bench.servers import EMPTY_METHOD, EmptyServer, ServerError, SmtServer, metric_sum
from bench.serving import _against_peer
from smt.kernels.transform import FeatureTransform, columns_from_arrow
from smt.serving import loadgen
from smt.serving.binary import batch_inputs
from smt.serving.client import Client
from smt.serving.registry import Registry
from smt.training.model import serving_function
from tests.bench.support import tiny_shape


def test_the_block_that_isolation_allows_for_is_the_schedulers() -> None:
    source = (ROOT / "serving" / "server" / "scheduler.cc").read_text()
    (seconds,) = re.findall(r"kBlockSeconds = (\S+);", source)
    assert float(seconds) * 1e3 == pytest.approx(isolation.BLOCK_MS)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    folder = tmp_path_factory.mktemp("fleet")
    return Fleet(tiny_shape(folder).template, 2, folder)


@pytest.fixture(scope="module")
def server(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmtServer]:
    folder = tmp_path_factory.mktemp("registry")
    published: list[int] = []
    fleet.publish(Registry(folder), published.append)
    assert published == [0, 1]
    with SmtServer(folder, workers=1) as running:
        yield running


def test_a_scenario_answers_with_its_own_weights(fleet: Fleet, server: SmtServer) -> None:
    rng = np.random.default_rng(0)
    transform = FeatureTransform(feature_spec(5, 3))
    columns = {
        inputs.name: rng.standard_normal(7).astype(np.float32)
        if inputs.type == "number"
        else rng.integers(0, 1 << 31, 7)
        for inputs in transform.inputs
    }
    assert len(columns) == 8
    function = serving_function(fleet.template).eval()
    names = [inputs.name for inputs in transform.inputs]
    raw = columns_from_arrow(pa.table(columns), names, transform.inputs)
    inputs = batch_inputs(transform.apply(7, raw))
    with Client(server.target) as client:
        for name, weights in zip(fleet.names, fleet.weights(), strict=True):
            found = client.predict(name, columns)
            with torch.no_grad():
                expected = function(weights.slab, weights.table, *inputs).numpy()
            for head, scores in enumerate(found.values()):
                np.testing.assert_allclose(scores, expected[:, head], rtol=0, atol=2e-2)


def test_closed_loops_reach_the_server(fleet: Fleet, server: SmtServer) -> None:
    cpu, rows = server.cpu_seconds(), server.metric("smt_rows_total")
    streams = requests(fleet, server.target, dict.fromkeys(fleet.names, 1.0), 16, seed=1, payloads=4)
    assert [stream.name for stream in streams] == fleet.names
    assert {payload.rows for stream in streams for payload in stream.payloads} == {16}
    sample = closed(server.target, streams, callers=2, seconds=0.3)
    assert server.metric("smt_rows_total") - rows >= sample.rows_per_second * 0.3
    assert server.cpu_seconds() > cpu
    assert sample.rows_per_second == pytest.approx(16 * sample.calls_per_second)
    assert sample.p99_ms is not None
    assert 0 < sample.p50_ms <= sample.p99_ms
    with pytest.raises(ServerError, match="/metrics has no smt_nothing"):
        server.metric("smt_nothing")


def test_failed_calls_are_no_throughput(fleet: Fleet, server: SmtServer) -> None:
    wrong = loadgen.Stream("wrong", "/smt.v1.PredictionService/Predict", [loadgen.Payload(b"", 1)])
    with pytest.raises(LoadError, match="0 calls ended OK"):
        closed(server.target, [wrong], callers=1, seconds=0.2)


def test_an_overload_is_watched(fleet: Fleet, server: SmtServer) -> None:
    streams = requests(fleet, server.target, {fleet.names[0]: 1.0}, 16, seed=1, payloads=4, **with_deadlines())
    assert [timeout.seconds for timeout in streams[0].timeouts] == list(DEADLINES)
    found = overload(server, [loadgen.Source(loadgen.Open(200.0), streams)], seconds=2.0)
    assert len(found.rss_bytes) >= 10
    assert min(found.rss_bytes) > 1 << 20
    assert found.goodput > 0
    assert found.to_json()["calls"]["OK"] == found.total.ok


def test_capacity_and_overload_take_turns(fleet: Fleet, server: SmtServer) -> None:
    streams = requests(fleet, server.target, {fleet.names[0]: 1.0}, 16, seed=1, payloads=4)
    found = in_turns(server, streams, (1, 2), factor=0.5, rounds=2, seconds=0.2)
    assert [len(samples.samples) for samples in found.peaks.values()] == [3, 3]
    assert found.peak == max(samples.rows_per_second for samples in found.peaks.values())
    assert len(found.beyond.rounds) == len(found.offered) == 2
    assert found.offered[0] == 0.5 * max(samples.samples[0].rows_per_second for samples in found.peaks.values())
    rates = [result.total.rows_per_second for result in found.beyond.rounds]
    assert found.beyond.goodput == sum(rates) / 2
    assert found.beyond.total.ok == sum(result.total.ok for result in found.beyond.rounds)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(ServerError, match=r"smt-server is not ready after [0-9]+ s: .*no-such"),
        SmtServer(tmp_path, no_such=1),
    ):
        pass


def test_the_empty_server_answers_and_ends_with_its_owner(tmp_path: Path) -> None:
    stream = loadgen.Stream("empty", EMPTY_METHOD, [loadgen.Payload(b"", 1)], min_response_bytes=0)
    with EmptyServer(tmp_path) as empty:
        sample = closed(empty.target, [stream], callers=2, seconds=0.2)
    assert sample.calls_per_second > 10
    with pytest.raises(loadgen.LoadgenError, match="cannot connect"):
        closed(empty.target, [stream], callers=1, seconds=0.2)
    # Whoever started it may die without a word: the end of its pipe is enough.
    program = tmp_path / "empty_server" / "empty-server"
    done = subprocess.run([program], input="", capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) > 0


def test_contenders_take_turns() -> None:
    called: list[tuple[str, int]] = []

    def contender(name: str) -> Any:
        def measure(number: int) -> Sample:
            called.append((name, number))
            return Sample(100.0 * number, 10.0, 2.0 + number, 9.0 if name == "a" else None)

        return measure

    said: list[str] = []
    found = alternate({"a": contender("a"), "b": contender("b")}, 3, lambda name, sample: said.append(name))
    assert called == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("b", 2), ("a", 2)]
    assert said == [name for name, _ in called]
    assert found["a"].to_json() == {
        "median_ms": 3.0, "p99_ms": 9.0, "rows_per_second": 100.0, "calls_per_second": 10.0, "rounds": 3,
    }  # fmt: skip
    assert found["b"].p99_ms is None


def test_of_a_peer_the_fastest_setup_counts() -> None:
    def samples(rows_per_second: float, p99_ms: float) -> Samples:
        return Samples([Sample(rows_per_second, 1.0, 1.0, p99_ms)])

    at = {
        ("smt", 64, 4): samples(300.0, 2.0),
        ("Triton slow", 64, 4): samples(50.0, 1.0),
        ("Triton fast", 64, 4): samples(100.0, 4.0),
        ("Triton fast", 256, 4): samples(900.0, 4.0),
    }
    assert _against_peer(at, 64) == (3.0, 0.5)
    assert _against_peer({("smt", 64, 4): samples(300.0, 2.0)}, 64) == (None, None)


def test_traffic_by_zipfs_law() -> None:
    assert shares(3, "uniform") == [1.0, 1.0, 1.0]
    assert shares(4, "zipf") == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])


def test_the_limit_of_streaming() -> None:
    # A request of 64 rows computes for 100 us; its megabyte takes 50 us to read, or 200.
    assert streaming_limit(64, 640_000, 1_000_000, 20e9) == pytest.approx(640_000)
    assert streaming_limit(64, 640_000, 1_000_000, 5e9) == pytest.approx(320_000)


def test_memory_is_judged_once_queues_are_full() -> None:
    assert growth([100, 300, 310, 305, 290, 320]) == 20
    with pytest.raises(LoadError, match="2 samples"):
        growth([1, 2])


def test_samples_of_a_metric_are_summed() -> None:
    text = 'x_total{a="1",b="2"} 3\nx_total{a="2",b="2"} 4\nx_total_more{a="1"} 9\n# HELP x_total y\n'
    assert metric_sum(text, "x_total", {}) == 7
    assert metric_sum(text, "x_total", {"a": "2"}) == 4
