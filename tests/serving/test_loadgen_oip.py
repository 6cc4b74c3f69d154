"""The load generator against servers of the Open Inference Protocol: ours, and what the metadata of others may say."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import deserialize_bytes_tensor
from typer.testing import CliRunner

from smt.serving import loadgen
from smt.serving.cli import app
from smt.serving.client import PredictError
from smt.serving.loadgen import Closed, LoadgenError, Plan, Source
from smt.serving.loadgen.oip import random_messages
from smt.serving.protos import grpc_service_pb2 as pb
from tests.serving.support import RunningServer

# Of the Triton client library, by datatype.
NUMPY = {
    "BOOL": np.bool_,
    **{f"INT{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)},
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}


def messages(
    inputs: list[tuple[str, str, list[int]]], count: int = 1, platform: str = "other", **ranges: Any
) -> list[pb.ModelInferRequest]:
    metadata = pb.ModelMetadataResponse(platform=platform)
    for name, datatype, shape in inputs:
        metadata.inputs.add(name=name, datatype=datatype, shape=shape)
    made = random_messages("m", metadata, 7, count, np.random.default_rng(1), ranges)
    assert {payload.rows for payload in made} == {7}
    return [pb.ModelInferRequest.FromString(payload.message) for payload in made]


def values(message: pb.ModelInferRequest, place: int) -> np.ndarray[Any, Any]:
    """A tensor's values, as the Triton client library reads them; in the tensor's shape."""
    tensor, raw = message.inputs[place], message.raw_input_contents[place]
    if tensor.datatype == "BYTES":
        found = deserialize_bytes_tensor(raw)
    elif tensor.datatype == "BF16":
        found = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")  # the upper half of a float
    else:
        found = np.frombuffer(raw, NUMPY[tensor.datatype])
    return np.asarray(found).reshape(list(tensor.shape))


@pytest.mark.parametrize("datatype", [*NUMPY, "BF16", "BYTES"])
def test_every_datatype_is_written_as_others_read_it(datatype: str) -> None:
    (message,) = messages([("x", datatype, [-1, 40])])
    found = values(message, 0)
    assert found.shape == (7, 40)
    assert len(np.unique(found)) > 1
    if datatype in NUMPY and datatype.startswith(("INT", "UINT")):
        assert found.min() >= 0
        assert found.max() < 100, "rows of a table, for all that we know"
    elif datatype.startswith(("FP", "BF")):
        assert abs(found.astype(float).mean()) < 50
        assert np.isfinite(found.astype(float)).all()


def test_ranges_and_words() -> None:
    ranges: dict[str, Any] = {"ids": (1000.0, 2000.0), "x": (-1.0, 1.0), "s": ["a", "bc"]}
    inputs = [("ids", "INT32", [-1, 9]), ("x", "FP64", [-1, 9]), ("s", "BYTES", [-1, 9])]
    (message,) = messages(inputs, **ranges)
    ids, x, s = (values(message, place) for place in range(3))
    assert 1000 <= ids.min() < ids.max() < 2000
    assert -1 <= x.min() < 0 < x.max() <= 1
    assert set(s.ravel()) == {b"a", b"bc"}
    with pytest.raises(LoadgenError, match="model 'm' reads no input 'y'; it reads ids, x, s"):
        messages(inputs, y=(0, 1))
    with pytest.raises(LoadgenError, match="input 'x': found 'a,b'; expected a range of numbers"):
        messages(inputs, x=["a", "b"])


def test_open_dimensions() -> None:
    """The first is the rows, others are the same in all of a message's inputs; what the metadata fixes stays."""
    inputs = [("a", "FP32", [-1]), ("b", "FP32", [-1, -1]), ("c", "FP32", [3, -1, 2]), ("d", "FP32", [-1, -1])]
    widths = set()
    for message in messages(inputs, count=60):
        a, b, c, d = (list(tensor.shape) for tensor in message.inputs)
        width = b[1]
        assert (a, b, c, d) == ([7], [7, width], [3, width, 2], [7, width])
        assert [values(message, place).size for place in range(4)] == [7, 7 * width, 6 * width, 7 * width]
        widths.add(width)
    assert widths == {1, 2, 3, 4, 5}


def test_a_datatype_that_is_not_known() -> None:
    with pytest.raises(LoadgenError, match="input 'x': found datatype 'FP8'; expected one of BOOL, "):
        messages([("x", "FP8", [-1])])


def test_our_server(server: RunningServer) -> None:
    """Both protocols' random calls are answered, whatever the inputs are: lists and strings among them."""
    streams = loadgen.oip_streams(server.target, {"feed": 1, "search": 1}, {1: 0.5, 16: 0.5}, payloads=8)
    result = loadgen.run(Plan([server.target], [Source(Closed(4), streams)], seconds=0.5, warm_up_seconds=0))
    assert set(result.total.totals) == {"OK"}
    assert set(result.streams) == {"feed x 1", "feed x 16", "search x 1", "search x 16"}
    assert result.total.ok_rows > result.total.ok
    # Ids of ours may be any: they are hashed.
    user = next(tensor for tensor in first(streams[0]).inputs if tensor.name == "user")
    place = list(first(streams[0]).inputs).index(user)
    assert values(first(streams[0]), place).max() > 100


def first(stream: loadgen.Stream) -> pb.ModelInferRequest:
    return pb.ModelInferRequest.FromString(stream.payloads[0].message)


def test_who_is_not_there(server: RunningServer) -> None:
    with pytest.raises(PredictError, match=r"NOT_FOUND: .*nobody"):
        loadgen.oip_streams(server.target, {"nobody": 1}, {1: 1})
    with pytest.raises(PredictError, match="cannot reach"):
        loadgen.oip_streams("127.0.0.1:1", {"feed": 1}, {1: 1})


def test_command(server: RunningServer) -> None:
    options = ["-s", "search", "--rows", "16", "--payloads", "4", "--seconds", "0.3", "--warm-up", "0", "--json"]
    result = CliRunner().invoke(app, ["loadgen", server.target, "--protocol", "oip", *options])
    assert result.exit_code == 0, result.output
    (stream,) = json.loads(result.stdout)["streams"]
    assert set(stream["totals"]) == {"OK"}
    for extra, message in (
        (["--protocol", "rest"], "--protocol: found 'rest'; expected smt or oip"),
        (["--protocol", "oip", "--data", "x.parquet"], "--data: needs --protocol smt"),
        (["--protocol", "oip", "--replay", "x.parquet"], "--replay: needs --protocol smt"),
    ):
        failed = CliRunner().invoke(app, ["loadgen", server.target, *options, *extra])
        assert failed.exit_code == 2
        assert message in failed.stderr
