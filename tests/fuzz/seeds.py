"""Writes the first inputs of each fuzz target: one good example of everything, for the fuzzers to damage.

python -m tests.fuzz.seeds tests/fuzz/corpus
"""

import gzip
import hashlib
import json
import struct
import sys
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from smt.kernels import KERNEL_VERSION, cpu
from smt.serving.fused import fused_signature, tile_program
from smt.serving.protos import grpc_service_pb2, prediction_pb2
from smt.training.model import slab_layout
from smt.training.template import load_template

ROOT = Path(__file__).resolve().parent.parent.parent
TEMPLATES = [ROOT / "examples/census/template.yaml", *sorted((ROOT / "bench/templates").glob("*.yaml"))]
# Read by every kind of feature of tests/kernels/transform/test_spec.h.
SPEC = (ROOT / "tests/kernels/transform/test_spec.h").read_text().partition('R"(')[2].partition(')"')[0]


def features(request: Any) -> None:
    """Columns that the specification accepts, for two candidates."""
    age = request.context.add(name="age")
    age.floats.values.append(31.5)
    gain = request.candidates.add(name="gain")
    gain.doubles.values.extend([1.0, 2e5])
    education = request.candidates.add(name="education")
    education.strings.values.extend(["a", ""])
    genres = request.candidates.add(name="genres", lengths=[0, 3])
    genres.strings.values.extend(["drama", "crime", "Wien \u00e4"])
    user = request.candidates.add(name="user", lengths=[1, 0])
    user.ints.values.append(-7)


def predict() -> list[Message]:
    request = prediction_pb2.PredictRequest(scenario="feed", rows=2, tasks=["click"], request_id="r-1")
    features(request)
    named = prediction_pb2.PredictRequest()
    named.CopyFrom(request)
    named.version = "20260101-000000-000-00000000"
    return [request, named, prediction_pb2.PredictRequest(scenario="feed", rows=1)]


def multi_predict() -> list[Message]:
    request = prediction_pb2.MultiPredictRequest(rows=2, request_id="r-1")
    request.scenarios.add(scenario="feed", tasks=["click", "like"])
    request.scenarios.add(scenario="mail", label="canary")
    features(request)
    return [request]


def model_infer() -> list[Message]:
    typed = grpc_service_pb2.ModelInferRequest(model_name="feed", id="r-1")
    typed.parameters["rows"].int64_param = 2
    age = typed.inputs.add(name="age", datatype="FP32", shape=[1])
    age.contents.fp32_contents.append(31.5)
    education = typed.inputs.add(name="education", datatype="BYTES", shape=[2, 1])
    education.contents.bytes_contents.extend([b"a", b""])
    raw = grpc_service_pb2.ModelInferRequest(model_name="feed", model_version="1")
    for name, datatype, shape, content in (
        ("age", "FP64", [2], struct.pack("<2d", 1, 2)),
        ("education", "BYTES", [2], struct.pack("<I1sI", 1, b"b", 0)),
        ("genres", "BYTES", [3], b"".join(struct.pack("<I1s", 1, value) for value in (b"x", b"y", b"z"))),
        ("genres.lengths", "INT32", [2], struct.pack("<2i", 1, 2)),
        ("user", "INT64", [2], struct.pack("<2q", -7, 8)),
        ("weeks", "UINT8", [2], bytes([52, 0])),
    ):
        raw.inputs.add(name=name, datatype=datatype, shape=shape)
        raw.raw_input_contents.append(content)
    raw.outputs.add(name="click")
    return [typed, raw]


def other_request() -> list[tuple[int, Message]]:
    named = {"name": "feed", "version": "1"}
    load = grpc_service_pb2.RepositoryModelLoadRequest(model_name="feed")
    load.parameters["config"].string_param = "{}"
    return [
        (0, prediction_pb2.GetScenarioRequest(scenario="feed")),
        (1, prediction_pb2.ListScenariosRequest()),
        (2, grpc_service_pb2.ModelReadyRequest(**named)),
        (3, grpc_service_pb2.ModelMetadataRequest(**named)),
        (4, grpc_service_pb2.ModelStatisticsRequest(**named)),
        (5, grpc_service_pb2.RepositoryIndexRequest(ready=True)),
        (6, load),
        (7, grpc_service_pb2.RepositoryModelUnloadRequest(model_name="feed")),
    ]


def snapshot_manifest() -> bytes:
    file = {"bytes": 123, "sha256": "b" * 64}
    return json.dumps(
        {
            "format": 1,
            "scenario": "feed",
            "version": "20260101-000000-000-00000000",
            "template": {"name": "ranking", "version": "1.0.0"},
            "abi_hash": "a" * 64,
            "dim": 4,
            "tasks": [{"name": "click", "head": 0}, {"name": "like", "head": 1}],
            "features": json.loads(SPEC),
            "files": {"weights.safetensors": file},
            "metrics": {},
            "lineage": {"created": "2026-01-01T00:00:00.000+00:00"},
        }
    ).encode()


def binary_manifests() -> list[bytes]:
    found = []
    for path in TEMPLATES:
        template = load_template(path)
        program = tile_program(template, "bf16")
        layout, packed_bytes = slab_layout(template), cpu.packed_bytes(program)
        manifest = {
            "format": 2,
            "template": {"name": template.name, "version": template.version},
            "abi_hash": "a" * 64,
            "target": "cpu",
            "isa": "scalar",
            "inputs": fused_signature(template, packed_bytes),
            "outputs": [{"name": "probabilities", "dtype": "float32", "shape": ["rows", template.tasks]}],
            "layout": layout.to_json()[:3],
            "slab_elements": layout.elements,
            "dim": template.slots.dim,
            "tasks": template.tasks,
            "dense_slots": template.slots.dense,
            "categorical_slots": template.slots.categorical,
            "torch": "2.13.0",
            "kernel_version": KERNEL_VERSION,
            "kernel_abi": cpu.FORMAT,
            "precision": "bf16",
            "program": program.values(),
            "packed_bytes": packed_bytes,
            "files": {"model.pt2": {"bytes": 1, "sha256": "c" * 64}},
        }
        found.append(json.dumps(manifest).encode())
    return found


def safetensors() -> bytes:
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "slab": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
            "table": {"dtype": "F32", "shape": [3, 4], "data_offsets": [16, 64]},
        }
    ).encode()
    return struct.pack("<Q", len(header)) + header


def scheduling() -> bytes:
    policy = {"weight": 3, "priority": -1, "queue_requests": 10, "queue_ms": 250, "rows_per_second": 20000}
    return json.dumps({"default": policy, "scenarios": {"feed": {"weight": 0.5}, "mail": policy}}).encode()


def tile_programs() -> list[bytes]:
    values = [
        tile_program(load_template(path), precision).values() for path in TEMPLATES for precision in cpu.PRECISIONS
    ]
    return [struct.pack(f"<{len(program)}q", *program) for program in values]


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One HTTP/2 frame (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def headers(stream: int, path: str, **more: str) -> bytes:
    """A request's header frame, its fields as literals that are not indexed (RFC 7541, section 6.2.2)."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, "content-type": "application/grpc", "te": "trailers"}
    texts = [text.encode() for pair in (fields | more).items() for text in pair]
    block = b"".join((b"\0" if at % 2 == 0 else b"") + bytes([len(text)]) + text for at, text in enumerate(texts))
    return frame(1, 4, stream, block)


def connections() -> list[bytes]:
    """Calls of the methods of connection.cc: whole and in pieces, refused, cancelled, on streams, compressed."""

    def message(content: bytes, compressed: bool = False) -> bytes:
        return struct.pack(">BI", compressed, len(content)) + content

    def data(stream: int, content: bytes, end: bool = True) -> bytes:
        return frame(0, int(end), stream, content)

    begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(4, 1, 0, b"")
    whole, long = message(b"hello"), message(b"r" + bytes(9000))
    window = frame(8, 0, 0, struct.pack(">I", 1000)) + frame(6, 0, 0, bytes(8))
    return [
        begin + headers(1, "/e") + data(1, whole) + headers(3, "/e") + data(3, whole[:4], False) + data(3, whole[4:]),
        begin + headers(1, "/e") + data(1, long[:500], False) + headers(3, "/e") + data(3, long[:200], False),
        begin + headers(1, "/s") + data(1, whole * 3, False) + window + data(1, whole),
        begin + headers(1, "/e") + data(1, message(b"n")) + frame(3, 0, 1, struct.pack(">I", 8)),
        begin
        + headers(1, "/e", **{"grpc-encoding": "gzip", "grpc-timeout": "100m"})
        + data(1, message(gzip.compress(b"hello" * 20, mtime=0), True)),
        begin
        + headers(1, "/none")
        + data(1, whole)
        + headers(3, "/e")
        + frame(0, 1, 3, b"")
        + frame(7, 0, 0, bytes(8)),
    ]


def inputs() -> dict[str, list[bytes]]:
    """Target -> its examples. Requests begin with the size of the slices they come in; 0 is one piece."""
    scored = {"predict": predict(), "multi_predict": multi_predict(), "model_infer": model_infer()}
    return {
        **{
            target: [bytes([size]) + message.SerializeToString() for message in messages for size in (0, 7)]
            for target, messages in scored.items()
        },
        "connection": connections(),
        "other_request": [bytes([kind, 0]) + message.SerializeToString() for kind, message in other_request()],
        "feature_spec": [SPEC.encode()],
        "snapshot_manifest": [snapshot_manifest()],
        "binary_manifest": binary_manifests(),
        "safetensors": [safetensors()],
        "scheduling": [scheduling()],
        "tile_program": tile_programs(),
    }


def main() -> None:
    corpus = Path(sys.argv[1])
    for target, examples in inputs().items():
        folder = corpus / target
        folder.mkdir(parents=True, exist_ok=True)
        for example in examples:
            (folder / hashlib.sha1(example).hexdigest()).write_bytes(example)


if __name__ == "__main__":
    main()
