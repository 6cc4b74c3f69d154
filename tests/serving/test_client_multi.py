"""multi_predict of both clients, against a server in this process that answers as a test wants it to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pytest

from smt.serving.client import AsyncClient, Client, PredictError, Prediction
from smt.serving.protos import prediction_pb2 as pb
from smt.serving.protos import prediction_pb2_grpc as pb_grpc

Servicer: Any = pb_grpc.PredictionServiceServicer
Answers = dict[str, Prediction | PredictError]

INVALID = grpc.StatusCode.INVALID_ARGUMENT
TABLE = pa.table({"x": [0.25, 0.5], "y": [3.0, 4.0], "unread": ["u", "u"]})


class FakeServer(Servicer):  # type: ignore[misc]
    """Scores every row with the numbers of `x`. `inputs`, `codes` and `versions` are by scenario."""

    def __init__(self) -> None:
        self.inputs: dict[str, dict[str, str]] = {"a": {"x": "number"}, "b": {"x": "number", "y": "int"}}
        self.codes: dict[str, grpc.StatusCode] = {}
        self.versions = {"a": "a1", "b": "b1"}
        self.requests: list[pb.MultiPredictRequest] = []
        self.asked: list[str] = []
        self.on_call: Callable[[pb.MultiPredictRequest, Any], None] = lambda request, context: None
        self.change: Callable[[pb.MultiPredictResponse], None] = lambda response: None

    def MultiPredict(self, request: pb.MultiPredictRequest, context: Any) -> pb.MultiPredictResponse:
        self.requests.append(request)
        self.on_call(request, context)
        response = pb.MultiPredictResponse(request_id=request.request_id)
        sent = {feature.name for feature in [*request.candidates, *request.context]}
        for asked in request.scenarios:
            answer = response.scenarios.add(scenario=asked.scenario)
            code = self.codes.get(asked.scenario)
            if code is None and not set(self.inputs[asked.scenario]) <= sent:
                code = INVALID
            if code is not None:
                answer.code, answer.message, answer.retry_after_ms = code.value[0], "because", 250
                continue
            values = next(f.doubles.values for f in request.candidates if f.name == "x")
            answer.version = self.versions[asked.scenario]
            answer.tasks.add(task="t", probabilities=values)
            answer.timings.compute_us = 7
        self.change(response)
        return response

    def GetScenario(self, request: pb.GetScenarioRequest, context: Any) -> pb.ScenarioMetadata:
        self.asked.append(request.scenario)
        if request.scenario not in self.inputs:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown")
        inputs = [pb.InputMetadata(name=name, type=kind) for name, kind in self.inputs[request.scenario].items()]
        version = self.versions[request.scenario]
        return pb.ScenarioMetadata(scenario=request.scenario, version=version, inputs=inputs)


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


@pytest.fixture(params=[True, False], ids=["blocking", "asyncio"])
def ask(request: pytest.FixtureRequest, fake: tuple[FakeServer, str]) -> Iterator[Callable[..., Answers]]:
    """multi_predict of one client, which lasts for the test."""
    if request.param:
        with Client(fake[1], timeout=30) as client:
            yield client.multi_predict
        return
    with asyncio.Runner() as runner:

        async def make() -> AsyncClient:
            return AsyncClient(fake[1], timeout=30)

        made = runner.run(make())
        yield lambda *arguments, **options: runner.run(made.multi_predict(*arguments, **options))
        runner.run(made.close())


def names(request: pb.MultiPredictRequest) -> list[str]:
    return [feature.name for feature in request.candidates]


def test_fields_of_the_request(fake: tuple[FakeServer, str], ask: Callable[..., Answers]) -> None:
    answers = ask(
        ["b", "a"],
        {"x": [0.25, 0.5]},
        {"y": 3},
        tasks={"a": "only", "b": ["one", "two"]},
        versions={"b": "b1"},
        labels={"a": "canary"},
        request_id="id",
        rows=2,
    )
    sent = fake[0].requests[-1]
    assert [(s.scenario, s.version, s.label, list(s.tasks)) for s in sent.scenarios] == [
        ("b", "b1", "", ["one", "two"]),
        ("a", "", "canary", ["only"]),
    ]
    assert (sent.rows, sent.request_id, list(sent.context[0].ints.values)) == (2, "id", [3])
    assert fake[0].asked == []  # of a mapping everything is sent
    assert list(answers) == ["b", "a"]
    first = answers["b"]
    assert isinstance(first, Prediction)
    assert (first.version, first.request_id, first.rows, first.timings.compute_us) == ("b1", "id", 2, 7)
    np.testing.assert_array_equal(first["t"], [0.25, 0.5])


def test_of_a_table_what_any_of_them_reads_is_sent(fake: tuple[FakeServer, str], ask: Callable[..., Answers]) -> None:
    for _ in range(2):
        answers = ask(["a", "b"], TABLE)
        assert all(isinstance(answer, Prediction) for answer in answers.values())
    sent = fake[0].requests[-1]
    assert names(sent) == ["x", "y"]
    assert list(sent.candidates[1].ints.values) == [3, 4]  # `b` wants ints
    assert sorted(fake[0].asked) == ["a", "b"]


def test_where_scenarios_disagree_an_int_serves_both(fake: tuple[FakeServer, str], ask: Callable[..., Answers]) -> None:
    fake[0].inputs = {"a": {"x": "number", "y": "number"}, "b": {"x": "number", "y": "int"}}
    for order in (["a", "b"], ["b", "a"]):
        ask(order, TABLE)
        assert list(fake[0].requests[-1].candidates[1].ints.values) == [3, 4]


def test_one_scenario_s_failure_is_its_own(fake: tuple[FakeServer, str], ask: Callable[..., Answers]) -> None:
    fake[0].codes = {"a": grpc.StatusCode.RESOURCE_EXHAUSTED}
    answers = ask(["a", "b"], TABLE)
    failure = answers["a"]
    assert isinstance(failure, PredictError)
    assert (failure.code, failure.message) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "because")
    assert failure.retry_after == 0.25
    assert isinstance(answers["b"], Prediction)
    assert len(fake[0].requests) == 1


def test_a_scenario_without_metadata_is_asked_for_all_the_same(
    fake: tuple[FakeServer, str], ask: Callable[..., Answers]
) -> None:
    fake[0].codes = {"nobody": grpc.StatusCode.NOT_FOUND}
    answers = ask(["nobody", "a"], TABLE)
    assert names(fake[0].requests[-1]) == ["x"]
    failure = answers["nobody"]
    assert isinstance(failure, PredictError)
    assert (failure.code, failure.retry_after) == (grpc.StatusCode.NOT_FOUND, 0.25)
    assert isinstance(answers["a"], Prediction)


def test_the_call_s_own_failure_is_raised(fake: tuple[FakeServer, str], ask: Callable[..., Answers]) -> None:
    def refuse(request: pb.MultiPredictRequest, context: Any) -> None:
        context.set_trailing_metadata((("grpc-retry-pushback-ms", "1500"),))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much")

    fake[0].on_call = refuse
    with pytest.raises(PredictError, match="too much") as failure:
        ask(["a"], TABLE)
    assert failure.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failure.value.retry_after == 1.5


def test_a_version_with_other_inputs_is_noticed_on_refusal(
    fake: tuple[FakeServer, str], ask: Callable[..., Answers]
) -> None:
    ask(["a", "b"], TABLE)
    fake[0].inputs["a"], fake[0].versions["a"] = {"x": "number", "unread": "string"}, "a2"
    answers = ask(["a", "b"], TABLE)
    assert [names(request) for request in fake[0].requests] == [["x", "y"]] * 2 + [["x", "y", "unread"]]
    assert [answer.version for answer in answers.values() if isinstance(answer, Prediction)] == ["a2", "b1"]


def test_a_version_with_fewer_inputs_is_noticed_on_refusal_of_the_call(
    fake: tuple[FakeServer, str], ask: Callable[..., Answers]
) -> None:
    ask(["a", "b"], TABLE)
    fake[0].inputs["b"] = {"x": "number"}

    def unknown(request: pb.MultiPredictRequest, context: Any) -> None:
        if "y" in names(request):
            context.abort(INVALID, "feature 'y': unknown feature; no scenario of this call reads it")

    fake[0].on_call = unknown
    answers = ask(["a", "b"], TABLE)
    assert names(fake[0].requests[-1]) == ["x"]
    assert all(isinstance(answer, Prediction) for answer in answers.values())


def test_a_mistake_is_not_sent_twice(fake: tuple[FakeServer, str], ask: Callable[..., Answers]) -> None:
    fake[0].codes = {"a": INVALID}
    answers = ask(["a", "b"], TABLE)
    assert isinstance(answers["a"], PredictError)
    assert len(fake[0].requests) == 1


@pytest.mark.parametrize("option", ["tasks", "versions", "labels"])
def test_options_of_a_scenario_that_is_not_asked(
    fake: tuple[FakeServer, str], ask: Callable[..., Answers], option: str
) -> None:
    with pytest.raises(PredictError, match=f"{option}: found 'c'; expected scenarios of this call: a, b") as failure:
        ask(["a", "b"], TABLE, **{option: {"c": "v"}})
    assert failure.value.code is INVALID
    assert fake[0].requests == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda response: response.scenarios.reverse(), "the server answered b, a; expected a, b"),
        (lambda response: response.scenarios.pop(), "the server answered a; expected a, b"),
    ],
)
def test_answers_for_others_are_an_error(
    fake: tuple[FakeServer, str], ask: Callable[..., Answers], change: Any, message: str
) -> None:
    fake[0].change = change
    with pytest.raises(PredictError, match=message) as failure:
        ask(["a", "b"], TABLE)
    assert failure.value.code is grpc.StatusCode.INTERNAL


def test_an_answer_of_another_length_fails_its_scenario(
    fake: tuple[FakeServer, str], ask: Callable[..., Answers]
) -> None:
    fake[0].change = lambda response: response.scenarios[0].tasks[0].probabilities.pop()
    answers = ask(["a", "b"], TABLE)
    failure = answers["a"]
    assert isinstance(failure, PredictError)
    assert (failure.code, failure.message) == (
        grpc.StatusCode.INTERNAL,
        "task 't': the server answered 1 scores for 2 rows",
    )
    assert isinstance(answers["b"], Prediction)
