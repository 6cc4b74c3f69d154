"""The counters of a running smt-server: every request is in exactly one, under its scenario and what became of it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest

from smt.serving import loadgen
from smt.serving.client import Client, PredictError
from smt.serving.encode import encode_all, to_columns
from smt.serving.loadgen import Closed, Plan, Source
from smt.serving.protos import prediction_pb2 as pb
from tests.serving.support import FEED, RunningServer, failed_start, wait_for

ROWS = FEED.rows(40)
PREDICT = "/smt.v1.PredictionService/Predict"
CODES = ("OK", "CANCELLED", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "RESOURCE_EXHAUSTED", "INTERNAL")
SCENARIOS = ("feed", "search", "video", "_unknown")


def counted(server: RunningServer) -> Counter[tuple[str, str]]:
    """Requests by scenario and status, where there are any."""
    found: Counter[tuple[str, str]] = Counter()
    for scenario in SCENARIOS:
        for code in (*CODES, "UNAVAILABLE"):
            found[scenario, code] = int(server.metric("smt_requests_total", scenario=scenario, code=code))
    return +found


class Calls:
    """Counts calls as they are made, the way the server should."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.expected: Counter[tuple[str, str]] = Counter()

    def predict(self, scenario: str, *arguments: Any, counts_as: str | None = None, **options: Any) -> None:
        code = "OK"
        try:
            self.client.predict(scenario, *arguments, **options)
        except PredictError as error:
            code = error.code.name
        self.expected[counts_as or scenario, code] += 1

    def multi_predict(self, scenarios: list[str], *arguments: Any, **options: Any) -> None:
        for scenario, answer in self.client.multi_predict(scenarios, *arguments, **options).items():
            code = answer.code.name if isinstance(answer, PredictError) else "OK"
            self.expected[scenario if scenario in SCENARIOS else "_unknown", code] += 1


def test_every_kind_of_call_is_counted_once(three: Path, tmp_path: Path) -> None:
    quotas = tmp_path / "scheduling.json"
    quotas.write_text(json.dumps({"scenarios": {"video": {"rows_per_second": 50}}}))
    with RunningServer(three, tmp_path, scheduling=quotas) as server, Client(server.target, timeout=60) as client:
        calls = Calls(client)
        spoilt: dict[str, Any] = {**ROWS.to_pydict(), "age": ["text"] * 40}
        for _ in range(3):
            calls.predict("feed", ROWS)
            calls.predict("search", ROWS)
            calls.predict("video", ROWS)  # the first one; then its quota is used up
            calls.predict("feed", spoilt)
            calls.predict("search", ROWS, version="v9")
            calls.predict("feed", ROWS, tasks=["buy"])
            calls.predict("fed", ROWS.to_pydict(), counts_as="_unknown")
            calls.predict("", ROWS.to_pydict(), counts_as="_unknown")
            calls.predict("feed", ROWS.to_pydict(), request_id="x" * 300)
            calls.multi_predict(["feed", "search", "video", "fed"], ROWS)
            calls.multi_predict(["feed", "search"], spoilt)
        with pytest.raises(PredictError):
            client.multi_predict(["feed", "feed"], ROWS)
        calls.expected["_unknown", "INVALID_ARGUMENT"] += 1  # as a whole: of no scenario
        with grpc.insecure_channel(server.target) as channel:
            for content, scenario in ((b"\xff", "_unknown"), (b"\x0a\x04feed\xff", "feed")):
                with pytest.raises(grpc.RpcError):
                    channel.unary_unary(PREDICT)(content, timeout=60)
                calls.expected[scenario, "INVALID_ARGUMENT"] += 1
        assert {code for _, code in calls.expected} == {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"}
        assert counted(server) == calls.expected
        for scenario in SCENARIOS:
            received = sum(count for (name, _), count in calls.expected.items() if name == scenario)
            assert server.metric("smt_request_seconds_count", scenario=scenario) == received
            ok = calls.expected[scenario, "OK"]
            assert server.metric("smt_queue_seconds_count", scenario=scenario) == ok
            assert server.metric("smt_rows_total", scenario=scenario) == 40 * ok


def test_the_generator_s_count_is_the_server_s(three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an overloaded server: what was answered how, by scenario, warm-up and end included."""
    monkeypatch.setenv("SMT_KERNELS", "portable")
    quotas = tmp_path / "scheduling.json"
    quotas.write_text(json.dumps({"default": {"queue_requests": 4}, "scenarios": {"video": {"rows_per_second": 1e4}}}))
    with RunningServer(three, tmp_path, workers=1, scheduling=quotas) as server:
        mix = {"feed": 2.0, "search": 1.0, "video": 1.0}
        streams = loadgen.smt_streams(server.target, mix, {256: 1.0}, payloads=4)
        result = loadgen.run(Plan([server.target], [Source(Closed(24), streams)], seconds=1.5, warm_up_seconds=0.3))
        expected = Counter(
            {(name, code): count for name, stream in result.streams.items() for code, count in stream.totals.items()}
        )
        assert counted(server) == +expected
        assert {code for _, code in expected} == {"OK", "RESOURCE_EXHAUSTED"}


def test_calls_of_a_drain_are_counted_under_their_scenario(
    three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that come while the last ones are computed are turned away; the metrics are there to the end."""
    monkeypatch.setenv("SMT_KERNELS", "portable")  # slower than the client, so that there is a queue
    patient = tmp_path / "scheduling.json"
    patient.write_text('{"default": {"queue_ms": 3600000}}')
    options: dict[str, Any] = {"workers": 1, "connection_calls": 1000, "scheduling": patient}
    rows = FEED.rows(4096)
    large = pb.PredictRequest(scenario="feed", rows=4096, candidates=encode_all(to_columns(rows))).SerializeToString()
    with RunningServer(three, tmp_path, **options) as server:
        with grpc.insecure_channel(server.target) as channel:
            predict = channel.unary_unary(PREDICT)
            predict(large, timeout=60)
            calls = [predict.future(large, timeout=60) for _ in range(100)]
            wait_for(lambda: server.metric("smt_queue_depth") > 50, "a queue")
            server.process.terminate()
            wait_for(lambda: server.events("draining"), "the drain")
            with pytest.raises(grpc.RpcError) as failure:
                predict(b"\x0a\x04feed\x18\x01", timeout=60)
            assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
            assert failure.value.details() == "the server is draining; send the request to another one"
            assert server.metric("smt_requests_total", scenario="feed", code="UNAVAILABLE") >= 1
            assert server.metric("smt_requests_total", scenario="_unknown") == 0
            codes = Counter(call.code() for call in calls)
        assert server.join() == 0
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert codes[grpc.StatusCode.OK] > 50


def test_a_scheduling_file_that_is_refused_opens_no_port(three: Path, tmp_path: Path) -> None:
    path = tmp_path / "scheduling.json"
    path.write_text('{"default": {"weight": 0}}')
    ports = tmp_path / "ports.json"
    status, _ = failed_start(three, "--scheduling", path, "--port-file", ports)
    assert status == 1
    assert not ports.exists()
