"""MultiPredict of a running smt-server: each scenario's scores are Predict's, in one batch, and so are its mistakes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pytest

from smt.serving.binary import BinaryRunner
from smt.serving.client import Client, PredictError, Prediction
from smt.serving.compile import BinaryInfo
from smt.serving.encode import encode_all, to_columns
from smt.serving.protos import prediction_pb2 as pb
from smt.serving.protos import prediction_pb2_grpc as pb_grpc
from smt.serving.registry import Registry
from smt.training.template import Template
from tests.serving.support import FEED, SEARCH, VIDEO, RunningServer, copy_binaries

CASES = (FEED, SEARCH, VIDEO)
NAMES = [case.name for case in CASES]
INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
# `feed` reads what the others read, and more.
ROWS = FEED.rows(40)


@pytest.fixture(scope="module")
def server(
    compiled: tuple[Path, BinaryInfo, list[str]], template: Template, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("multi_server")
    registry = copy_binaries(compiled[0], folder / "registry")
    for seed, case in enumerate(CASES, start=1):
        case.publish(Registry(registry), template, seed)
    with RunningServer(registry, folder, max_rows=4096, block_rows=256) as running:
        yield running
        assert running.process.poll() is None, "the server died under a test"


@pytest.fixture(scope="module")
def stub(server: RunningServer) -> Iterator[Any]:
    with grpc.insecure_channel(server.target) as channel:
        yield pb_grpc.PredictionServiceStub(channel)  # type: ignore[no-untyped-call]


def request(table: pa.Table = ROWS, scenarios: list[str] | None = None, **fields: Any) -> pb.MultiPredictRequest:
    return pb.MultiPredictRequest(
        scenarios=[pb.ScenarioRequest(scenario=name) for name in scenarios or NAMES],
        candidates=encode_all(to_columns(table)),
        **{"rows": table.num_rows, **fields},
    )


def refusal(stub: Any, message: pb.MultiPredictRequest) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as failure:
        stub.MultiPredict(message, timeout=60)
    return failure.value.code(), failure.value.details()


def scores(answer: Prediction | PredictError) -> Prediction:
    assert isinstance(answer, Prediction), answer
    return answer


# Scores


@pytest.mark.parametrize("rows", [6, 40, 255, 256, 257, 4096])
def test_scores_are_those_of_predict_to_the_bit(client: Client, rows: int) -> None:
    table = FEED.rows(rows, seed=rows)
    answers = client.multi_predict(NAMES, table)
    for case in CASES:
        alone = client.predict(case.name, table)
        together = scores(answers[case.name])
        assert together.version == alone.version
        assert list(together) == list(alone)
        for task in case.tasks:
            np.testing.assert_array_equal(together[task], alone[task])


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_scores_of_few_rows(client: Client, runner: BinaryRunner, template: Template, rows: int) -> None:
    """Calls of fewer than six rows sum in another order: equal up to that."""
    table = FEED.rows(rows, seed=rows)
    answers = client.multi_predict(NAMES, table)
    for seed, case in enumerate(CASES, start=1):
        expected = case.scored(runner, template, seed, table)
        for task in case.tasks:
            np.testing.assert_allclose(scores(answers[case.name])[task], expected[task], rtol=1e-4, atol=2e-5)


def test_context_counts_for_every_scenario(client: Client) -> None:
    own = ROWS.drop_columns(["age", "city"])
    shared = {"age": 33.0, "city": "Wien"}
    answers = client.multi_predict(["video", "feed"], own, shared)
    spread = {**own.to_pydict(), "age": [33.0] * 40, "city": ["Wien"] * 40}
    for name, columns in (("video", ["age", "user", "city"]), ("feed", list(spread))):
        alone = client.predict(name, {column: spread[column] for column in columns})
        for task, expected in alone.items():
            np.testing.assert_array_equal(scores(answers[name])[task], expected)


def test_one_call_is_one_batch(server: RunningServer, client: Client) -> None:
    """Ten rows of three scenarios: two of them are filled up to whole row blocks of 16, the last one is not."""
    table = FEED.rows(10)
    client.multi_predict(NAMES, table)
    before = blocks(server)
    client.multi_predict(NAMES, table)
    count, rows, padding = (now - then for now, then in zip(blocks(server), before, strict=True))
    assert (count, rows, padding) == (1, 16 + 16 + 10, 6 + 6)


def blocks(server: RunningServer) -> tuple[float, float, float]:
    """Calls of the binary, their rows, and how many of those were padding."""
    return (
        server.metric("smt_block_rows_count"),
        server.metric("smt_block_rows_sum"),
        server.metric("smt_padding_rows_total"),
    )


def test_tasks_version_and_request_id(server: RunningServer, stub: Any) -> None:
    version = server.registry.current("feed")
    message = request(scenarios=["search", "feed"], request_id="row-7")
    message.scenarios[1].version, message.scenarios[1].label = version or "", "stable"
    message.scenarios[1].tasks.append("like")
    response = stub.MultiPredict(message, timeout=60)
    assert response.request_id == "row-7"
    assert [answer.scenario for answer in response.scenarios] == ["search", "feed"]
    assert [[task.task for task in answer.tasks] for answer in response.scenarios] == [["open"], ["like"]]
    assert response.scenarios[1].version == version
    assert all(answer.timings.compute_us > 0 for answer in response.scenarios)


# Mistakes of one scenario: what is done to the second of the call, its code, and the words of its message.

Spoil = Callable[[pb.MultiPredictRequest], Any]


def _second(**fields: Any) -> Spoil:
    def spoil(message: pb.MultiPredictRequest) -> None:
        for name, value in fields.items():
            setattr(message.scenarios[1], name, value)

    return spoil


def _tasks(*names: str) -> Spoil:
    return lambda message: message.scenarios[1].tasks.extend(names)


def _without(name: str) -> Spoil:
    def spoil(message: pb.MultiPredictRequest) -> None:
        message.candidates.remove(next(feature for feature in message.candidates if feature.name == name))

    return spoil


def _ints(name: str, values: list[int]) -> Spoil:
    def spoil(message: pb.MultiPredictRequest) -> None:
        feature = next(feature for feature in message.candidates if feature.name == name)
        feature.CopyFrom(pb.Feature(name=name, ints=pb.Ints(values=values)))

    return spoil


OWN_MISTAKES: dict[str, tuple[Spoil, grpc.StatusCode, list[str]]] = {
    "unknown scenario": (_second(scenario="fed"), NOT_FOUND, ["scenarios[1].scenario: 'fed' is unknown", "feed"]),
    "no scenario": (_second(scenario=""), INVALID, ["scenarios[1].scenario: empty"]),
    "a version that is not served": (_second(version="v9"), NOT_FOUND, ["scenarios[1].version: 'v9'", "'feed'"]),
    "an unknown label": (_second(label="beta"), NOT_FOUND, ["scenarios[1].label: 'beta'", "'stable'"]),
    "an unknown task": (_tasks("buy"), INVALID, ["scenarios[1].tasks[0]: 'buy'", "click, like"]),
    "a task twice": (_tasks("like", "like"), INVALID, ["scenarios[1].tasks[1]: 'like' occurs twice"]),
    "an input that it alone requires": (_without("age"), INVALID, ["'age'"]),
    "a value that it alone reads": (_ints("age", [1] * 39), INVALID, ["'age'", "39", "40"]),
}


@pytest.mark.parametrize("name", OWN_MISTAKES)
def test_a_scenario_s_mistake_is_its_own(server: RunningServer, stub: Any, name: str) -> None:
    spoil, code, words = OWN_MISTAKES[name]
    message = request(scenarios=["search", "feed"])
    good = stub.MultiPredict(message, timeout=60).scenarios[0]
    spoil(message)
    counted = message.scenarios[1].scenario
    counted = counted if counted == "feed" else "_unknown"
    before = {s: server.metric("smt_requests_total", scenario=s) for s in ("search", counted)}
    response = stub.MultiPredict(message, timeout=60)
    first, second = response.scenarios
    assert (first.code, first.version, first.tasks) == (0, good.version, good.tasks)
    assert second.code == code.value[0], second.message
    for word in words:
        assert word in second.message
    assert not second.tasks
    assert not second.version
    for scenario, count in before.items():
        assert server.metric("smt_requests_total", scenario=scenario) == count + 1
    assert server.metric("smt_requests_total", scenario=counted, code=code.name) >= 1


def test_what_one_scenario_cannot_read_does_not_concern_the_others(client: Client, server: RunningServer) -> None:
    """`user` is of no use to `search`; a wrong type there fails those that read it."""
    rows: dict[str, Any] = {**ROWS.to_pydict(), "user": ["text"] * 40}
    answers = client.multi_predict(NAMES, rows)
    np.testing.assert_array_equal(scores(answers["search"])["open"], client.predict("search", ROWS)["open"])
    for name in ("feed", "video"):
        failure = answers[name]
        assert isinstance(failure, PredictError)
        assert failure.code is INVALID
        assert "'user'" in failure.message


# Mistakes of the call


def test_a_feature_that_no_scenario_reads(stub: Any) -> None:
    message = request(scenarios=["search", "video"])
    message.candidates.sort(key=lambda feature: feature.name == "device")
    assert refusal(stub, message) == (INVALID, "feature 'tags': unknown feature; no scenario of this call reads it")
    for name in ("tags", "device"):
        _without(name)(message)
    assert [answer.code for answer in stub.MultiPredict(message, timeout=60).scenarios] == [0, 0]
    message.context.append(pb.Feature(name="agee", doubles=pb.Doubles(values=[1.0])))
    assert "feature 'agee': unknown feature" in refusal(stub, message)[1]


@pytest.mark.parametrize(
    ("scenarios", "words"),
    [
        ([f"s{i}" for i in range(65)], "scenarios: more than 64 entries; expected 1..64"),
        (["feed", "search", "feed"], "scenarios[2].scenario: 'feed' occurs twice; expected each once"),
        (["", ""], "scenarios[1].scenario: '' occurs twice"),
    ],
)
def test_scenarios_that_cannot_be_asked_together(stub: Any, scenarios: list[str], words: str) -> None:
    code, details = refusal(stub, request(scenarios=scenarios))
    assert code is INVALID
    assert words in details


def test_no_scenario(stub: Any) -> None:
    message = request()
    message.ClearField("scenarios")
    assert refusal(stub, message) == (INVALID, "scenarios: none; expected 1..64")
    assert refusal(stub, pb.MultiPredictRequest())[0] is INVALID


def test_as_many_scenarios_as_are_allowed(stub: Any) -> None:
    names = [f"nobody-{i}" for i in range(61)]
    response = stub.MultiPredict(request(scenarios=[*names[:30], *NAMES, *names[30:]]), timeout=60)
    assert [answer.scenario for answer in response.scenarios if answer.code == 0] == NAMES
    assert {answer.code for answer in response.scenarios} == {0, NOT_FOUND.value[0]}


@pytest.mark.parametrize("rows", [0, -1, 4097, 2**31 - 1])
def test_rows_out_of_range(stub: Any, rows: int) -> None:
    assert refusal(stub, request(rows=rows)) == (INVALID, f"rows: {rows}; expected 1..4096")


def test_a_long_request_id(stub: Any) -> None:
    code, details = refusal(stub, request(request_id="x" * 257))
    assert (code, details) == (INVALID, "request_id: 257 bytes; expected at most 256")


def test_a_message_that_is_too_large(stub: Any, client: Client) -> None:
    message = request()
    message.candidates.append(pb.Feature(name="city", strings=pb.Strings(values=["x" * (17 << 20)])))
    assert refusal(stub, message)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(client.multi_predict(NAMES, ROWS)) == 3


@pytest.mark.parametrize("content", [b"\xff" * 100, b"\x0a\x02\xc3\x28", b"\x0a\xff\xff\xff\xff\x0f", b"\x00"])
def test_bytes_that_are_no_request(server: RunningServer, stub: Any, content: bytes) -> None:
    with grpc.insecure_channel(server.target) as channel:
        call = channel.unary_unary("/smt.v1.PredictionService/MultiPredict")
        with pytest.raises(grpc.RpcError) as failure:
            call(content, timeout=60)
    assert failure.value.code() is INVALID
    assert len(stub.MultiPredict(request(), timeout=60).scenarios) == 3


def test_random_bytes_in_a_good_request(stub: Any, server: RunningServer) -> None:
    random = np.random.default_rng(5)
    good = request(FEED.rows(5)).SerializeToString()
    codes = {grpc.StatusCode.OK: 0, INVALID: 0}
    with grpc.insecure_channel(server.target) as channel:
        call = channel.unary_unary("/smt.v1.PredictionService/MultiPredict")
        for _ in range(300):
            content = bytearray(good)
            for at in random.integers(0, len(good), random.integers(1, 4)):
                content[at] = random.integers(0, 256)
            try:
                call(bytes(content), timeout=60)
                codes[grpc.StatusCode.OK] += 1
            except grpc.RpcError as error:
                codes[error.code()] = codes.get(error.code(), 0) + 1
    assert set(codes) == {grpc.StatusCode.OK, INVALID}
    assert min(codes.values()) > 20
    assert server.process.poll() is None
