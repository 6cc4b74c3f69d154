"""Bytes that are no text, from registries and clients: answered with text that every client can read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from smt.serving.client import Client
from smt.serving.compile import BinaryInfo
from smt.serving.encode import encode_all, to_columns
from smt.serving.protos import prediction_pb2 as pb
from smt.serving.registry import Registry
from smt.training.template import Template
from tests.serving.support import FEED, SEARCH, RunningServer, copy_binaries, wait_for

SERVICE = "/smt.v1.PredictionService/"
INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_TEXT = {
    "surrogate": b"\xed\xa0\x80",
    "utf-16": b"\xff\xfe{",
    "overlong": b"\xc0\x80\xe0\x80\x80",
    "above U+10FFFF": b"\xf4\x90\x80\x80",
    "in a JSON string": b'{"format": "\xed\xbf\xbf"}',
    **{f"random {seed}": np.random.default_rng(seed).bytes(60) + b"\xff" for seed in range(8)},
}


@pytest.fixture
def own(registry_folder: Path, template: Template, tmp_path: Path) -> Iterator[tuple[Path, Client]]:
    """A registry of one's own whose feed and search are being served."""
    for case, seed in ((FEED, 1), (SEARCH, 2)):
        case.publish(Registry(registry_folder), template, seed)
    with RunningServer(registry_folder, tmp_path) as running, Client(running.target, timeout=60) as client:
        yield registry_folder, client


def reason(client: Client, scenario: str) -> str:
    return next(status.refused_reason for status in client.list_scenarios() if status.scenario == scenario)


def wait_for_reason(client: Client, scenario: str, text: str) -> None:
    wait_for(lambda: text in reason(client, scenario), f"{scenario} to be refused: {text}")


def test_pointers_that_are_no_text(own: tuple[Path, Client]) -> None:
    registry, client = own
    folder = registry / "scenarios" / "feed"
    good = (folder / "current").read_bytes()
    for content in NOT_TEXT.values():
        (folder / "current").write_bytes(content)
        wait_for_reason(client, "feed", "current: found")
        wait_for_reason(client, "feed", "\\x")  # the server may have looked before the bytes were in the file
        (folder / "current").write_bytes(good)
        wait_for(lambda: not reason(client, "feed"), "the pointer to be taken")
    assert [status.state for status in client.list_scenarios()] == ["SERVING"] * 2


def test_manifests_that_are_no_text(own: tuple[Path, Client]) -> None:
    registry, client = own
    folder = registry / "scenarios" / "feed"
    for number, content in enumerate(NOT_TEXT.values()):
        version = folder / "versions" / f"broken-{number}"
        version.mkdir()
        (version / "manifest.json").write_bytes(content)
        (version / "manifest.sha256").write_text(hashlib.sha256(content).hexdigest() + "\n")
        (folder / "current").write_text(f"{version.name}\n")
        wait_for_reason(client, "feed", f"versions/{version.name}/manifest.json: not valid JSON")
    assert client.predict("feed", FEED.rows(3)).rows == 3


@pytest.mark.parametrize("name", ["surrogate", "utf-16", "random 0"])
def test_binaries_with_manifests_that_are_no_text(
    registry_folder: Path, template: Template, tmp_path: Path, name: str
) -> None:
    """Nothing can be served, and every way to ask says why."""
    FEED.publish(Registry(registry_folder), template, seed=1)
    [manifest] = registry_folder.glob("templates/*/*/cpu/manifest.json")
    manifest.write_bytes(NOT_TEXT[name])
    with RunningServer(registry_folder, tmp_path) as server, Client(server.target, timeout=60) as client:
        [status] = client.list_scenarios()
        assert status.state == "UNAVAILABLE"
        assert "not valid JSON" in status.refused_reason
        assert (client.health(), client.health("feed")) == ("SERVING", "NOT_SERVING")
        with grpc.insecure_channel(server.target) as channel:
            for method, message in (
                ("GetScenario", pb.GetScenarioRequest(scenario="feed")),
                ("Predict", pb.PredictRequest(scenario="feed", rows=1)),
            ):
                with pytest.raises(grpc.RpcError) as failure:
                    channel.unary_unary(SERVICE + method)(message.SerializeToString(), timeout=60)
                assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
                assert "not valid JSON" in failure.value.details()


def test_status_says_that_the_pointer_is_missing(own: tuple[Path, Client]) -> None:
    registry, client = own
    current = registry / "scenarios" / "feed" / "current"
    current.write_text("two words")
    wait_for_reason(client, "feed", "'two words'")
    current.unlink()
    wait_for_reason(client, "feed", "feed/current: no such file")
    assert client.predict("feed", FEED.rows(3)).rows == 3


def test_reflection_describes_every_service_that_it_lists(server: RunningServer) -> None:
    with grpc.insecure_channel(server.target) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = set(database.get_services())
        assert services >= {"smt.v1.PredictionService", "grpc.health.v1.Health"}
        pool = DescriptorPool(database)
        for name in services:
            assert pool.FindServiceByName(name).methods, name
        check = pool.FindServiceByName("grpc.health.v1.Health").FindMethodByName("Check")
        assert check.input_type.fields_by_name["service"].number == 1


@pytest.mark.parametrize("method", ["Predict", "ListScenarios", "GetScenario", "GetServer"])
def test_bytes_that_are_no_message_of_any_method(server: RunningServer, method: str) -> None:
    with grpc.insecure_channel(server.target) as channel:
        call = channel.unary_unary(SERVICE + method)
        with pytest.raises(grpc.RpcError) as failure:
            call(b"\xff" * 10, timeout=60)
    assert failure.value.code() is INVALID
    assert f"not a smt.v1.{method}Request" in failure.value.details()


@pytest.mark.parametrize(
    ("where", "place"),
    [("scenario", "scenario"), ("request_id", "request_id"), ("value", "candidates[3] 'city'.strings.values[4]")],
)
def test_text_that_is_not_utf8_is_named(server: RunningServer, client: Client, where: str, place: str) -> None:
    message = pb.PredictRequest(scenario="feed", rows=5, candidates=encode_all(to_columns(FEED.rows(5))))
    city = next(at for at, candidate in enumerate(message.candidates) if candidate.name == "city")
    mark = "MARK"
    if where == "value":
        message.candidates[city].strings.values[4] = mark
        place = place.replace("3", str(city))
    else:
        setattr(message, where, mark)
    content = message.SerializeToString().replace(mark.encode(), b"M\xed\xa0\x80")
    with grpc.insecure_channel(server.target) as channel, pytest.raises(grpc.RpcError) as failure:
        channel.unary_unary(SERVICE + "Predict")(content, timeout=60)
    assert failure.value.code() is INVALID
    assert failure.value.details() == f"{place}: found 'M\\xed\\xa0\\x80'; expected UTF-8"
    assert client.predict("feed", FEED.rows(3)).rows == 3


def test_the_limit_of_fields_is_the_one_that_is_reported(
    compiled: tuple[Path, BinaryInfo, list[str]], template: Template, tmp_path: Path
) -> None:
    registry = copy_binaries(compiled[0], tmp_path / "registry")
    FEED.publish(Registry(registry), template, seed=1)
    with RunningServer(registry, tmp_path) as server, Client(server.target, timeout=60) as client:
        limit = client.server().max_fields
        assert limit == 4096 * 256
        with grpc.insecure_channel(server.target) as channel:
            call = channel.unary_unary(SERVICE + "Predict")

            def answer(fields: int) -> str:
                """To a request of that many fields: scenario, rows, one candidate, its name and list, the list's."""
                strings = _delimited(5, b"\x0a\x00" * (fields - 5))
                content = pb.PredictRequest(scenario="feed", rows=1).SerializeToString()
                with pytest.raises(grpc.RpcError) as failure:
                    call(content + _delimited(5, _delimited(1, b"tags") + strings), timeout=60)
                assert failure.value.code() is INVALID
                return str(failure.value.details())

            assert "feature 'tags'" in answer(limit)
            refusal = answer(limit + 1)
    assert f"more than {limit} fields" in refusal
    assert "max_fields" in refusal


def _delimited(number: int, content: bytes) -> bytes:
    """A length-delimited field of the wire format."""
    size, length = len(content), b""
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content
