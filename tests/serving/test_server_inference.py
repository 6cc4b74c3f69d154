"""The Open Inference Protocol, through the unmodified client of NVIDIA Triton (tritonclient)."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import tritonclient.grpc as triton
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

from smt.serving.client import Client, PredictError
from smt.serving.registry import Registry
from smt.training.template import Template
from tests.serving.support import FEED, RunningServer, wait_for
from tests.serving.tensors import tensors


@pytest.fixture(scope="module")
def oip(server: RunningServer) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.target) as made:
        yield made


def status(failure: pytest.ExceptionInfo[InferenceServerException]) -> str:
    return str(failure.value.status()).removeprefix("StatusCode.")


# What the server says of itself


def test_live_and_ready(oip: triton.InferenceServerClient, server: RunningServer) -> None:
    assert oip.is_server_live()
    assert oip.is_server_ready()
    version = server.registry.current("feed")
    assert oip.is_model_ready("feed")
    assert oip.is_model_ready("feed", version)
    assert not oip.is_model_ready("feed", "other")
    assert not oip.is_model_ready("nope")
    assert not oip.is_model_ready("")


def test_a_server_without_models_is_ready(registry_folder: Path, tmp_path: Path) -> None:
    with RunningServer(registry_folder, tmp_path) as running, triton.InferenceServerClient(running.target) as client:
        assert client.is_server_ready()
        assert client.get_model_repository_index(as_json=True) == {}
        with pytest.raises(InferenceServerException, match="the registry has none yet") as failure:
            client.get_model_metadata("feed")
        assert status(failure) == "NOT_FOUND"


def test_server_metadata(oip: triton.InferenceServerClient, client: Client) -> None:
    metadata = oip.get_server_metadata()
    assert (metadata.name, metadata.version) == ("smt-server", client.server().version)
    assert "model_repository" in oip.get_server_metadata(as_json=True)["extensions"]


def test_model_metadata(oip: triton.InferenceServerClient, server: RunningServer) -> None:
    version = server.registry.current("feed")
    assert oip.get_model_metadata("feed", as_json=True) == {
        "name": "feed",
        "versions": [version],
        "platform": "smt",
        "inputs": [
            {"name": "age", "datatype": "FP64", "shape": ["-1"]},
            {"name": "income", "datatype": "FP64", "shape": ["-1"]},
            {"name": "city", "datatype": "BYTES", "shape": ["-1"]},
            {"name": "user", "datatype": "INT64", "shape": ["-1"]},
            {"name": "tags", "datatype": "BYTES", "shape": ["-1", "-1"]},
            {"name": "device", "datatype": "BYTES", "shape": ["-1"]},
        ],
        "outputs": [
            {"name": "click", "datatype": "FP32", "shape": ["-1"]},
            {"name": "like", "datatype": "FP32", "shape": ["-1"]},
        ],
    }
    assert list(oip.get_model_metadata("search", server.registry.current("search")).outputs[0].shape) == [-1]


def test_model_config(oip: triton.InferenceServerClient) -> None:
    config = oip.get_model_config("feed", as_json=True)["config"]
    assert (config["name"], config["platform"], config["backend"]) == ("feed", "smt", "smt")
    assert "max_batch_size" not in config  # 0: shapes are whole
    assert config["input"][4] == {"name": "tags", "data_type": "TYPE_STRING", "dims": ["-1", "-1"], "optional": True}
    assert config["input"][3] == {"name": "user", "data_type": "TYPE_INT64", "dims": ["-1"]}
    assert config["output"] == [{"name": task, "data_type": "TYPE_FP32", "dims": ["-1"]} for task in ("click", "like")]


@pytest.mark.parametrize("ask", ["get_model_metadata", "get_model_config", "get_inference_statistics"])
def test_models_that_are_not_there(oip: triton.InferenceServerClient, server: RunningServer, ask: str) -> None:
    call = getattr(oip, ask)
    with pytest.raises(InferenceServerException, match="'nope' is unknown; expected one of: feed, search") as failure:
        call("nope")
    assert status(failure) == "NOT_FOUND"
    current = server.registry.current("feed")
    with pytest.raises(
        InferenceServerException, match=f"version: 'old' of model 'feed' is not being served; '{current}' is"
    ) as failure:
        call("feed", "old")
    assert status(failure) == "NOT_FOUND"


def test_reflection_describes_the_service(server: RunningServer) -> None:
    with grpc.insecure_channel(server.target) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert "inference.GRPCInferenceService" in set(database.get_services())
        service = DescriptorPool(database).FindServiceByName("inference.GRPCInferenceService")
        assert "raw_input_contents" in service.FindMethodByName("ModelInfer").input_type.fields_by_name


def test_what_is_left_out_is_unimplemented(oip: triton.InferenceServerClient) -> None:
    for call in (oip.get_trace_settings, oip.get_log_settings, oip.get_system_shared_memory_status):
        with pytest.raises(InferenceServerException) as failure:
            call()
        assert status(failure) == "UNIMPLEMENTED"


# The repository


def test_repository_index(oip: triton.InferenceServerClient, server: RunningServer) -> None:
    assert oip.get_model_repository_index(as_json=True) == {
        "models": [
            {"name": name, "version": server.registry.current(name), "state": "READY"} for name in ("feed", "search")
        ]
    }


def test_index_of_refused_versions(registry_folder: Path, template: Template, tmp_path: Path) -> None:
    registry = Registry(registry_folder)
    first = FEED.publish(registry, template, seed=1).version
    with RunningServer(registry_folder, tmp_path) as running, triton.InferenceServerClient(running.target) as client:
        pointer = registry_folder / "scenarios" / "feed" / "current"
        pointer.with_name("next").write_text("20990101T000000Z-ffffffff\n")
        pointer.with_name("next").replace(pointer)
        wait_for(lambda: len(client.get_model_repository_index().models) == 2, "the version to be refused")
        ready, refused = client.get_model_repository_index().models
        assert (ready.version, ready.state, ready.reason) == (first, "READY", "")
        assert (refused.version, refused.state) == ("20990101T000000Z-ffffffff", "UNAVAILABLE")
        assert "20990101T000000Z-ffffffff" in refused.reason
        assert client.is_model_ready("feed", first)
        assert not client.is_model_ready("feed", refused.version)


def test_the_data_port_does_not_change_the_repository(oip: triton.InferenceServerClient) -> None:
    for call, method in ((oip.load_model, "RepositoryModelLoad"), (oip.unload_model, "RepositoryModelUnload")):
        with pytest.raises(
            InferenceServerException, match=f"{method}: not here; call it on the server's control listener"
        ) as failure:
            call("feed")
        assert status(failure) == "PERMISSION_DENIED"
    assert oip.is_model_ready("feed")


def test_operators_load_and_unload(registry_folder: Path, template: Template, tmp_path: Path) -> None:
    registry = Registry(registry_folder)
    first, second = (FEED.publish(registry, template, seed=seed).version for seed in (1, 2))
    token = tmp_path / "token"
    token.write_text("sesame-" * 8)
    token.chmod(0o600)
    headers = {"authorization": f"Bearer {token.read_text()}"}
    with (
        RunningServer(registry_folder, tmp_path, control_port=0, control_token_file=token) as running,
        triton.InferenceServerClient(running.target) as data,
        triton.InferenceServerClient(running.control_target) as control,
    ):
        assert control.is_model_ready("feed", second, headers=headers)
        control.unload_model("feed", headers=headers)
        assert not data.is_model_ready("feed")
        [model] = control.get_model_repository_index(headers=headers).models
        assert (model.name, model.version, model.state) == ("feed", "", "UNAVAILABLE")
        assert model.reason == "unloaded by an operator"
        assert list(data.get_model_repository_index().models) == [model]
        with pytest.raises(InferenceServerException, match="it was unloaded by an operator") as failure:
            data.get_model_metadata("feed")
        assert status(failure) == "UNAVAILABLE"
        assert list(data.get_inference_statistics().model_stats) == []
        control.load_model("feed", headers=headers)
        assert data.is_model_ready("feed", second)
        # tritonclient has no argument for a version: its message has room for one.
        request = pb.RepositoryModelLoadRequest(model_name="feed")
        request.parameters["version"].string_param = first
        call = control._client_stub.RepositoryModelLoad
        call(request, metadata=list(headers.items()), timeout=60)
        assert data.is_model_ready("feed", first)
        assert control.get_inference_statistics("feed", headers=headers).model_stats[0].version == first

        mistakes = {
            "NOT_FOUND": ("'nope' is not in the registry", lambda: control.load_model("nope", headers=headers)),
            "INVALID_ARGUMENT": (
                "parameter 'config': not supported",
                lambda: control.load_model("feed", config="{}", headers=headers),
            ),
            "UNAUTHENTICATED": ("expected 'Bearer TOKEN'", lambda: control.unload_model("feed")),
        }
        for code, (message, mistake) in mistakes.items():
            with pytest.raises(InferenceServerException, match=message) as failure:
                mistake()
            assert status(failure) == code
        for ask in (control.is_server_live, control.get_server_metadata, control.get_model_repository_index):
            with pytest.raises(InferenceServerException) as failure:
                ask()
            assert status(failure) == "UNAUTHENTICATED"
        assert data.is_model_ready("feed", first)
        calls = [(event["method"], event["scenario"], event["code"]) for event in running.events("control")]
        assert ("RepositoryModelUnload", "feed", "OK") in calls
        assert ("RepositoryModelUnload", "", "UNAUTHENTICATED") in calls
        assert 'smt_control_total{code="OK",method="RepositoryModelLoad"} 2' in running.metrics()


def test_the_control_listener_does_not_score(registry_folder: Path, template: Template, tmp_path: Path) -> None:
    FEED.publish(Registry(registry_folder), template, seed=1)
    with (
        RunningServer(registry_folder, tmp_path, control_port=0) as running,
        triton.InferenceServerClient(running.control_target) as control,
    ):
        assert control.is_model_ready("feed")
        for model in ("feed", "nope"):
            with pytest.raises(
                InferenceServerException, match="ModelInfer: not here; call it on the server's data port"
            ) as failure:
                control.infer(model, tensors(FEED.rows(3)))
            assert status(failure) == "PERMISSION_DENIED"
        answers: queue.Queue[Any] = queue.Queue()
        control.start_stream(lambda result, error: answers.put(error))
        assert answers.get(timeout=60).status() == "StatusCode.PERMISSION_DENIED"


# Statistics


def test_statistics(oip: triton.InferenceServerClient, client: Client, server: RunningServer) -> None:
    def measured(name: str) -> dict[str, Any]:
        [stats] = oip.get_inference_statistics(name).model_stats
        parts = stats.inference_stats
        return {
            "rows": stats.inference_count,
            "requests": stats.execution_count,
            **{
                f"{part}.{field}": getattr(getattr(parts, part), field)
                for part in ("success", "fail", "queue", "compute_input", "compute_infer")
                for field in ("count", "ns")
            },
        }

    before, other = measured("feed"), measured("search")
    client.predict("feed", FEED.rows(40))
    client.predict("feed", FEED.rows(7))
    with pytest.raises(PredictError):
        client.predict("feed", {"age": [1.0]})
    added = {name: value - before[name] for name, value in measured("feed").items()}
    assert (added["rows"], added["requests"], added["success.count"], added["fail.count"]) == (47, 2, 2, 1)
    assert [added[f"{part}.count"] for part in ("queue", "compute_input", "compute_infer")] == [2, 2, 2]
    assert added["success.ns"] >= added["compute_input.ns"] + added["compute_infer.ns"] > 0
    assert 0 < added["fail.ns"] < 10**9
    assert measured("search") == other
    everything = oip.get_inference_statistics(as_json=True)["model_stats"]
    assert [(stats["name"], stats["version"]) for stats in everything] == [
        (name, server.registry.current(name)) for name in ("feed", "search")
    ]
    with pytest.raises(InferenceServerException, match="version: '7' without a name") as failure:
        oip.get_inference_statistics(model_version="7")
    assert status(failure) == "INVALID_ARGUMENT"
