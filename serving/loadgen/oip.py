"""Requests for servers of the Open Inference Protocol v2 (KServe, NVIDIA Triton, ours): random tensors by what the
server's metadata says of a model."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from smt.serving.loadgen.payloads import SMT_BELOW, payload_count, stream_name
from smt.serving.loadgen.plan import LoadgenError, Payload, Stream
from smt.serving.loadgen.values import MOST_VALUES, Kind, Range, Values
from smt.serving.prediction import PredictError, from_rpc_error
from smt.serving.protos import grpc_service_pb2 as pb
from smt.serving.protos import grpc_service_pb2_grpc as pb_grpc
from smt.serving.tls import Tls, channel

INFER = "/inference.GRPCInferenceService/ModelInfer"

_PLATFORM = "smt"  # of our server, whose whole numbers may be any; others take them for rows of a table
_OTHERS_BELOW = 100
_TIMEOUT = 10.0
_Stub: Any = pb_grpc.GRPCInferenceServiceStub  # generated without types


def _packed(dtype: str) -> Callable[[NDArray[Any]], bytes]:
    return lambda values: values.astype(dtype).tobytes()


def _bf16(values: NDArray[Any]) -> bytes:
    return (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()


def _bytes(values: NDArray[Any]) -> bytes:
    texts = [value.encode() for value in values.tolist()]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


# By datatype: what is drawn, how it is written, and one more than the largest whole number that it holds.
_DATATYPES: dict[str, tuple[Kind, Callable[[NDArray[Any]], bytes], int]] = {
    "BOOL": ("int", _packed("?"), 2),
    **{f"INT{bits}": ("int", _packed(f"<i{bits // 8}"), 1 << (bits - 1)) for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": ("int", _packed(f"<u{bits // 8}"), 1 << bits) for bits in (8, 16, 32, 64)},
    "FP16": ("number", _packed("<f2"), 0),
    "FP32": ("number", _packed("<f4"), 0),
    "FP64": ("number", _packed("<f8"), 0),
    "BF16": ("number", _bf16, 0),
    "BYTES": ("string", _bytes, 0),
}


def oip_streams(
    target: str,
    models: Mapping[str, float],
    rows: Mapping[int, float],
    *,
    payloads: int | None = None,
    seed: int = 0,
    ranges: Mapping[str, Range] | None = None,
    tls: Tls | None = None,
    **options: Any,
) -> list[Stream]:
    """Streams of ModelInfer calls, one per model, or per model and number of rows if those differ.

    Args:
        target: a server to ask what the models read.
        models, rows: what calls are for, with weights. Rows are an input's first dimension, where that is open.
        payloads: random messages per stream.
        ranges: where to draw inputs' values from; else numbers are normal, and whole numbers of servers other than
            ours from 0 to 99.
        options: of every Stream (timeouts, headers, …).

    Raises:
        LoadgenError, or PredictError for a server or model that is not there.
    """
    random = np.random.default_rng(seed)
    count = payloads or payload_count(len(models) * len(rows))
    made = []
    with channel(grpc, target, (), tls) as connection:
        stub = _Stub(connection)
        for model, weight in models.items():
            try:
                metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name=model), timeout=_TIMEOUT)
            except grpc.RpcError as error:
                raise _failure(error, target) from error
            for size, share in rows.items():
                messages = random_messages(model, metadata, size, count, random, ranges)
                made.append(Stream(stream_name(model, size, rows), INFER, messages, weight=weight * share, **options))
    return made


def random_messages(
    model: str,
    metadata: pb.ModelMetadataResponse,
    rows: int,
    count: int,
    random: np.random.Generator,
    ranges: Mapping[str, Range] | None = None,
) -> list[Payload]:
    """ModelInfer messages of `rows` rows with random values for every input of the model.

    An input's first dimension is the rows, where the metadata leaves it open. Its other open dimensions are from 1 to
    5, one number for all of a message's inputs.
    """
    inputs = [_Input(tensor, metadata.platform, random, (ranges or {}).get(tensor.name)) for tensor in metadata.inputs]
    unknown = sorted(set(ranges or {}) - {tensor.name for tensor in metadata.inputs})
    if unknown:
        names = ", ".join(tensor.name for tensor in metadata.inputs)
        raise LoadgenError(f"model {model!r} reads no input {unknown[0]!r}; it reads {names}")
    made = []
    for _ in range(count):
        width = int(random.integers(1, MOST_VALUES + 1))
        message = pb.ModelInferRequest(model_name=model)
        for one in inputs:
            shape = one.shape(rows, width)
            message.inputs.add(name=one.name, datatype=one.datatype, shape=shape)
            message.raw_input_contents.append(one.raw(shape))
        made.append(Payload(message.SerializeToString(), rows))
    return made


class _Input:
    """One input of a model, and what draws its values."""

    def __init__(self, tensor: Any, platform: str, random: np.random.Generator, drawn_from: Range | None) -> None:
        if tensor.datatype not in _DATATYPES:
            known = ", ".join(_DATATYPES)
            raise LoadgenError(f"input {tensor.name!r}: found datatype {tensor.datatype!r}; expected one of {known}")
        kind, self._write, limit = _DATATYPES[tensor.datatype]
        self.name, self.datatype = tensor.name, tensor.datatype
        self._dimensions = list(tensor.shape)
        below = min(limit, SMT_BELOW if platform == _PLATFORM else _OTHERS_BELOW)
        self._values = Values(tensor.name, kind, random, drawn_from, below)

    def shape(self, rows: int, width: int) -> list[int]:
        opened: Sequence[int] = [rows] + [width] * (len(self._dimensions) - 1)
        return [size if size >= 0 else default for size, default in zip(self._dimensions, opened, strict=False)]

    def raw(self, shape: Sequence[int]) -> bytes:
        return self._write(self._values.draw(int(np.prod(shape))))


def _failure(error: grpc.RpcError, target: str) -> PredictError | LoadgenError:
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return LoadgenError(f"{target} does not speak the Open Inference Protocol ({error.details()})")
    return from_rpc_error(error, target)
