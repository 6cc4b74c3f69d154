"""Mistakes in requests of the Open Inference Protocol: the status is right and the message names the place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc
from tritonclient.utils import InferenceServerException

from tests.serving.support import FEED, SEARCH, RunningServer
from tests.serving.tensors import tensors

ROWS = FEED.rows(40)


@pytest.fixture(scope="module")
def oip(server: RunningServer) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.target) as made:
        yield made


@pytest.fixture(scope="module")
def stub(server: RunningServer) -> Iterator[Any]:
    with grpc.insecure_channel(server.target) as channel:
        yield pb_grpc.GRPCInferenceServiceStub(channel)


def status(failure: pytest.ExceptionInfo[InferenceServerException]) -> str:
    return str(failure.value.status()).removeprefix("StatusCode.")


# Each line is one way to spoil a good request, and what the message must hold; of INVALID_ARGUMENT if not said.

Spoil = Callable[[pb.ModelInferRequest], Any]


def _input(request: pb.ModelInferRequest, name: str) -> tuple[Any, int]:
    [found] = [i for i, sent in enumerate(request.inputs) if sent.name == name]
    return request.inputs[found], found


def _raw(name: str, content: bytes) -> Spoil:
    def spoil(request: pb.ModelInferRequest) -> None:
        request.raw_input_contents[_input(request, name)[1]] = content

    return spoil


def _set(of: str, **fields: Any) -> Spoil:
    def spoil(request: pb.ModelInferRequest) -> None:
        sent, _ = _input(request, of)
        for field, value in fields.items():
            if field == "shape":
                sent.shape[:] = value
            else:
                setattr(sent, field, value)

    return spoil


def _parameter(name: str, **value: Any) -> Spoil:
    return lambda request: request.parameters[name].MergeFrom(pb.InferParameter(**value))


def _output(name: str, **parameters: int) -> Spoil:
    def spoil(request: pb.ModelInferRequest) -> None:
        output = request.outputs.add(name=name)
        for key, value in parameters.items():
            output.parameters[key].int64_param = value

    return spoil


def _twice(request: pb.ModelInferRequest) -> None:
    request.inputs.add().CopyFrom(request.inputs[0])
    request.raw_input_contents.append(request.raw_input_contents[0])


MISTAKES: list[tuple[str, Spoil, str]] = [
    ("no model", lambda r: r.ClearField("model_name"), "model_name: empty"),
    ("unknown model", lambda r: setattr(r, "model_name", "nope"), "NOT_FOUND: 'nope' is unknown; expected one of"),
    ("unknown model and no inputs", lambda r: r.CopyFrom(pb.ModelInferRequest(model_name="nope")), "NOT_FOUND: 'nope'"),
    ("version", lambda r: setattr(r, "model_version", "1"), "NOT_FOUND: model_version: '1' of scenario 'search'"),
    ("long id", lambda r: setattr(r, "id", "x" * 257), "257 bytes; expected at most 256"),
    ("no inputs", lambda r: (r.ClearField("inputs"), r.ClearField("raw_input_contents")), "inputs"),
    ("twice", _twice, "inputs[2] 'income': sent twice; expected once"),
    ("unknown input", _set("city", name="town"), "feature 'town': unknown feature"),
    ("wrong type", _set("city", datatype="FP16"), "inputs[1] 'city': datatype 'FP16'; expected one of"),
    ("bytes", _raw("income", b"123"), "inputs[0] 'income': raw_input_contents[0] holds 3 bytes"),
    ("more bytes", _raw("income", bytes(800)), "holds 800 bytes; expected 4 values of 8 bytes"),
    ("rows", _set("income", shape=[5]), "expected 5 values of 8 bytes"),
    ("huge shape", _set("income", shape=[2**61]), "expected 2305843009213693952 values"),
    ("overflow", _set("income", shape=[2**62, 4]), "shape [4611686018427387904, 4]; expected [rows]"),
    ("negative", _set("income", shape=[-4]), "inputs[0] 'income': shape [-4]; expected [rows]"),
    ("scalar", _set("income", shape=[]), "inputs[0] 'income': shape []; expected [rows]"),
    ("no such rows", _set("income", shape=[10**9, 0]), "holds 32 bytes; expected 0 values"),
    ("text", _raw("city", b"\xff\0\0\0" * 4), "inputs[1] 'city': value 0 of 4 runs past the end"),
    ("not UTF-8", _raw("city", b"\1\0\0\0\xff" * 4), r"value 0 is '\xff'; expected UTF-8"),
    ("raw twice", lambda r: r.raw_input_contents.append(b""), "raw_input_contents: 3 entries; expected 2"),
    ("NaN", _raw("income", np.full(4, np.nan).tobytes()), "feature 'income': NaN in row 0"),
    ("rows parameter", _parameter("rows", int64_param=9), "4 rows; expected 9, as the parameter 'rows'"),
    ("rows type", _parameter("rows", string_param="4"), "parameter 'rows': expected an int64_param"),
    ("too many rows", _parameter("rows", int64_param=301), "301 rows; expected 1..300"),
    ("sequence", _parameter("sequence_id", int64_param=1), "sequences are not supported"),
    ("output", _output("click"), "outputs[0]: 'click' is not a task of scenario 'search'; its tasks: open"),
    ("output twice", lambda r: (_output("open")(r), _output("open")(r)), "outputs[1]: 'open' occurs twice"),
    ("classes", _output("open", classification=2), "classification is not supported"),
    ("shared memory", _output("open", shared_memory_region=1), "shared memory is not supported"),
]


def good_request() -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="search")
    for made in tensors(SEARCH.rows(4)):
        request.inputs.add().CopyFrom(made._get_tensor())
        request.raw_input_contents.append(made._get_content())
    return request


@pytest.mark.parametrize(("spoil", "message"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_mistakes(stub: Any, spoil: Spoil, message: str) -> None:
    request = good_request()
    assert stub.ModelInfer(request, timeout=60).outputs[0].shape == [4]
    spoil(request)
    with pytest.raises(grpc.RpcError) as failure:
        stub.ModelInfer(request, timeout=60)
    [code, *rest] = message.split(": ", 1) if message.startswith("NOT_FOUND: ") else ["INVALID_ARGUMENT", message]
    assert failure.value.code().name == code, failure.value.details()
    assert rest[0] in failure.value.details()


def test_mistakes_surface_in_the_client(oip: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="feature 'city': not sent; expected it") as failure:
        oip.infer("search", tensors(SEARCH.rows(4))[:1])
    assert status(failure) == "INVALID_ARGUMENT"
    shared = tensors(SEARCH.rows(4))
    shared[1].set_shared_memory("region", 64)
    with pytest.raises(InferenceServerException, match=r"inputs\[1\] 'city': parameter 'shared_memory_") as failure:
        oip.infer("search", shared)
    assert status(failure) == "INVALID_ARGUMENT"
    with pytest.raises(InferenceServerException, match="sequences are not supported"):
        oip.infer("search", tensors(SEARCH.rows(4)), sequence_id=9, sequence_start=True)


def test_a_message_that_is_none(server: RunningServer) -> None:
    with grpc.insecure_channel(server.target) as channel:
        for method in ("ModelInfer", "ModelMetadata", "RepositoryIndex"):
            call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            with pytest.raises(grpc.RpcError) as failure:
                call(b"\xff\xff\xff", timeout=60)
            assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "wire format damaged" in failure.value.details()


def test_the_timeout_parameter_is_a_deadline(oip: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="deadline") as failure:
        oip.infer("feed", tensors(FEED.rows(300)), timeout=1)
    assert status(failure) == "DEADLINE_EXCEEDED"
    with pytest.raises(InferenceServerException, match="parameter 'timeout': -5; expected microseconds") as failure:
        oip.infer("feed", tensors(ROWS), timeout=-5)
    assert status(failure) == "INVALID_ARGUMENT"
