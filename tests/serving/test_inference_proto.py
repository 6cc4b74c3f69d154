"""Our definition of the Open Inference Protocol against the one that clients are built with."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from tritonclient.grpc import model_config_pb2, service_pb2

from smt.serving.protos import grpc_service_pb2 as ours


def messages() -> list[Descriptor]:
    found = list(ours.DESCRIPTOR.message_types_by_name.values())
    for message in found:  # grows: nested messages, map entries among them
        found.extend(message.nested_types)
    return found


def their_message(full_name: str) -> Descriptor:
    found: Descriptor = service_pb2.DESCRIPTOR.pool.FindMessageTypeByName(full_name)
    return found


def shape(field: FieldDescriptor) -> tuple[object, ...]:
    kind = field.message_type or field.enum_type
    oneof = field.containing_oneof
    return (
        field.name,
        field.type,
        field.is_repeated,
        kind.full_name if kind else None,
        oneof.name if oneof else None,
    )


@pytest.mark.parametrize("message", messages(), ids=lambda message: message.full_name)
def test_fields_are_those_of_the_protocol(message: Descriptor) -> None:
    theirs = their_message(message.full_name)
    for field in message.fields:
        assert field.number in theirs.fields_by_number, field.full_name
        assert shape(field) == shape(theirs.fields_by_number[field.number])


def test_enums_and_methods_are_those_of_the_protocol() -> None:
    enums: dict[str, EnumDescriptor] = model_config_pb2.DESCRIPTOR.enum_types_by_name
    for enum in ours.DESCRIPTOR.enum_types_by_name.values():
        assert {v.name: v.number for v in enum.values} == {v.name: v.number for v in enums[enum.name].values}
    [service] = ours.DESCRIPTOR.services_by_name.values()
    theirs = service_pb2.DESCRIPTOR.services_by_name[service.name]
    assert service.full_name == theirs.full_name == "inference.GRPCInferenceService"
    for method in service.methods:
        other = theirs.methods_by_name[method.name]
        for one, same in ((method.input_type, other.input_type), (method.output_type, other.output_type)):
            assert one.full_name == same.full_name
        assert (method.client_streaming, method.server_streaming) == (other.client_streaming, other.server_streaming)
    assert {method.name for method in service.methods} >= {"ModelInfer", "ModelStreamInfer", "RepositoryModelLoad"}


def test_a_request_of_theirs_is_one_of_ours() -> None:
    """Ours holds everything of a full request of theirs, and theirs takes it back."""
    request = service_pb2.ModelInferRequest(model_name="feed", model_version="v", id="7")
    request.parameters["rows"].int64_param = 3
    tensor = request.inputs.add(name="age", datatype="FP32", shape=[3])
    tensor.contents.fp32_contents.extend([1, 2, 3])
    tensor.parameters["binary_data"].bool_param = True
    request.outputs.add(name="click").parameters["classification"].int64_param = 1
    request.raw_input_contents.append(np.arange(3, dtype=np.float32).tobytes())
    parsed = ours.ModelInferRequest.FromString(request.SerializeToString())
    assert service_pb2.ModelInferRequest.FromString(parsed.SerializeToString()) == request
    assert parsed.parameters["rows"].int64_param == 3
    assert list(parsed.inputs[0].contents.fp32_contents) == [1, 2, 3]


@pytest.mark.parametrize("order", ["ours theirs", "theirs ours"])
def test_both_live_in_one_process(order: str) -> None:
    """A program may import our stubs and those of any client library, in any order."""
    lines = {
        "ours": "from smt.serving.protos import grpc_service_pb2, grpc_service_pb2_grpc",
        "theirs": "import tritonclient.grpc",
    }
    script = "\n".join(lines[name] for name in order.split())
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
