"""Scoring through the Open Inference Protocol with the unmodified tritonclient: scores are smt.v1's to the bit."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from smt.serving.client import Client
from tests.serving.support import FEED, SEARCH, RunningServer, ScenarioCase, wait_for
from tests.serving.tensors import tensor, tensors, text

# Numbers of rows in this file are such that no block of 16 leaves less than 6 of them: bits could differ then, when the
# scheduler splits one request and not the other.
ROWS = FEED.rows(40)


@pytest.fixture(scope="module")
def oip(server: RunningServer) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.target) as made:
        yield made


@pytest.fixture(scope="module")
def stub(server: RunningServer) -> Iterator[Any]:
    with grpc.insecure_channel(server.target) as channel:
        yield pb_grpc.GRPCInferenceServiceStub(channel)


# Scores


@pytest.mark.parametrize("case", [FEED, SEARCH], ids=lambda case: str(case.name))
@pytest.mark.parametrize("rows", [1, 2, 40, 300])
def test_scores_are_those_of_predict(
    oip: triton.InferenceServerClient, client: Client, case: ScenarioCase, rows: int
) -> None:
    table = case.rows(rows, seed=rows)
    result = oip.infer(case.name, tensors(table), request_id="row-7")
    expected = client.predict(case.name, table)
    response = result.get_response()
    assert (response.model_name, response.model_version, response.id) == (case.name, expected.version, "row-7")
    assert [(out.name, out.datatype, list(out.shape)) for out in response.outputs] == [
        (task, "FP32", [rows]) for task in case.tasks
    ]
    for task in case.tasks:
        assert result.as_numpy(task).dtype == np.float32
        np.testing.assert_array_equal(result.as_numpy(task), expected[task])
    assert rows == 1 or np.ptp(result.as_numpy(case.tasks[0])) > 0.01


@pytest.mark.parametrize("kind", ["f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"])
def test_a_number_is_the_same_in_every_datatype(oip: triton.InferenceServerClient, client: Client, kind: str) -> None:
    values = np.arange(22) % (2 if kind == "?" else 22)
    city = ["Wien"] * 22
    result = oip.infer("search", [tensor("income", values.astype(kind)), tensor("city", text(city))])
    expected = client.predict("search", {"income": values.astype(float).tolist(), "city": city})
    np.testing.assert_array_equal(result.as_numpy("open"), expected["open"])


@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"])
def test_an_id_is_the_same_in_every_datatype(oip: triton.InferenceServerClient, client: Client, kind: str) -> None:
    table = ROWS.set_column(ROWS.column_names.index("user"), "user", pa.array(range(40)))
    others = [made for made in tensors(table) if made.name() != "user"]
    result = oip.infer("feed", [*others, tensor("user", np.arange(40).astype(kind))])
    np.testing.assert_array_equal(result.as_numpy("like"), client.predict("feed", table)["like"])


def test_typed_contents(stub: Any, client: Client) -> None:
    """As other clients send values: in fields of their types instead of raw."""
    table = FEED.rows(30, seed=2)
    request = pb.ModelInferRequest(model_name="feed")
    for made in tensors(table):
        sent = request.inputs.add()
        sent.CopyFrom(made._get_tensor())
        raw = made._get_content()
        if sent.datatype == "BYTES":
            while raw:
                size = int.from_bytes(raw[:4], "little")
                sent.contents.bytes_contents.append(raw[4 : 4 + size])
                raw = raw[4 + size :]
        elif sent.datatype == "FP64":
            sent.contents.fp64_contents.extend(np.frombuffer(raw, np.float64))
        elif sent.datatype == "INT64":
            sent.contents.int64_contents.extend(np.frombuffer(raw, np.int64))
        else:
            assert sent.datatype == "INT32"
            sent.contents.int_contents.extend(np.frombuffer(raw, np.int32))
    response = stub.ModelInfer(request, timeout=60)
    assert {len(entry) for entry in response.raw_output_contents} == {4 * 30}
    clicks = triton.InferResult(response).as_numpy("click")
    np.testing.assert_array_equal(clicks, client.predict("feed", table)["click"])


def test_lists_of_one_length_are_a_matrix(oip: triton.InferenceServerClient, client: Client) -> None:
    for width in (0, 1, 3):
        tags = [[f"tag{row}-{i}" for i in range(width)] for row in range(40)]
        inputs = [made for made in tensors(ROWS) if not made.name().startswith("tags")]
        matrix = np.array([[tag.encode() for tag in row] for row in tags], dtype=object).reshape(40, width)
        result = oip.infer("feed", [*inputs, tensor("tags", matrix)])
        expected = client.predict("feed", {**ROWS.to_pydict(), "tags": tags})
        np.testing.assert_array_equal(result.as_numpy("click"), expected["click"])


def test_one_row_is_context(oip: triton.InferenceServerClient, client: Client) -> None:
    shared = {"user": [7], "tags": [["a", "b"]], "city": ["Wien"]}
    own = ROWS.drop_columns(list(shared))
    context = [
        tensor("user", np.array([7])),
        tensor("tags", text(["a", "b"])),
        tensor("tags.lengths", np.array([2], dtype=np.int32)),
        tensor("city", text(["Wien"]).reshape(1, 1)),
    ]
    result = oip.infer("feed", [*context, *tensors(own)])
    np.testing.assert_array_equal(result.as_numpy("click"), client.predict("feed", own, shared)["click"])


def test_rows_are_a_parameter_where_all_is_context(oip: triton.InferenceServerClient, client: Client) -> None:
    row = {"income": [3.0], "city": ["Wien"]}
    inputs = [tensor("income", np.array([3.0])), tensor("city", text(["Wien"]))]
    result = oip.infer("search", inputs, parameters={"rows": 25})
    np.testing.assert_array_equal(result.as_numpy("open"), client.predict("search", None, row, rows=25)["open"])
    assert oip.infer("search", inputs).as_numpy("open").shape == (1,)


def test_requested_outputs_and_version(oip: triton.InferenceServerClient, server: RunningServer) -> None:
    version = server.registry.current("feed")
    both = oip.infer("feed", tensors(ROWS))
    swapped = [triton.InferRequestedOutput("like"), triton.InferRequestedOutput("click")]
    result = oip.infer("feed", tensors(ROWS), model_version=version, outputs=swapped)
    assert [out.name for out in result.get_response().outputs] == ["like", "click"]
    one = oip.infer("feed", tensors(ROWS), outputs=swapped[:1])
    assert one.as_numpy("click") is None
    for answer in (result, one):
        np.testing.assert_array_equal(answer.as_numpy("like"), both.as_numpy("like"))


def test_what_clients_add_changes_nothing(oip: triton.InferenceServerClient) -> None:
    plain = oip.infer("feed", tensors(ROWS)).as_numpy("click")
    dressed = oip.infer(
        "feed",
        tensors(ROWS),
        headers={"x-tenant": "7"},
        priority=3,
        timeout=60_000_000,
        client_timeout=60,
        parameters={"content_type": "np", "trace": True, "weight": 0.5},
        compression_algorithm="gzip",
    )
    np.testing.assert_array_equal(dressed.as_numpy("click"), plain)


# Asynchronous calls and streams


def test_async_infer(oip: triton.InferenceServerClient) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    expected = {}
    for at in range(0, 40, 4):
        rows = ROWS.slice(at, 4)
        expected[str(at)] = oip.infer("feed", tensors(rows)).as_numpy("click")
        oip.async_infer("feed", tensors(rows), lambda result, error: answers.put((result, error)), request_id=str(at))
    for _ in range(10):
        result, error = answers.get(timeout=60)
        assert error is None
        np.testing.assert_allclose(result.as_numpy("click"), expected.pop(result.get_response().id), atol=1e-6)
    assert not expected


def test_asyncio(server: RunningServer, oip: triton.InferenceServerClient) -> None:
    async def run() -> None:
        async with triton_aio.InferenceServerClient(server.target) as client:
            assert await client.is_model_ready("feed")
            several = await asyncio.gather(*(client.infer("feed", tensors(ROWS.slice(at, 10))) for at in (0, 10, 20)))
            whole = oip.infer("feed", tensors(ROWS)).as_numpy("click")
            np.testing.assert_allclose(
                np.concatenate([one.as_numpy("click") for one in several]), whole[:30], rtol=0, atol=1e-6
            )

    asyncio.run(run())


class Stream:
    """A stream of one client, whose answers are queued."""

    def __init__(self, server: RunningServer) -> None:
        self._target = server.target
        self.answers: queue.Queue[tuple[Any, Any]] = queue.Queue()

    def __enter__(self) -> Stream:
        self.client = triton.InferenceServerClient(self._target)
        self.client.start_stream(lambda result, error: self.answers.put((result, error)))
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()

    def next(self) -> tuple[Any, Any]:
        return self.answers.get(timeout=60)


def test_a_stream_answers_in_order(server: RunningServer, oip: triton.InferenceServerClient) -> None:
    """Many more requests than are read ahead, large and small ones, each with its own scores."""
    sizes = [300 if i % 7 == 0 else 1 + i % 5 for i in range(300)]
    tables = {size: FEED.rows(size, seed=size) for size in set(sizes)}
    expected = {size: oip.infer("feed", tensors(table)).as_numpy("click") for size, table in tables.items()}
    with Stream(server) as stream:
        for i, size in enumerate(sizes):
            stream.client.async_stream_infer("feed", tensors(tables[size]), request_id=str(i))
        for i, size in enumerate(sizes):
            result, error = stream.next()
            assert error is None
            assert result.get_response().id == str(i)
            assert result.get_response().parameters["triton_final_response"].bool_param
            np.testing.assert_allclose(result.as_numpy("click"), expected[size], rtol=0, atol=1e-6)
        stream.client.stop_stream()  # waits for the server to end it


def test_a_stream_survives_its_mistakes(server: RunningServer) -> None:
    with Stream(server) as stream:
        good = tensors(ROWS)
        for model, inputs in (("feed", good), ("nope", good), ("feed", good[1:]), ("feed", good)):
            stream.client.async_stream_infer(model, inputs)
        answers = [stream.next() for _ in range(4)]
    assert [error is None for _, error in answers] == [True, False, False, True]
    assert answers[1][1].message().startswith("NOT_FOUND: scenario: 'nope' is unknown; expected one of: feed, search")
    assert answers[2][1].message().startswith("INVALID_ARGUMENT: feature 'age.lengths': unknown feature")
    np.testing.assert_array_equal(answers[3][0].as_numpy("like"), answers[0][0].as_numpy("like"))


def test_a_stream_may_be_cancelled(server: RunningServer, client: Client) -> None:
    before = _inflight(server)
    for _ in range(5):
        with Stream(server) as stream:
            for _ in range(100):
                stream.client.async_stream_infer("feed", tensors(FEED.rows(300)))
            stream.next()
            stream.client.stop_stream(cancel_requests=True)
    wait_for(lambda: _inflight(server) == before, "cancelled requests to be gone")
    assert client.predict("feed", ROWS).rows == 40


def test_a_stream_ends_with_its_client(stub: Any) -> None:
    """Closed by the client without a request, and after one."""
    assert list(stub.ModelStreamInfer(iter(()), timeout=60)) == []
    request = pb.ModelInferRequest(model_name="nope", id="x")
    [answer] = stub.ModelStreamInfer(iter((request,)), timeout=60)
    assert answer.error_message.startswith("NOT_FOUND: ")
    assert answer.infer_response.id == "x"


def _inflight(server: RunningServer) -> str:
    [line] = [line for line in server.metrics().splitlines() if line.startswith("smt_inflight ")]
    return line
