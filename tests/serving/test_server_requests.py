"""Requests to a running smt-server: scores are the reference's, mistakes get the right status and name the field."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from smt.serving.binary import BinaryRunner
from smt.serving.client import AsyncClient, Client, PredictError
from smt.serving.compile import MAX_DIFFERENCE
from smt.serving.encode import encode_all, to_columns
from smt.serving.protos import prediction_pb2 as pb
from smt.serving.protos import prediction_pb2_grpc as pb_grpc
from smt.serving.request import CHANNEL_OPTIONS
from smt.training.template import Template
from tests.serving.support import FEED, SEARCH, RunningServer

ROWS = FEED.rows(40)
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def stub(server: RunningServer) -> Iterator[Any]:
    with grpc.insecure_channel(server.target, CHANNEL_OPTIONS) as channel:
        yield pb_grpc.PredictionServiceStub(channel)  # type: ignore[no-untyped-call]


def request(rows: pa.Table = ROWS, **fields: Any) -> pb.PredictRequest:
    """A good request for `feed`, to be spoilt."""
    message = pb.PredictRequest(scenario="feed", rows=rows.num_rows, candidates=encode_all(to_columns(rows)))
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def feature(message: pb.PredictRequest, name: str) -> pb.Feature:
    return next(candidate for candidate in message.candidates if candidate.name == name)


# Scores


@pytest.mark.parametrize(("case", "seed"), [(FEED, 1), (SEARCH, 2)])
@pytest.mark.parametrize("rows", [1, 2, 40, 300])
def test_served_scores_are_those_of_binary_and_reference(
    client: Client, runner: BinaryRunner, template: Template, case: Any, seed: int, rows: int
) -> None:
    table = case.rows(rows, seed=rows)
    prediction = client.predict(case.name, table)
    scored, reference = case.scored(runner, template, seed, table), case.reference(template, seed, table)
    assert list(prediction) == list(case.tasks)
    for task in case.tasks:
        assert prediction[task].dtype == np.float32
        np.testing.assert_allclose(prediction[task], scored[task], rtol=1e-4, atol=2e-5)
        np.testing.assert_allclose(prediction[task], reference[task], rtol=0, atol=MAX_DIFFERENCE["bf16"])
    assert rows == 1 or min(np.ptp(prediction[task]) for task in case.tasks) > 0.01


def test_every_form_of_data_scores_alike(client: Client) -> None:
    table = FEED.rows(20, seed=9)
    frame = pd.DataFrame(table.to_pylist())
    lists = table.to_pydict()
    arrays: dict[str, Any] = {**lists, "income": np.array(lists["income"]), "user": np.array(lists["user"])}
    expected = client.predict("feed", table)
    for data in (table.to_batches()[0], lists, arrays, frame):
        assert {task: list(v) for task, v in client.predict("feed", data).items()} == {
            task: list(v) for task, v in expected.items()
        }


def test_columns_that_the_scenario_does_not_read_stay_here(client: Client, server: RunningServer) -> None:
    table = ROWS.append_column("unread", pa.array([object.__name__] * 40))
    np.testing.assert_array_equal(client.predict("feed", table)["click"], client.predict("feed", ROWS)["click"])
    with pytest.raises(PredictError, match="unread"):  # of a dict all is sent, so that a typo is reported
        client.predict("feed", table.to_pydict())


def test_context_and_candidates_score_alike(client: Client) -> None:
    """What is sent once for all candidates counts as if it were in every row."""
    rows = 25
    table = FEED.rows(rows, seed=4)
    first = table.slice(0, 1).to_pydict()
    for shared in (["user"], ["city", "tags"], ["age", "income", "user", "city", "tags", "device"]):
        context = {name: first[name] for name in shared}
        own = table.drop_columns(shared)
        split = client.predict("feed", own, context, rows=rows)
        spread = client.predict("feed", {**own.to_pydict(), **{name: first[name] * rows for name in shared}}, rows=rows)
        for task in FEED.tasks:
            np.testing.assert_allclose(split[task], spread[task], rtol=0, atol=1e-6)
    assert len(np.unique(client.predict("feed", None, first, rows=rows)["click"])) == 1


def test_optional_inputs_may_be_left_out(client: Client) -> None:
    without = client.predict("feed", ROWS.drop_columns(["tags", "device"]))
    missing = {**ROWS.to_pydict(), "tags": [[]] * 40, "device": [None] * 40}
    np.testing.assert_array_equal(without["click"], client.predict("feed", missing)["click"])


def test_tasks_version_and_request_id(client: Client, server: RunningServer) -> None:
    version = server.registry.current("feed")
    prediction = client.predict("feed", ROWS, tasks=["like"], version=version, request_id="row-7")
    assert list(prediction) == ["like"]
    assert prediction.version == version
    assert prediction.request_id == "row-7"
    assert prediction.rows == 40
    assert prediction.timings.compute_us > 0
    np.testing.assert_array_equal(prediction["like"], client.predict("feed", ROWS)["like"])


def test_tables_beyond_the_limit_go_in_parts(client: Client) -> None:
    table = FEED.rows(1000, seed=3)
    done: list[int] = []
    scores = client.predict_table("feed", table, progress=done.append)
    assert scores.rows == sum(done) == 1000
    assert len(done) == 4  # the server takes 300 rows
    assert list(scores.versions.values()) == [1000]
    whole = np.concatenate([client.predict("feed", table.slice(at, 100))["click"] for at in range(0, 1000, 100)])
    np.testing.assert_allclose(scores["click"], whole, rtol=0, atol=1e-6)
    assert client.predict_table("feed", table.slice(0, 0))["like"].shape == (0,)


def test_asyncio_client(server: RunningServer, client: Client) -> None:
    async def run() -> None:
        async with AsyncClient(server.target, timeout=60) as made:
            several = await asyncio.gather(*(made.predict("feed", ROWS.slice(at, 10)) for at in range(0, 40, 10)))
            np.testing.assert_allclose(
                np.concatenate([one["click"] for one in several]), client.predict("feed", ROWS)["click"], atol=1e-6
            )
            table = await made.predict_table("feed", FEED.rows(700, seed=3), in_flight=2)
            assert table.rows == 700
            assert await made.health() == "SERVING"
            assert (await made.scenario("feed")).version == (await made.list_scenarios())[0].version
            with pytest.raises(PredictError, match="unknown") as failure:
                await made.predict("nope", ROWS)
            assert failure.value.code is grpc.StatusCode.NOT_FOUND

    asyncio.run(run())


# Mistakes: each line is one way to spoil a good request, the status, and what the message must hold.

Spoil = Callable[[pb.PredictRequest], Any]


def _set_floats(name: str, *values: float) -> Spoil:
    def spoil(message: pb.PredictRequest) -> None:
        target = feature(message, name)
        target.ClearField("lengths")
        target.doubles.values[:] = values

    return spoil


def _lengths(name: str, *lengths: int) -> Spoil:
    def spoil(message: pb.PredictRequest) -> None:
        feature(message, name).lengths[:] = lengths

    return spoil


def _remove(name: str) -> Spoil:
    return lambda message: message.candidates.remove(feature(message, name))


def _add(**fields: Any) -> Spoil:
    return lambda message: message.candidates.append(pb.Feature(**fields))


def _retype(name: str, **fields: Any) -> Spoil:
    def spoil(message: pb.PredictRequest) -> None:
        feature(message, name).CopyFrom(pb.Feature(name=name, **fields))

    return spoil


def _drop_last(name: str) -> Spoil:
    def spoil(message: pb.PredictRequest) -> None:
        del feature(message, name).doubles.values[-1]

    return spoil


def _context(**fields: Any) -> Spoil:
    def spoil(message: pb.PredictRequest) -> None:
        message.candidates.remove(feature(message, fields["name"]))
        message.context.append(pb.Feature(**fields))

    return spoil


def _set(**fields: Any) -> Spoil:
    def spoil(message: pb.PredictRequest) -> None:
        for name, value in fields.items():
            setattr(message, name, value)

    return spoil


INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
MISTAKES: dict[str, tuple[Spoil, grpc.StatusCode, list[str]]] = {
    "unknown scenario": (_set(scenario="fed"), NOT_FOUND, ["'fed'", "feed"]),
    "no scenario": (_set(scenario=""), INVALID, ["scenario"]),
    "unknown version": (_set(version="20200101-000000-000-00000000"), NOT_FOUND, ["version", "20200101"]),
    "unknown task": (lambda m: m.tasks.append("buy"), INVALID, ["'buy'", "click", "like"]),
    "task twice": (lambda m: m.tasks.extend(["like", "like"]), INVALID, ["'like'", "twice"]),
    "unknown feature": (_add(name="agee", doubles=pb.Doubles(values=[1.0] * 40)), INVALID, ["'agee'", "age"]),
    "feature without a name": (_add(doubles=pb.Doubles(values=[1.0] * 40)), INVALID, ["''"]),
    "feature twice": (_add(name="age", doubles=pb.Doubles(values=[1.0] * 40)), INVALID, ["'age'"]),
    "in context and candidates": (
        lambda m: m.context.append(pb.Feature(name="income", doubles=pb.Doubles(values=[1.0]))),
        INVALID,
        ["'income'"],
    ),
    "missing required feature": (_remove("city"), INVALID, ["'city'"]),
    "no features": (lambda m: m.ClearField("candidates"), INVALID, ["'age'"]),
    "strings for numbers": (_retype("income", strings=pb.Strings(values=["1"] * 40)), INVALID, ["'income'", "string"]),
    "ints for strings": (_retype("city", ints=pb.Ints(values=[1] * 40)), INVALID, ["'city'", "string", "int"]),
    "doubles for ints": (_retype("user", doubles=pb.Doubles(values=[1.0] * 40)), INVALID, ["'user'", "int"]),
    "no values": (_retype("city"), INVALID, ["'city'"]),
    "too few values": (_drop_last("income"), INVALID, ["'income'", "39", "40"]),
    "too many values": (lambda m: feature(m, "income").doubles.values.append(1.0), INVALID, ["'income'", "41", "40"]),
    "too few lengths": (_lengths("income", *[1] * 39), INVALID, ["'income'", "39", "40"]),
    "lengths beyond the values": (_lengths("tags", *[7] * 40), INVALID, ["'tags'", "280"]),
    "lengths short of the values": (_lengths("income", *[1] * 39, 0), INVALID, ["'income'", "39", "40"]),
    "negative length": (_lengths("tags", -1, *[1] * 39), INVALID, ["'tags'", "-1"]),
    "lengths that overflow": (_lengths("tags", *[2**31 - 1] * 40), INVALID, ["'tags'"]),
    "two values for a single-valued feature": (_lengths("income", 2, 0, *[1] * 38), INVALID, ["'income'"]),
    "context of two rows": (_context(name="user", ints=pb.Ints(values=[1, 2])), INVALID, ["'user'", "2", "1"]),
    "NaN": (_set_floats("income", *[0.0] * 39, NAN), INVALID, ["'income'", "NaN", "39"]),
    "Inf": (_set_floats("income", *[0.0] * 39, INF), INVALID, ["'income'", "Inf", "39"]),
    "-Inf": (_set_floats("income", -INF, *[0.0] * 39), INVALID, ["'income'", "Inf", "0"]),
    "NaN in floats": (_retype("income", floats=pb.Floats(values=[NAN] * 40)), INVALID, ["'income'", "NaN"]),
    "NaN in the context": (_context(name="income", doubles=pb.Doubles(values=[NAN])), INVALID, ["'income'", "NaN"]),
    "0 rows": (_set(rows=0), INVALID, ["rows", "0", "1..300"]),
    "negative rows": (_set(rows=-5), INVALID, ["rows", "-5", "1..300"]),
    "rows above the limit": (_set(rows=301), INVALID, ["rows", "301", "1..300"]),
    "very many rows": (_set(rows=2**31 - 1), INVALID, ["rows", "2147483647", "1..300"]),
    "long request id": (_set(request_id="x" * 300), INVALID, ["request_id"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(stub: Any, name: str) -> None:
    """The right status, a message that names the field, and the next request is served as before."""
    spoil, code, words = MISTAKES[name]
    before = stub.Predict(request(), timeout=60)
    message = request()
    spoil(message)
    with pytest.raises(grpc.RpcError) as failure:
        stub.Predict(message, timeout=60)
    assert failure.value.code() is code, failure.value.details()
    for word in words:
        assert word in failure.value.details()
    after = stub.Predict(request(), timeout=60)
    assert list(after.tasks) == list(before.tasks)


def test_a_message_of_64_mib(stub: Any) -> None:
    message = request()
    feature(message, "city").strings.values.append("x" * (64 << 20))
    with pytest.raises(grpc.RpcError) as failure:
        stub.Predict(message, timeout=60)
    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub.Predict(request(), timeout=60).tasks


def test_a_long_list(stub: Any) -> None:
    message = request()
    feature(message, "tags").CopyFrom(
        pb.Feature(name="tags", strings=pb.Strings(values=["t"] * 70_000), lengths=[70_000] + [0] * 39)
    )
    with pytest.raises(grpc.RpcError) as failure:
        stub.Predict(message, timeout=60)
    assert failure.value.code() is INVALID
    assert "'tags'" in failure.value.details()


@pytest.mark.parametrize("content", [b"\xff" * 100, b"\x0a\x02\xc3\x28", b"\x0a\xff\xff\xff\xff\x0f", b"\x00"])
def test_bytes_that_are_no_request(server: RunningServer, stub: Any, content: bytes) -> None:
    with grpc.insecure_channel(server.target) as channel:
        call = channel.unary_unary("/smt.v1.PredictionService/Predict")
        with pytest.raises(grpc.RpcError) as failure:
            call(content, timeout=60)
    assert failure.value.code() is INVALID
    assert stub.Predict(request(), timeout=60).tasks


def test_random_bytes_in_a_good_request(stub: Any, server: RunningServer) -> None:
    """Whatever a flipped byte makes of a request, it is answered or refused, never fatal."""
    random = np.random.default_rng(5)
    good = request(FEED.rows(5)).SerializeToString()
    codes = {grpc.StatusCode.OK: 0}
    with grpc.insecure_channel(server.target) as channel:
        call = channel.unary_unary("/smt.v1.PredictionService/Predict")
        for _ in range(300):
            content = bytearray(good)
            for at in random.integers(0, len(good), random.integers(1, 4)):
                content[at] = random.integers(0, 256)
            try:
                call(bytes(content), timeout=60)
                codes[grpc.StatusCode.OK] += 1
            except grpc.RpcError as error:
                codes[error.code()] = codes.get(error.code(), 0) + 1
    assert set(codes) <= {grpc.StatusCode.OK, INVALID, NOT_FOUND}
    assert codes[INVALID] > 50
    assert server.process.poll() is None


def test_numpy_nan_is_refused_by_the_server(client: Client) -> None:
    data = {**ROWS.to_pydict(), "income": np.full(40, np.nan)}
    with pytest.raises(PredictError, match=r"feature 'income'.*NaN") as failure:
        client.predict("feed", data)
    assert failure.value.code is INVALID


def test_a_table_of_long_lists(client: Client, runner: BinaryRunner, template: Template) -> None:
    """More strings than one message may have: sent in parts. Of a list the first values count."""
    rows = FEED.rows(300)
    lists = [[f"tag{(row + place) % 90}" for place in range(4000)] for row in range(300)]
    place = rows.column_names.index("tags")
    scores = client.predict_table("feed", rows.set_column(place, "tags", pa.array(lists)))
    short = rows.set_column(place, "tags", pa.array([tags[:4] for tags in lists]))
    expected = FEED.scored(runner, template, 1, short)
    for task in FEED.tasks:
        np.testing.assert_allclose(scores[task], expected[task], rtol=1e-4, atol=2e-5)


def test_a_deadline_that_passes_before_the_server_looks(client: Client, server: RunningServer) -> None:
    """The client does not wait longer than it said; a server that was held up computes nothing for it."""
    client.predict("feed", ROWS)  # connected, and the scenario is known
    before = computed(server)
    server.process.send_signal(signal.SIGSTOP)
    try:
        # The signal is sent before it takes effect; this returns once every thread has stopped.
        os.waitid(os.P_PID, server.process.pid, os.WSTOPPED)
        started = time.monotonic()
        with pytest.raises(PredictError) as failure:
            client.predict("feed", ROWS, timeout=0.3)
        assert 0.2 < time.monotonic() - started < 5
        # The server counts from when the request has arrived, which is later: by then its time has passed as well.
        time.sleep(0.3)
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert failure.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert client.predict("feed", ROWS).rows == 40
    assert computed(server) == before + 1


def computed(server: RunningServer) -> int:
    """Requests for `feed` that were answered with scores."""
    pattern = r'^smt_requests_total\{(?=[^}]*scenario="feed")(?=[^}]*code="OK")[^}]*\} (\S+)$'
    return int(sum(map(float, re.findall(pattern, server.metrics(), re.MULTILINE))))
