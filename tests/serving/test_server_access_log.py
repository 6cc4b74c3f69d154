"""The access log of a running smt-server: which calls have a line, what it says, and that no client can forge one."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from smt.serving.client import Client, PredictError
from smt.serving.encode import encode_all, to_columns
from smt.serving.protos import prediction_pb2 as pb
from smt.serving.protos import prediction_pb2_grpc as pb_grpc
from tests.serving.support import FEED, RunningServer, wait_for

ROWS = FEED.rows(40)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
PREDICT = "/smt.v1.PredictionService/Predict"
FIELDS = ["time", "level", "event", "code", "message", "scenario", "version", "rows", "total_us", "queue_us"]
FIELDS += ["compute_us", "request_id", "traceparent"]


def lines(server: RunningServer) -> list[dict[str, Any]]:
    """Those of calls, in the order in which they ended."""
    return [line for line in server.log_lines() if line["event"] in ("request", "request_failed")]


def wait_for_lines(server: RunningServer, count: int) -> list[dict[str, Any]]:
    wait_for(lambda: len(lines(server)) >= count, f"{count} lines of calls in the log")
    return lines(server)


def request(**fields: Any) -> pb.PredictRequest:
    content: dict[str, Any] = {"scenario": "feed", "rows": 40, "candidates": encode_all(to_columns(ROWS)), **fields}
    return pb.PredictRequest(**content)


def test_every_call_has_a_line_at_a_rate_of_one(three: Path, tmp_path: Path) -> None:
    with RunningServer(three, tmp_path, access_log=1) as server:
        with grpc.insecure_channel(server.target) as channel:
            stub: Any = pb_grpc.PredictionServiceStub(channel)  # type: ignore[no-untyped-call]
            began = time.monotonic()
            stub.Predict(request(request_id="row-7"), timeout=60, metadata=(("traceparent", TRACE),))
            took = (time.monotonic() - began) * 1e6
            with pytest.raises(grpc.RpcError):
                stub.Predict(request(version="v9"), timeout=60)
            both = [pb.ScenarioRequest(scenario=name) for name in ("search", "nobody")]
            stub.MultiPredict(
                pb.MultiPredictRequest(scenarios=both, rows=40, candidates=request().candidates, request_id="m"),
                timeout=60,
                metadata=(("traceparent", TRACE),),
            )
        good, bad, first, second = wait_for_lines(server, 4)
        version = server.registry.current("feed")
        for line in (good, bad, first, second):
            assert list(line) == FIELDS
            assert line["level"] == "info"
            assert line["rows"] == 40
            assert line["total_us"] > 0
        assert (good["event"], good["code"], good["message"]) == ("request", "OK", "")
        assert (good["scenario"], good["version"], good["request_id"]) == ("feed", version, "row-7")
        assert good["traceparent"] == TRACE
        assert 0 < good["compute_us"] <= good["total_us"] <= took
        assert 0 <= good["queue_us"] <= good["total_us"]
        assert (bad["event"], bad["code"], bad["traceparent"]) == ("request_failed", "NOT_FOUND", "")
        assert bad["message"].startswith("version: 'v9' of scenario 'feed' is not being served")
        assert [(line["scenario"], line["code"]) for line in (first, second)] == [
            ("search", "OK"),
            ("nobody", "NOT_FOUND"),
        ]
        assert {(line["request_id"], line["traceparent"]) for line in (first, second)} == {("m", TRACE)}


@pytest.mark.parametrize("rate", [0, 0.25])
def test_the_rate_is_kept(three: Path, tmp_path: Path, rate: float) -> None:
    with RunningServer(three, tmp_path, access_log=rate) as server, Client(server.target, timeout=60) as client:
        for _ in range(400):
            client.predict("feed", ROWS)
        with pytest.raises(PredictError):
            client.predict("feed", ROWS, version="v9")
    found = len(lines(server))  # the server has ended: all are there
    if rate == 0:
        assert found == 0
    else:
        assert 50 < found < 150  # five deviations


def test_no_line_without_the_option(three: Path, tmp_path: Path) -> None:
    with RunningServer(three, tmp_path) as server, Client(server.target, timeout=60) as client:
        client.predict("feed", ROWS, request_id="quiet")
    assert "quiet" not in server.log_text()


FORGED = '{"time":"2026-01-01T00:00:00.000Z","level":"error","event":"forged"}'


@pytest.mark.parametrize(
    "text",
    [
        f"x\n{FORGED}\n",
        f'"}}\r\n{FORGED}',
        "\x00\x01\x1b[2J\x7f",
        f"\u2028{FORGED}\u2029\u0085",
        '", "code": "OK", "x": "',
        "\\u000a" + FORGED,
    ],
)
def test_a_request_id_forges_nothing(three: Path, tmp_path: Path, text: str) -> None:
    with RunningServer(three, tmp_path, access_log=1) as server, Client(server.target, timeout=60) as client:
        assert client.predict("feed", ROWS, request_id=text).request_id == text
        with pytest.raises(PredictError):
            client.predict("feed", ROWS, request_id=text, version=text)
        with pytest.raises(PredictError):
            client.predict(text, ROWS.to_pydict(), request_id=text)
        good, bad, nobody = wait_for_lines(server, 3)
        assert [line["request_id"] for line in (good, bad, nobody)] == [text] * 3
        assert (good["code"], bad["code"], nobody["code"]) == ("OK", "NOT_FOUND", "NOT_FOUND")
    raw = server.log_text()
    assert not server.events("forged")
    assert not set(raw) & set(map(chr, [*range(10), *range(11, 32), 127]))
    # Whatever takes more than "\n" for the end of a line finds no other lines either.
    for line in raw.splitlines():
        assert json.loads(line)["event"] != "forged"


@pytest.mark.parametrize("sent", [f"x {FORGED}", "y" * 5000, '"},{"event":"forged"', "00-" + "\\n" * 20])
def test_a_trace_context_forges_nothing(three: Path, tmp_path: Path, sent: str) -> None:
    with RunningServer(three, tmp_path, access_log=1) as server:
        with grpc.insecure_channel(server.target) as channel:
            channel.unary_unary(PREDICT)(request().SerializeToString(), timeout=60, metadata=(("traceparent", sent),))
        [line] = wait_for_lines(server, 1)
        assert list(line) == FIELDS
        assert len(line["traceparent"]) <= 64
        assert line["traceparent"][:20] == sent[:20]
        assert not server.events("forged")


def test_a_long_request_id_is_not_logged(three: Path, tmp_path: Path) -> None:
    with RunningServer(three, tmp_path, access_log=1) as server, Client(server.target, timeout=60) as client:
        with pytest.raises(PredictError, match="request_id: 300 bytes"):
            client.predict("feed", ROWS, request_id="x" * 300)
        [line] = wait_for_lines(server, 1)
        assert line["request_id"] == ""
        assert line["scenario"] == "feed"
