"""What a running smt-server tells about itself: metadata, health, reflection, Prometheus metrics."""

from __future__ import annotations

import subprocess
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from prometheus_client.parser import text_string_to_metric_families

from smt.kernels import cpu
from smt.serving.binary import BinaryRunner
from smt.serving.client import Client, PredictError
from smt.serving.registry import Registry
from smt.serving.serve import find_server, server_environment
from smt.training.template import Template
from tests.serving.support import FEED, SEARCH, RunningServer

ROWS = FEED.rows(40)


def test_metadata(client: Client, server: RunningServer, template: Template) -> None:
    info = client.server()
    assert (info.max_rows, info.workers) == (300, 2)
    [binary] = info.binaries
    [published] = server.registry.binaries()
    assert binary.sha256 == published.sha256
    assert (binary.template_name, binary.precision) == (template.name, "bf16")
    [kernels] = server.events("kernels")
    assert info.kernels == kernels["in_use"] == cpu.current()
    assert kernels["available"] == ", ".join(cpu.available())
    scenario = client.scenario("feed")
    assert {i.name: (i.type, i.required, i.multi_valued) for i in scenario.inputs} == {
        "age": ("number", True, False),
        "income": ("number", True, False),
        "city": ("string", True, False),
        "user": ("int", True, False),
        "tags": ("string", False, True),
        "device": ("string", False, False),
    }
    assert list(scenario.tasks) == ["click", "like"]
    assert scenario.version == server.registry.current("feed")
    assert [(s.scenario, s.state, s.loads) for s in client.list_scenarios()] == [
        ("feed", "SERVING", 1),
        ("search", "SERVING", 1),
    ]
    # Packed weights and table; the float32 slab is not kept.
    sizes = [published.packed_bytes + 4 * 4 * case.features["table_rows"] for case in (FEED, SEARCH)]
    assert [s.weight_bytes for s in client.list_scenarios()] == sizes
    with pytest.raises(PredictError) as failure:
        client.scenario("nope")
    assert failure.value.code is grpc.StatusCode.NOT_FOUND


def test_health(client: Client, server: RunningServer) -> None:
    assert client.health() == client.health("feed") == client.health("search") == "SERVING"
    assert client.health("nope") == "SERVICE_UNKNOWN"
    with grpc.insecure_channel(server.target) as channel:
        states = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(iter(states)).status == health_pb2.HealthCheckResponse.SERVING
        states.cancel()


def test_reflection(server: RunningServer) -> None:
    """What grpcurl does: list the services, find the method, build its messages without our stubs."""
    with grpc.insecure_channel(server.target) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(database.get_services()) >= {"smt.v1.PredictionService", "grpc.health.v1.Health"}
        service = DescriptorPool(database).FindServiceByName("smt.v1.PredictionService")
        methods = {"Predict", "MultiPredict", "ListScenarios", "GetScenario", "GetServer"}
        assert {method.name for method in service.methods} == methods
        assert "candidates" in service.FindMethodByName("Predict").input_type.fields_by_name


def test_metrics(client: Client, server: RunningServer) -> None:
    def values() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(server.metrics())
            for sample in family.samples
        }

    def counted(name: str, **labels: str) -> float:
        return values()[name, tuple(sorted(labels.items()))]

    rows, answers = counted("smt_rows_total", scenario="feed"), "smt_requests_total"
    good = counted(answers, scenario="feed", code="OK")
    bad = counted(answers, scenario="feed", code="INVALID_ARGUMENT")
    unknown = counted(answers, scenario="_unknown", code="NOT_FOUND")
    client.predict("feed", ROWS)
    with pytest.raises(PredictError):
        client.predict("feed", {"age": [1.0]})
    for scenario in ("nope", "nope2", "x" * 1000):
        with pytest.raises(PredictError):
            client.predict(scenario, {"age": [1.0]})
    assert counted("smt_rows_total", scenario="feed") == rows + 40
    assert counted(answers, scenario="feed", code="OK") == good + 1
    assert counted(answers, scenario="feed", code="INVALID_ARGUMENT") == bad + 1
    # A name that does not exist makes no new series.
    assert counted(answers, scenario="_unknown", code="NOT_FOUND") == unknown + 3
    labels = {key for _, pairs in values() for key, _ in pairs}
    assert labels <= {"scenario", "code", "reason", "state", "cause", "le", "quantile", "name", "result", "of"}
    assert values()["smt_kernels_info", (("name", cpu.current()),)] == 1
    assert {dict(pairs)["scenario"] for _, pairs in values() if "scenario" in dict(pairs)} == {
        "feed",
        "search",
        "_unknown",
    }


def test_kernels_are_chosen_by_name(
    registry_folder: Path,
    runner: BinaryRunner,
    template: Template,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    FEED.publish(Registry(registry_folder), template, seed=1)
    monkeypatch.setenv("SMT_KERNELS", "portable")
    with RunningServer(registry_folder, tmp_path) as server, Client(server.target, timeout=60) as client:
        assert client.server().kernels == "portable"
        scores = client.predict("feed", ROWS)
    before = cpu.current()
    cpu.use("portable")
    try:
        expected = FEED.scored(runner, template, 1, ROWS)
    finally:
        cpu.use(before)
    np.testing.assert_allclose(scores["click"], expected["click"], rtol=1e-4, atol=2e-5)


def test_unknown_kernels_end_the_server(tmp_path: Path) -> None:
    server = find_server()
    environment = server_environment(server) | {"SMT_KERNELS": "mmx"}
    ended = subprocess.run(
        [server, "--registry", tmp_path], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("SMT_KERNELS: kernels 'mmx' are not known; there are: "), ended.stderr
