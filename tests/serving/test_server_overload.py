"""A running smt-server with more to do than it can: large requests, floods, deadlines, cancellations.

The portable kernels are used where there has to be a queue: they are slower than any client.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from smt.serving import loadgen
from smt.serving.client import AsyncClient, Client, PredictError
from smt.serving.loadgen import Closed, Open, Plan, Source, StreamResult, Timeout
from tests.serving.support import FEED, SEARCH, RunningServer, wait_for

PATIENT = '{"default": {"queue_ms": 3600000}}'
MAX_ROWS = 65536


@pytest.fixture
def patient(tmp_path: Path) -> Path:
    """A scheduling file by which whatever comes may wait."""
    path = tmp_path / "scheduling.json"
    path.write_text(PATIENT)
    return path


@pytest.fixture
def slow(three: Path, tmp_path: Path, patient: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    """One worker with the slowest kernels, which takes all that comes."""
    monkeypatch.setenv("SMT_KERNELS", "portable")
    options: dict[str, Any] = {"workers": 1, "max_rows": MAX_ROWS, "max_message_bytes": 64 << 20}
    options["connection_calls"] = 10_000  # of one client: all its calls reach the server's queue
    with RunningServer(three, tmp_path, scheduling=patient, **options) as running:
        yield running
        assert running.process.poll() is None, "the server died under a test"


def many(rows: int, seed: int = 0) -> dict[str, Any]:
    """Candidates of `video`; the rest is context, so that they are quickly sent."""
    random = np.random.default_rng(seed)
    return {"age": random.normal(40, 12, rows), "user": random.integers(0, 1 << 40, rows)}


CONTEXT = {"city": "Wien"}


def waiting(server: RunningServer) -> float:
    return server.metric("smt_queue_depth")


# Large requests


@pytest.mark.parametrize("rows", [257, 4095, 4096, 65_536])
def test_a_large_request_scores_as_small_ones_do(three: Path, tmp_path: Path, patient: Path, rows: int) -> None:
    """To the bit, while it is computed in blocks by several workers, among other requests."""
    options: dict[str, Any] = {"workers": 3, "max_rows": MAX_ROWS, "max_message_bytes": 64 << 20}
    candidates = many(rows)
    with (
        RunningServer(three, tmp_path, scheduling=patient, **options) as server,
        Client(server.target, timeout=60) as client,
    ):
        small = [
            client.predict("video", {name: values[at : at + 250] for name, values in candidates.items()}, CONTEXT)
            for at in range(0, rows - 6, 250)
        ]
        before = server.metric("smt_block_rows_count")
        alone = client.predict("video", candidates, CONTEXT)
        assert server.metric("smt_block_rows_count") - before >= rows / 256
        streams = loadgen.smt_streams(server.target, {"video": 1.0, "feed": 1.0}, {37: 1.0}, payloads=4)
        others = Plan([server.target], [Source(Closed(4), streams)], seconds=1)

        async def among() -> list[Any]:
            async with AsyncClient(server.target, timeout=60) as made:
                load = asyncio.create_task(asyncio.to_thread(loadgen.run, others))
                answers = []
                while not load.done():
                    answers.append(await made.predict("video", candidates, CONTEXT))
                assert set((await load).total.totals) == {"OK"}
            return answers

        crowded = asyncio.run(among())
    for task in alone:
        parts = np.concatenate([part[task] for part in small])
        np.testing.assert_array_equal(alone[task][: len(parts)], parts)
        for answer in crowded:
            np.testing.assert_array_equal(answer[task], alone[task])


@pytest.mark.parametrize("scenario", ["video", "search"])
def test_a_small_request_beside_a_flood_of_large_ones(slow: RunningServer, scenario: str) -> None:
    """Of the same scenario and of another: it waits for about a block of 256 rows, not for requests of 4096."""
    case = {"video": many(1), "search": SEARCH.rows(1)}[scenario]
    context = CONTEXT if scenario == "video" else None
    large = many(4096)
    queued: list[int] = []

    async def run() -> list[Any]:
        async with AsyncClient(slow.target, timeout=60) as client:
            alone = await client.predict("video", large, CONTEXT)
            flood = [asyncio.create_task(client.predict("video", large, CONTEXT)) for _ in range(40)]
            while waiting(slow) < 20:
                await asyncio.sleep(0.001)
            while waiting(slow) > 5:
                queued.append((await client.predict(scenario, case, context)).timings.queue_us)
            return [alone, *(await asyncio.gather(*flood))]

    answers = asyncio.run(run())
    compute = float(np.median([answer.timings.compute_us for answer in answers]))
    assert len(queued) >= 5
    # 16 blocks of a large request; two of them are ahead of the small one, if the machine has no other work.
    assert np.median(queued) < compute / 4
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer["play"], answers[0]["play"])


# Deadlines


def test_a_request_that_cannot_be_in_time_is_refused_at_once(slow: RunningServer) -> None:
    with Client(slow.target, timeout=60) as client:
        large = many(MAX_ROWS)
        # The first one teaches the server what rows cost.
        seconds = [client.predict("video", large, CONTEXT).timings.compute_us / 1e6 for _ in range(3)]
        allowed = min(seconds) / 3
        computed = []
        for _ in range(5):
            before = slow.metric("smt_block_rows_sum")
            began = time.monotonic()
            with pytest.raises(PredictError) as failure:
                client.predict("video", large, CONTEXT, timeout=allowed)
            assert time.monotonic() - began < allowed
            assert failure.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
            assert failure.value.message == (
                f"scenario 'video': its {MAX_ROWS} candidates cannot be scored before the deadline; allow more time or "
                "send fewer candidates"
            )
            computed.append(slow.metric("smt_block_rows_sum") - before)
        # A machine that has become three times as slow shows while it is computed, at the latest.
        assert max(computed) < MAX_ROWS / 2
        assert computed.count(0) >= 3
        # What can be in time is, beside it.
        assert client.predict("video", many(256), CONTEXT, timeout=10).rows == 256


def test_expired_requests_leave_the_queue_without_compute(slow: RunningServer) -> None:
    """Thirty requests, of which those at the end of the queue expire in it."""
    large = many(4096)

    async def run() -> tuple[list[Any], float]:
        async with AsyncClient(slow.target, timeout=60) as client:
            seconds = (await client.predict("video", large, CONTEXT)).timings.compute_us / 1e6
            calls = [client.predict("video", large, CONTEXT, timeout=max(10 * seconds, 0.1)) for _ in range(60)]
            return await asyncio.gather(*calls, return_exceptions=True), slow.metric("smt_block_rows_sum")

    results, rows = asyncio.run(run())
    failures = [result for result in results if isinstance(result, PredictError)]
    good = [result for result in results if not isinstance(result, BaseException)]
    assert len(good) + len(failures) == 60
    assert good
    assert {failure.code for failure in failures} == {grpc.StatusCode.DEADLINE_EXCEEDED}
    assert slow.metric("smt_expired_rows_total") == 0
    assert rows < 50 * 4096
    assert waiting(slow) == 0


def test_nothing_is_computed_in_vain_under_overload(
    three: Path, tmp_path: Path, patient: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deadlines of many lengths at three times the capacity: most of what is computed is of use, and a client that has
    time, of another scenario, is answered all the same."""
    monkeypatch.setenv("SMT_KERNELS", "portable")
    mix, rows = {"feed": 1.0, "search": 1.0}, {64: 1.0}
    timeouts = [Timeout(milliseconds / 1e3) for milliseconds in (2, 5, 20, 50, 200)]
    with RunningServer(three, tmp_path, workers=1, scheduling=patient) as server:
        closed = loadgen.smt_streams(server.target, mix, rows, payloads=8)
        capacity = loadgen.run(Plan([server.target], [Source(Closed(8), closed)], seconds=1)).total.ok_per_second
        # An answer that is late by the client's clock alone is waited for: what the server counts is looked at.
        mixed = loadgen.smt_streams(server.target, mix, rows, payloads=8, timeouts=timeouts, linger_seconds=2.0)
        patience = [Timeout(30.0)]
        polite = loadgen.smt_streams(server.target, {"video": 1.0}, {1: 1.0}, payloads=8, timeouts=patience)
        sources = [Source(Open(3 * capacity), mixed), Source(Closed(1), polite)]

        def late_share() -> float:
            late, computed = server.metric("smt_late_rows_total"), server.metric("smt_block_rows_sum")
            expired = server.metric("smt_expired_rows_total")
            result = loadgen.run(Plan([server.target], sources, seconds=2, connections=8))
            flood, calm = (StreamResult.merged("", source.streams) for source in result.sources)
            assert set(calm.totals) == {"OK"}
            assert flood.totals["OK"] > 0
            assert flood.totals["DEADLINE_EXCEEDED"] > 0
            outcomes = {"OK", "DEADLINE_EXCEEDED", "client deadline", "client deadline, not sent", "RESOURCE_EXHAUSTED"}
            assert set(flood.totals) <= outcomes | {"CANCELLED"}
            if server.metric("smt_expired_rows_total") > expired:
                return 1.0  # a worker lost its core between its last look at the clock and the computing
            return (server.metric("smt_late_rows_total") - late) / (server.metric("smt_block_rows_sum") - computed)

        # A block's time is foreseen, not known: other processes on the cores make it longer, so the best of a few
        # rounds counts. 0.11 to 0.26 on a free and on a busy machine; 0.51 to 0.55 where nothing is foreseen.
        assert any(late_share() < 0.4 for _ in range(6))


# Cancellation


def test_cancelled_requests_free_the_queue(slow: RunningServer) -> None:
    large = many(4096)

    async def run() -> None:
        async with AsyncClient(slow.target, timeout=60) as client:
            await client.predict("video", large, CONTEXT)
            calls = [asyncio.create_task(client.predict("video", large, CONTEXT)) for _ in range(60)]
            while waiting(slow) < 30:
                assert not all(call.done() for call in calls), "the queue never grew"
                await asyncio.sleep(0.001)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            began = time.monotonic()
            answer = await client.predict("video", large, CONTEXT)
            # Had it waited for those that were cancelled, it would have been thirty times as long.
            assert time.monotonic() - began < 15 * max(answer.timings.compute_us / 1e6, 0.01)

    asyncio.run(run())
    wait_for(lambda: slow.metric("smt_inflight") == 0, "the cancelled calls to be gone")
    assert slow.metric("smt_requests_total", scenario="video", code="CANCELLED") >= 25
    assert waiting(slow) == 0


def test_a_cancelled_large_request_stops_halfway(slow: RunningServer) -> None:
    with Client(slow.target, timeout=60) as client:
        large = many(MAX_ROWS)
        client.predict("video", large, CONTEXT)
        before = slow.metric("smt_block_rows_sum")

        async def run() -> None:
            async with AsyncClient(slow.target, timeout=60) as made:
                call = asyncio.create_task(made.predict("video", large, CONTEXT))
                while slow.metric("smt_block_rows_sum") == before:
                    await asyncio.sleep(0.001)
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)

        asyncio.run(run())
        wait_for(lambda: slow.metric("smt_inflight") == 0, "the cancelled call to be gone")
        assert 0 < slow.metric("smt_block_rows_sum") - before < MAX_ROWS
        assert slow.metric("smt_requests_total", scenario="video", code="CANCELLED") == 1
        assert client.predict("video", many(10), CONTEXT).rows == 10


def test_clients_that_vanish(slow: RunningServer) -> None:
    """Connections that break with calls under way: their requests leave, others are served, the counters add up."""
    rude = loadgen.smt_streams(slow.target, {"feed": 1.0}, {2048: 1.0}, payloads=4, cancel_fraction=0.2)
    broken = Plan([slow.target], [Source(Closed(24), rude)], seconds=2, connections=6, disconnects_per_second=20)
    polite = loadgen.smt_streams(slow.target, {"search": 1.0}, {16: 1.0}, payloads=4)
    steady = Plan([slow.target], [Source(Closed(1), polite)], seconds=2)

    async def run() -> list[Any]:
        return await asyncio.gather(*(asyncio.to_thread(loadgen.run, plan) for plan in (broken, steady)))

    result, calm = asyncio.run(run())
    assert result.connections_broken > 20
    assert set(calm.total.totals) == {"OK"}
    wait_for(lambda: slow.metric("smt_inflight") == 0, "the calls of broken connections to be gone")
    assert waiting(slow) == 0
    received = slow.metric("smt_requests_total", scenario="feed")
    totals = result.total.totals
    assert totals["OK"] <= received <= sum(totals.values())
    assert slow.metric("smt_requests_total", scenario="feed", code="CANCELLED") > 0
    # What was cut off before it had arrived is no request.
    assert slow.metric("smt_requests_total", scenario="_unknown") == 0
    with Client(slow.target, timeout=60) as client:
        assert client.predict("feed", FEED.rows(20)).rows == 20
