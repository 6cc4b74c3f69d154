"""smt-loadgen against a running smt-server: paces, mixes, every outcome, and that no wait is left out of a latency."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smt.serving import loadgen
from smt.serving.client import PredictError
from smt.serving.compile import BinaryInfo
from smt.serving.loadgen import (
    Arrival,
    Closed,
    LoadgenError,
    LoadResult,
    Open,
    Payload,
    Plan,
    Replay,
    Source,
    Stream,
)
from smt.serving.loadgen.payloads import PREDICT
from smt.serving.loadgen.plan import Timeout
from smt.serving.protos import prediction_pb2 as pb
from smt.serving.registry import Registry
from smt.serving.tls import Tls, TlsError
from smt.training.template import Template
from tests.serving.certificates import Authority
from tests.serving.load import predicted
from tests.serving.support import FEED, SANITIZED, RunningServer, copy_binaries

Compiled = tuple[Path, BinaryInfo, list[str]]
MIX = {"feed": 3.0, "search": 1.0}
ROWS = 16


@pytest.fixture(scope="module")
def streams(server: RunningServer) -> list[Stream]:
    return loadgen.smt_streams(server.target, MIX, {ROWS: 1.0}, payloads=8)


@pytest.fixture
def own_server(registry_folder: Path, template: Template, tmp_path: Path) -> Iterator[RunningServer]:
    """One that a test may stop."""
    FEED.publish(Registry(registry_folder), template, seed=1)
    with RunningServer(registry_folder, tmp_path) as running:
        yield running


def plan(server: RunningServer, source: Source, **options: Any) -> Plan:
    return Plan([server.target], [source], **{"seconds": 0.5, "warm_up_seconds": 0.1, **options})


def load(server: RunningServer, source: Source, **options: Any) -> LoadResult:
    return loadgen.run(plan(server, source, **options))


def during(server: RunningServer, made: Plan, action: Callable[[], None]) -> LoadResult:
    """Runs a plan, and the action beside it as soon as calls are answered."""
    before = predicted(server)
    failures: list[BaseException] = []

    def act() -> None:
        try:
            until = time.monotonic() + 30
            while predicted(server) == before and time.monotonic() < until:
                time.sleep(0.01)
            action()
        except BaseException as error:
            failures.append(error)

    beside = threading.Thread(target=act)
    beside.start()
    result = loadgen.run(made)
    beside.join()
    assert not failures, failures
    return result


# Paces


def test_closed_loop(server: RunningServer, streams: list[Stream]) -> None:
    result = load(server, Source(Closed(4), streams))
    total = result.total
    assert set(total.outcomes) == {"OK"}
    assert total.ok_rows == ROWS * total.ok
    assert total.request_bytes > total.response_bytes > 0
    assert (result.lag.count, result.sources[0].lag) == (0, None)
    feed, search = (result.streams[name].totals["OK"] for name in MIX)
    assert 2 < feed / search < 4.5


def test_every_answer_is_kept_if_wanted(server: RunningServer, streams: list[Stream], tmp_path: Path) -> None:
    result = load(server, Source(Closed(2), streams), answers=tmp_path, threads=2, connections=2)
    kept = list(loadgen.read_answers(tmp_path))
    assert len(kept) == result.total.totals["OK"]
    assert {answer.payload for answer in kept} == set(range(8))
    expected: dict[tuple[int, int], set[bytes]] = {}
    for stream, payload, message in kept:
        tasks = pb.PredictResponse.FromString(message).tasks
        scores = b"".join(part.SerializeToString() for part in tasks)
        assert len(tasks[0].probabilities) == ROWS
        expected.setdefault((stream, payload), set()).add(scores)
    assert len(expected) == 16
    assert all(len(scores) == 1 for scores in expected.values())
    file = tmp_path / "answers-0.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(LoadgenError, match=r"answers-0\.bin: ends within a record"):
        list(loadgen.read_answers(tmp_path))


def test_answers_that_cannot_be_kept_end_the_run(server: RunningServer, streams: list[Stream], tmp_path: Path) -> None:
    with pytest.raises(LoadgenError, match=r"answers-0\.bin: cannot be written"):
        load(server, Source(Closed(1), streams), answers=tmp_path / "missing")


def test_closed_loop_waits_and_thinks(server: RunningServer, streams: list[Stream]) -> None:
    """Two callers that think 50 ms make at most 2 * 0.5 / 0.05 calls, and the last two."""
    assert 2 < load(server, Source(Closed(2, 0.05), streams), warm_up_seconds=0).total.totals["OK"] <= 22


def test_open_loop_keeps_the_rate(server: RunningServer, streams: list[Stream]) -> None:
    """Fixed: exactly so many calls; Poisson: as many as its seed says, each time the same."""
    fixed = load(server, Source(Open(200, "fixed"), streams))
    assert (fixed.total.ok, fixed.total.totals) == (100, {"OK": 120})
    assert fixed.lag.count == 100
    counts = [load(server, Source(Open(400), streams), seed=seed).total.totals["OK"] for seed in (1, 1, 2)]
    assert counts[0] == counts[1] != counts[2]
    assert all(180 < count < 300 for count in counts)


def test_replay_makes_the_recorded_calls(server: RunningServer, streams: list[Stream]) -> None:
    arrivals = [Arrival(i / 100, i % 2, i % 8) for i in range(40)]
    for threads in (1, 3):
        result = load(server, Source(Replay(arrivals), streams), warm_up_seconds=0, threads=threads)
        assert {name: result.streams[name].totals for name in MIX} == {"feed": {"OK": 20}, "search": {"OK": 20}}


def test_sources_run_side_by_side(server: RunningServer, streams: list[Stream]) -> None:
    """Each with its pace, streams of the same name apart, as the isolation of scenarios is measured."""
    sources = [Source(Open(100, "fixed"), streams[:1]), Source(Closed(2), streams)]
    result = loadgen.run(Plan([server.target], sources, seconds=0.5, warm_up_seconds=0.1, threads=2))
    assert result.sources[0].streams[0].ok == 50
    assert len(result.sources[1].streams) == 2
    assert result.sources[1].streams[0].ok > 50
    assert result.streams["feed"].ok == 50 + result.sources[1].streams[0].ok


# No coordinated omission

STALL_SECONDS = 0.2
RATE = 1000


def stalled(server: RunningServer, source: Source) -> tuple[LoadResult, float]:
    """A run in which the server stands still for a while, and for how many seconds."""
    seconds = 0.0

    def stall() -> None:
        nonlocal seconds
        time.sleep(0.5)  # well after the warm-up, well before the end
        os.kill(server.process.pid, signal.SIGSTOP)
        began = time.monotonic()
        time.sleep(STALL_SECONDS)
        seconds = time.monotonic() - began
        os.kill(server.process.pid, signal.SIGCONT)

    return during(server, plan(server, source, seconds=1.5), stall), seconds


def test_a_stall_shows_in_every_call_that_was_due_meanwhile(server: RunningServer, streams: list[Stream]) -> None:
    """Of a call due x seconds into a stall of s, the latency is s - x at least: evenly spread from s down to 0."""
    result, seconds = stalled(server, Source(Open(RATE, "fixed"), streams))
    latency = result.total.latency
    assert latency.count == 1.5 * RATE
    for limit in (0.05, 0.1, 0.15):
        due = RATE * (seconds - limit)
        assert latency.count_above_ms(limit * 1e3) >= 0.95 * due - 2
    assert latency.max_ms is not None
    assert latency.max_ms >= 0.98 * seconds * 1e3
    assert latency.quantile_ms(0.99) >= 0.9 * (seconds - 0.01 * 1.5) * 1e3  # type: ignore[operator]


def test_a_closed_loop_hides_a_stall_and_says_so(server: RunningServer, streams: list[Stream]) -> None:
    result, seconds = stalled(server, Source(Closed(2), streams))
    assert result.to_json()["generator"]["latency_from"] == ["sent"]
    assert result.total.latency.count_above_ms(0.9 * seconds * 1e3) <= 2
    assert result.total.latency.count > 100


# Outcomes


def test_statuses_are_counted_as_the_server_counts_them(server: RunningServer, streams: list[Stream]) -> None:
    feed, search = streams
    messages = {
        "nobody": pb.PredictRequest(scenario="nobody", rows=1).SerializeToString(),
        "empty": pb.PredictRequest(scenario="feed", rows=1).SerializeToString(),
        "garbage": b"\xff" * 40,
    }
    bad = [Stream(name, PREDICT, [Payload(message, 1)]) for name, message in messages.items()]
    before = predicted(server)
    result = load(server, Source(Open(400), [feed, search, *bad]))
    asked = {name: next(iter(stream.totals)) for name, stream in result.streams.items() if len(stream.totals) == 1}
    assert asked == {
        "feed": "OK",
        "search": "OK",
        "nobody": "NOT_FOUND",
        "empty": "INVALID_ARGUMENT",
        "garbage": "INVALID_ARGUMENT",
    }
    counted = {code: count - before.get(code, 0) for code, count in predicted(server).items()}
    assert {code: count for code, count in counted.items() if count} == result.total.totals
    assert result.total.errors == sum(result.streams[name].calls for name in messages)


def test_an_unknown_method_is_unimplemented(server: RunningServer) -> None:
    stream = Stream("x", "/smt.v1.PredictionService/Nothing", [Payload(b"", 0)])
    assert set(load(server, Source(Closed(1), [stream])).total.totals) == {"UNIMPLEMENTED"}


def test_an_answer_without_its_message_is_a_bad_one(server: RunningServer, streams: list[Stream]) -> None:
    demanding = replace(streams[0], min_response_bytes=1 << 20)
    assert set(load(server, Source(Closed(1), [demanding])).total.totals) == {"bad answer"}


def test_deadlines_and_cancellations(server: RunningServer, streams: list[Stream]) -> None:
    """While the server stands still, no call is answered: each ends as its client decides."""
    feed = streams[0]
    kinds = [
        replace(feed, name="deadline", timeouts=[Timeout(0.02)]),
        replace(feed, name="lingers", timeouts=[Timeout(0.02)], linger_seconds=5),
        replace(feed, name="cancelled", cancel_fraction=1.0, cancel_seconds=(0.02, 0.03)),
    ]

    def stall() -> None:
        os.kill(server.process.pid, signal.SIGSTOP)
        time.sleep(0.6)
        os.kill(server.process.pid, signal.SIGCONT)

    result = during(server, plan(server, Source(Open(300, "fixed"), kinds), seconds=0.4, warm_up_seconds=0.4), stall)
    assert result.streams["deadline"].totals["client deadline"] > 20
    assert result.streams["cancelled"].totals["client cancelled"] > 20
    # Answered after the stall, one way or the other: whether a request was late when it was read the server knows only
    # by the newest of what was read with it.
    assert set(result.streams["lingers"].totals) <= {"OK", "DEADLINE_EXCEEDED"}
    assert sum(result.total.totals.values()) == 240
    assert result.streams["cancelled"].errors == 0, "what the plan asks for is no error"


def test_deadlines_are_drawn_by_weight(server: RunningServer, streams: list[Stream]) -> None:
    mixed = replace(streams[0], timeouts=[Timeout(1e-6, 1), Timeout(30, 3)])
    totals = load(server, Source(Open(500), [mixed])).total.totals
    # A microsecond has mostly passed before a call that was due can be sent.
    assert set(totals) <= {"OK", "client deadline, not sent", "client deadline", "DEADLINE_EXCEEDED"}
    assert 2 < totals["OK"] / (sum(totals.values()) - totals["OK"]) < 4.5


def test_calls_beyond_the_limit_are_not_sent_and_told_of(own_server: RunningServer) -> None:
    streams = loadgen.smt_streams(own_server.target, {"feed": 1}, {1: 1.0}, payloads=1)

    def stall() -> None:
        os.kill(own_server.process.pid, signal.SIGSTOP)
        time.sleep(1.0)
        os.kill(own_server.process.pid, signal.SIGCONT)

    source = Source(Open(500, "fixed"), streams)
    result = during(own_server, plan(own_server, source, seconds=1.0, max_outstanding=10), stall)
    assert result.total.totals["not sent"] > 100
    assert result.total.errors == result.total.outcomes["not sent"].count
    assert any("were not sent" in warning for warning in result.warnings())


# Connections


def test_broken_connections_are_opened_again(server: RunningServer, streams: list[Stream]) -> None:
    result = load(server, Source(Closed(4), streams), disconnects_per_second=40)
    assert result.connections_broken > 5
    assert result.total.totals["connection lost"] <= 4 * result.connections_broken
    assert set(result.total.totals) <= {"OK", "connection lost", "no connection"}
    assert result.total.ok > 100


def test_a_drain_loses_nothing(own_server: RunningServer) -> None:
    """What is in flight at SIGTERM is answered; what comes later is told so, or finds nobody."""
    streams = loadgen.smt_streams(own_server.target, {"feed": 1}, {64: 1.0}, payloads=4)
    seconds = 6.0 if SANITIZED else 1.0  # longer than the process takes to end
    source = Source(Closed(4), streams)
    result = during(own_server, plan(own_server, source, seconds=seconds), lambda: ended(own_server))
    assert set(result.total.totals) <= {"OK", "UNAVAILABLE", "connection lost", "no connection"}
    # Sent in the moment in which the process ended: by each caller, once to every connection at most.
    assert result.total.totals.get("connection lost", 0) <= 4 * 4
    assert result.total.totals["no connection"] > 0


def ended(server: RunningServer) -> None:
    assert server.terminate() == 0


def test_a_crash_ends_calls_and_not_the_run(own_server: RunningServer) -> None:
    streams = loadgen.smt_streams(own_server.target, {"feed": 1}, {64: 1.0}, payloads=4)
    result = during(own_server, plan(own_server, Source(Closed(4), streams), seconds=1.0), own_server.kill)
    assert set(result.total.totals) <= {"OK", "connection lost", "no connection"}
    assert result.total.totals["no connection"] > 0


def test_tls_and_mutual_tls(compiled: Compiled, template: Template, tmp_path: Path) -> None:
    registry = copy_binaries(compiled[0], tmp_path / "registry")
    FEED.publish(Registry(registry), template, seed=1)
    authority, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other")
    pair = authority.sign("server")
    options = {"tls_cert": pair.cert, "tls_key": pair.key, "tls_client_ca": authority.ca}
    good = authority.client(authority.sign("client"))
    with RunningServer(registry, tmp_path, **options) as server:
        source = Source(Closed(4), loadgen.smt_streams(server.target, {"feed": 1}, {300: 1.0}, payloads=4, tls=good))
        assert set(load(server, source, tls=good).total.totals) == {"OK"}
        for tls, reason in (
            (other.client(), "self-signed certificate in certificate chain|unable to get local issuer certificate"),
            (Tls(authority.ca, server_name="elsewhere.example"), "hostname mismatch"),
            (authority.client(), "certificate required|unexpected eof|reset|Broken pipe"),
            (None, "closed the connection|reset"),
        ):
            with pytest.raises(LoadgenError, match=f"cannot connect to {server.target}: .*({reason})"):
                load(server, source, tls=tls)
        with pytest.raises(TlsError, match="holds no certificate"):
            load(server, source, tls=Tls(pair.key))


def test_nobody_there() -> None:
    stream = Stream("x", PREDICT, [Payload(b"", 0)])
    with pytest.raises(LoadgenError, match=r"cannot connect to 127\.0\.0\.1:1: Connection refused"):
        loadgen.run(Plan(["127.0.0.1:1"], [Source(Closed(1), [stream])]))
    with pytest.raises(LoadgenError, match="found '1'; expected host:port"):
        loadgen.run(Plan(["1"], [Source(Closed(1), [stream])]))
    with pytest.raises(LoadgenError, match="found no payload"):
        loadgen.run(Plan(["127.0.0.1:1"], [Source(Closed(1), [replace(stream, payloads=[])])]))
    with pytest.raises(PredictError, match="cannot reach"):
        loadgen.smt_streams("127.0.0.1:1", {"feed": 1}, {1: 1})
