"""The client's own logic, against a server in this process that answers as a test wants it to."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from smt.serving.client import AsyncClient, Client, PredictError, TablePrediction
from smt.serving.protos import prediction_pb2 as pb
from smt.serving.protos import prediction_pb2_grpc as pb_grpc

Servicer: Any = pb_grpc.PredictionServiceServicer


class FakeServer(Servicer):  # type: ignore[misc]
    """Scores every row with its own number over the table; `inputs` and `version` can be changed by a test."""

    def __init__(self) -> None:
        self.inputs = {"x": "number"}
        self.version = "v1"
        self.tasks = ["t"]
        self.max_rows = 10
        self.max_bytes = 1 << 20
        self.max_fields = 0
        self.requests: list[pb.PredictRequest] = []
        self.metadata_calls = 0
        self.on_predict: Callable[[pb.PredictRequest, Any], None] = lambda request, context: None
        self._lock = threading.Lock()

    def Predict(self, request: pb.PredictRequest, context: Any) -> pb.PredictResponse:
        with self._lock:
            self.requests.append(request)
            self.on_predict(request, context)
            for feature in [*request.candidates, *request.context]:
                if feature.name not in self.inputs:
                    context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"feature '{feature.name}': unknown")
            values = next((f.doubles.values for f in request.candidates if f.doubles.values), [0.5] * request.rows)
            scores = [pb.TaskScores(task=task, probabilities=values) for task in request.tasks or self.tasks]
            return pb.PredictResponse(version=self.version, tasks=scores, request_id=request.request_id)

    def GetScenario(self, request: pb.GetScenarioRequest, context: Any) -> pb.ScenarioMetadata:
        self.metadata_calls += 1
        inputs = [pb.InputMetadata(name=name, type=kind) for name, kind in self.inputs.items()]
        return pb.ScenarioMetadata(scenario=request.scenario, version=self.version, inputs=inputs, tasks=self.tasks)

    def GetServer(self, request: pb.GetServerRequest, context: Any) -> pb.ServerMetadata:
        return pb.ServerMetadata(max_rows=self.max_rows, max_message_bytes=self.max_bytes, max_fields=self.max_fields)


@pytest.fixture
def fake() -> Iterator[tuple[FakeServer, str]]:
    servicer = FakeServer()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    add: Any = pb_grpc.add_PredictionServiceServicer_to_server
    add(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    server.stop(None).wait(30)


@pytest.fixture
def client(fake: tuple[FakeServer, str]) -> Iterator[Client]:
    with Client(fake[1], timeout=30) as made:
        yield made


class Either:
    """The blocking and the asyncio client behind one interface, so that both are held to the same."""

    def __init__(self, target: str, blocking: bool) -> None:
        self.target, self.blocking = target, blocking

    def predict_table(self, *arguments: Any, **options: Any) -> TablePrediction:
        if self.blocking:
            with Client(self.target, timeout=30) as client:
                return client.predict_table(*arguments, **options)

        async def run() -> TablePrediction:
            async with AsyncClient(self.target, timeout=30) as client:
                return await client.predict_table(*arguments, **options)

        return asyncio.run(run())


@pytest.fixture(params=[True, False], ids=["blocking", "asyncio"])
def either(request: pytest.FixtureRequest, fake: tuple[FakeServer, str]) -> Either:
    return Either(fake[1], request.param)


def table(rows: int) -> pa.Table:
    return pa.table({"x": np.arange(rows) / rows, "unread": ["u"] * rows})


def test_of_a_table_only_what_is_read_is_sent(fake: tuple[FakeServer, str], client: Client) -> None:
    for data in (table(3), table(3).to_batches()[0], pd.DataFrame({"x": [0.0, 0.5, 1.0], "unread": [1, 2, 3]})):
        client.predict("s", data)
        assert [f.name for f in fake[0].requests[-1].candidates] == ["x"]
    assert fake[0].metadata_calls == 1


def test_of_a_dict_everything_is_sent_without_asking(fake: tuple[FakeServer, str], client: Client) -> None:
    with pytest.raises(PredictError, match="feature 'unread': unknown") as failure:
        client.predict("s", {"x": [0.5], "unread": ["u"]})
    assert failure.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.value.message == "feature 'unread': unknown"
    assert fake[0].metadata_calls == 0


def test_a_version_with_other_inputs_is_noticed_on_refusal(fake: tuple[FakeServer, str], client: Client) -> None:
    data = pd.DataFrame({"x": [0.5], "y": [0.1]})
    client.predict("s", data)
    fake[0].inputs, fake[0].version = {"y": "number"}, "v2"
    assert client.predict("s", data).version == "v2"
    assert [[f.name for f in request.candidates] for request in fake[0].requests] == [["x"], ["x"], ["y"]]


def test_a_version_with_more_inputs_is_noticed_from_the_answer(fake: tuple[FakeServer, str], client: Client) -> None:
    data = pd.DataFrame({"x": [0.5], "y": [0.1]})
    client.predict("s", data)
    fake[0].inputs, fake[0].version = {"x": "number", "y": "number"}, "v2"
    client.predict("s", data)
    client.predict("s", data)
    assert [len(request.candidates) for request in fake[0].requests] == [1, 1, 2]


def test_a_mistake_is_not_sent_twice(fake: tuple[FakeServer, str], client: Client) -> None:
    fake[0].on_predict = lambda request, context: context.abort(grpc.StatusCode.INVALID_ARGUMENT, "feature 'x': NaN")
    with pytest.raises(PredictError, match="NaN"):
        client.predict("s", table(1))
    assert len(fake[0].requests) == 1


def test_all_missing_takes_the_scenario_s_type(fake: tuple[FakeServer, str], client: Client) -> None:
    fake[0].inputs = {"x": "string", "n": "int"}
    client.predict("s", {"x": [None, None], "n": [None, 1]})
    sent = {f.name: f for f in fake[0].requests[-1].candidates}
    assert sent["x"].WhichOneof("values") == "strings"
    assert list(sent["x"].lengths) == [0, 0]
    assert list(sent["n"].ints.values) == [1]


def test_fields_of_the_request(fake: tuple[FakeServer, str], client: Client) -> None:
    prediction = client.predict(
        "s", {"x": [0.5, 0.25]}, {"x": 3}, tasks=["a", "b"], version="v1", label="canary", request_id="id", rows=2
    )
    sent = fake[0].requests[-1]
    assert (sent.scenario, sent.version, sent.label) == ("s", "v1", "canary")
    assert (sent.request_id, sent.rows) == ("id", 2)
    assert list(sent.tasks) == ["a", "b"]
    assert list(sent.context[0].ints.values) == [3]
    assert prediction.request_id == "id"
    assert {task: list(scores) for task, scores in prediction.items()} == {"a": [0.5, 0.25], "b": [0.5, 0.25]}


def test_tasks_as_one_word(fake: tuple[FakeServer, str], client: Client) -> None:
    client.predict("s", {"x": [0.5]}, tasks="only")
    assert list(fake[0].requests[-1].tasks) == ["only"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({"x": [b"raw"]},), "feature 'x': found binary"),
        (({"x": 5},), "feature 'x': found a single value"),
        (([1, 2],), "found list"),
        ((), "rows: nothing to count them by"),
        (({},), "rows: nothing to count them by"),
    ],
)
def test_what_cannot_be_sent(fake: tuple[FakeServer, str], client: Client, arguments: Any, message: str) -> None:
    with pytest.raises(PredictError, match=message) as failure:
        client.predict("s", *arguments)
    assert failure.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert fake[0].requests == []


def test_an_answer_of_another_length_is_an_error(fake: tuple[FakeServer, str], client: Client) -> None:
    with pytest.raises(PredictError, match="1 scores for 2 rows") as failure:
        client.predict("s", {"x": [0.5]}, rows=2)
    assert failure.value.code is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize(("sent", "seconds"), [("40", 0.04), ("-1", None), ("soon", None), (None, None)])
def test_the_server_s_advice_when_to_try_again(
    fake: tuple[FakeServer, str], client: Client, sent: str | None, seconds: float | None
) -> None:
    def refuse(request: pb.PredictRequest, context: Any) -> None:
        if sent is not None:
            context.set_trailing_metadata((("grpc-retry-pushback-ms", sent),))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "its queue is full")

    fake[0].on_predict = refuse
    with pytest.raises(PredictError, match="its queue is full") as failure:
        client.predict("s", {"x": [0.5]})
    assert failure.value.retry_after == seconds
    assert len(fake[0].requests) == 1


def test_nobody_there() -> None:
    started = time.monotonic()
    with Client("127.0.0.1:1", timeout=30) as client, pytest.raises(PredictError) as failure:
        client.predict("s", {"x": [1.0]})
    assert time.monotonic() - started < 3  # four attempts, 0.35 s of waiting in all
    assert failure.value.code is grpc.StatusCode.UNAVAILABLE
    assert "cannot reach 127.0.0.1:1" in failure.value.message
    assert "smt serve" in failure.value.message


def test_a_draining_server_is_quoted(fake: tuple[FakeServer, str], client: Client) -> None:
    fake[0].on_predict = lambda request, context: context.abort(grpc.StatusCode.UNAVAILABLE, "the server is draining")
    with pytest.raises(PredictError) as failure:
        client.predict("s", {"x": [1.0]})
    assert failure.value.message == "the server is draining"
    assert len(fake[0].requests) == 4


@pytest.mark.parametrize("blocking", [True, False])
def test_a_call_that_a_draining_server_turned_away_is_made_again(fake: tuple[FakeServer, str], blocking: bool) -> None:
    """Also a large one, which gRPC by itself does not keep for another attempt."""

    def drain_twice(request: pb.PredictRequest, context: Any) -> None:
        if len(fake[0].requests) < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the server is draining")

    fake[0].on_predict = drain_twice
    rows = np.arange(200_000) / 200_000

    async def run() -> Any:
        async with AsyncClient(fake[1], timeout=30) as client:
            return await client.predict("s", {"x": rows})

    if blocking:
        with Client(fake[1], timeout=30) as client:
            assert client.predict("s", {"x": rows}).rows == 200_000
    else:
        assert asyncio.run(run()).rows == 200_000
    assert len(fake[0].requests) == 3


@pytest.mark.parametrize(
    "words",
    ["version 3 was refused: manifest.json: SHA-256 is wrong", "no version is connected to a binary", "unresolved"],
)
def test_a_server_s_own_words_do_not_say_that_it_is_out_of_reach(
    fake: tuple[FakeServer, str], client: Client, words: str
) -> None:
    fake[0].on_predict = lambda request, context: context.abort(grpc.StatusCode.UNAVAILABLE, words)
    with pytest.raises(PredictError) as failure:
        client.predict("s", {"x": [1.0]})
    assert failure.value.message == words


def test_another_service(fake: tuple[FakeServer, str]) -> None:
    with Client(fake[1], timeout=30) as client, pytest.raises(PredictError, match="is it an smt server"):
        client.health()


# Tables


@pytest.mark.parametrize("rows", [0, 1, 9, 10, 11, 95])
def test_every_row_is_scored_in_order(fake: tuple[FakeServer, str], either: Either, rows: int) -> None:
    done: list[int] = []
    scores = either.predict_table("s", table(rows), progress=done.append)
    np.testing.assert_array_equal(scores["t"], (np.arange(rows) / max(rows, 1)).astype(np.float32))
    assert sum(done) == rows
    # Parts under way at the same time may arrive in any order.
    sent = sorted((r.rows for r in fake[0].requests), reverse=True)
    assert sent == [10] * (rows // 10) + ([rows % 10] if rows % 10 else [])
    assert scores.versions == ({"v1": rows} if rows else {})


def test_parts_of_fewer_rows_and_bytes(fake: tuple[FakeServer, str], either: Either) -> None:
    either.predict_table("s", table(20), max_rows=4)
    assert [r.rows for r in fake[0].requests] == [4] * 5
    fake[0].requests.clear()
    fake[0].inputs, fake[0].max_bytes = {"x": "number", "word": "string"}, 700
    words = ["w" * 100] * 10 + ["v"] * 10
    scores = either.predict_table("s", {"x": np.arange(20) / 20, "word": words})
    assert sorted(r.rows for r in fake[0].requests) == [5, 5, 10]
    assert all(r.ByteSize() <= 700 for r in fake[0].requests)
    np.testing.assert_allclose(scores["t"], np.arange(20) / 20)


@pytest.mark.parametrize("limit", [0, 900])
def test_parts_of_fewer_values(fake: tuple[FakeServer, str], either: Either, limit: int) -> None:
    """Each string counts; a packed list of numbers is one. A server that tells no limit has the default one."""
    fake[0].inputs = {"x": "number", "words": "string", "numbers": "int"}
    fake[0].max_fields = limit
    data = {"x": np.arange(10) / 10, "words": [["w"] * 300] * 10, "numbers": [[1] * 300] * 10}
    scores = either.predict_table("s", data)
    np.testing.assert_allclose(scores["t"], data["x"])
    assert max(r.rows for r in fake[0].requests) == (2 if limit else 10)
    if limit:
        for sent in fake[0].requests:
            assert sum(len(f.strings.values) + 5 for f in sent.candidates) < limit * 0.9


def test_more_rows_than_the_server_takes_are_never_sent(fake: tuple[FakeServer, str], either: Either) -> None:
    either.predict_table("s", table(25), max_rows=1000)
    assert max(r.rows for r in fake[0].requests) == 10
    for wrong in (0, -1):
        with pytest.raises(PredictError, match=f"max_rows: found {wrong}; expected at least 1"):
            either.predict_table("s", table(25), max_rows=wrong)


def test_versions_of_a_table(fake: tuple[FakeServer, str], either: Either) -> None:
    """A swap in the middle is reported, also one to a version that reads other inputs."""

    def swap(request: pb.PredictRequest, context: Any) -> None:
        if len(fake[0].requests) == 3:
            fake[0].version, fake[0].inputs = "v2", {"x": "number", "y": "number"}
        if len(fake[0].requests) == 4:
            fake[0].version, fake[0].inputs = "v3", {"x": "number"}

    fake[0].on_predict = swap
    data = {"x": np.arange(50) / 50, "y": np.zeros(50)}
    scores = either.predict_table("s", pa.table(data), in_flight=1)
    assert sum(scores.versions.values()) == 50
    assert set(scores.versions) >= {"v1", "v2", "v3"}
    np.testing.assert_allclose(scores["t"], data["x"], rtol=1e-6)


def test_other_tasks_in_the_middle_are_an_error(fake: tuple[FakeServer, str], either: Either) -> None:
    def swap(request: pb.PredictRequest, context: Any) -> None:
        if len(fake[0].requests) == 3:
            fake[0].version, fake[0].tasks = "v2", ["u"]

    fake[0].on_predict = swap
    with pytest.raises(PredictError, match=r"version v1 answers the tasks \['t'\], and v2") as failure:
        either.predict_table("s", table(50))
    assert failure.value.code is grpc.StatusCode.ABORTED


def test_one_failed_part_fails_the_table(fake: tuple[FakeServer, str], either: Either) -> None:
    def refuse(request: pb.PredictRequest, context: Any) -> None:
        if len(fake[0].requests) == 4:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full")

    fake[0].on_predict = refuse
    with pytest.raises(PredictError, match="the queue is full"):
        either.predict_table("s", table(100))


def test_columns_of_different_lengths(fake: tuple[FakeServer, str], either: Either) -> None:
    with pytest.raises(PredictError, match="feature 'y': 4 rows; expected 3"):
        either.predict_table("s", {"x": [0.1, 0.2, 0.3], "y": [1, 2, 3, 4]})


def test_only_so_many_requests_at_once(fake: tuple[FakeServer, str], either: Either) -> None:
    started: list[int] = []
    either.predict_table("s", table(100), in_flight=3, progress=lambda rows: started.append(len(fake[0].requests)))
    # When the n-th answer is handed over, at most three requests beyond it have been sent.
    assert all(sent <= answered + 3 for answered, sent in enumerate(started, start=1))
