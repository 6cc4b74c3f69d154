"""The control service: what each call does to a running server, what it refuses, and that no request is lost by it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from smt.serving.client import Client, PredictError
from smt.serving.compile import BinaryInfo
from smt.serving.control import ControlClient, ControlError
from smt.serving.protos import control_pb2 as pb
from smt.serving.registry import Registry
from smt.training.template import Template
from tests.serving.support import FEED, SEARCH, RunningServer, copy_binaries, wait_for

Compiled = tuple[Path, BinaryInfo, list[str]]
ROWS = FEED.rows(20)
Code = grpc.StatusCode


class Controlled:
    """A server with two scenarios, `feed` in two versions of which the second is current, and its clients."""

    def __init__(self, compiled: Compiled, template: Template, folder: Path, **options: Any) -> None:
        self.root = copy_binaries(compiled[0], folder / "registry")
        self.template = template
        self.first, self.second = self.publish(1), self.publish(2)
        SEARCH.publish(Registry(self.root), template, seed=5)
        self.running = RunningServer(self.root, folder, control_port=0, **options)

    def publish(self, seed: int) -> str:
        return FEED.publish(Registry(self.root), self.template, seed).version

    def damaged(self) -> str:
        """A version whose manifest is cut, in the registry but not current."""
        version = "20200101-000000-000-00000bad"
        folder = self.root / "scenarios/feed/versions" / version
        if not folder.exists():
            beside = self.root / "beside"
            shutil.copytree(self.root / "scenarios/feed/versions" / self.first, beside)
            content = (beside / "manifest.json").read_bytes()[:100]
            (beside / "manifest.json").write_bytes(content)
            (beside / "manifest.sha256").write_text(hashlib.sha256(content).hexdigest() + "\n")
            beside.rename(folder)
        return version

    def __enter__(self) -> Controlled:
        self.running.__enter__()
        self.control = ControlClient(self.running.control_target, timeout=60)
        self.client = Client(self.running.target, timeout=60)
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()
        self.control.close()
        self.running.__exit__(*error)


@pytest.fixture(scope="module")
def shared(compiled: Compiled, template: Template, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controlled]:
    with Controlled(compiled, template, tmp_path_factory.mktemp("control")) as made:
        yield made
        assert made.running.process.poll() is None, "the server died under a test"


@pytest.fixture
def controlled(shared: Controlled) -> Controlled:
    """The shared server, following a registry whose current version is the second, with the first to roll back to."""
    Registry(shared.root).set_current("feed", shared.first)
    shared.control.load("feed")
    Registry(shared.root).set_current("feed", shared.second)
    shared.control.load("feed")
    return shared


def refusal(call: Callable[[], object]) -> ControlError:
    with pytest.raises(ControlError) as failure:
        call()
    return failure.value


def test_load_swaps_and_pins(controlled: Controlled) -> None:
    control, client = controlled.control, controlled.client
    done = control.load("feed", controlled.first)
    assert (done.status.scenario, done.status.version, done.status.state) == ("feed", controlled.first, "SERVING")
    assert (done.pinned, done.rollback_version) == (True, controlled.second)
    assert client.predict("feed", ROWS).version == controlled.first, "when the call is answered it is done"
    controlled.publish(3)
    before = client.predict("search", SEARCH.rows(3)).version
    SEARCH.publish(Registry(controlled.root), controlled.template, seed=6)
    wait_for(lambda: client.predict("search", SEARCH.rows(3)).version != before, "the next look at the registry")
    assert client.predict("feed", ROWS).version == controlled.first, "pinned, whatever is published"
    assert control.load("feed", controlled.first).pinned
    done = control.unpin("feed")
    assert (done.pinned, done.status.version) == (False, Registry(controlled.root).current("feed"))


def test_load_of_a_refused_version_reports_why(controlled: Controlled) -> None:
    control, client = controlled.control, controlled.client
    bad = controlled.damaged()
    failure = refusal(lambda: control.load("feed", bad))
    assert failure.code is Code.FAILED_PRECONDITION
    assert f"scenarios/feed/versions/{bad}/manifest.json" in failure.message
    assert client.predict("feed", ROWS).version == controlled.second
    [status] = control.status("feed").scenarios
    assert (status.pinned, status.status.refused_version) == (False, bad)
    assert status.status.refused_reason == failure.message
    assert control.load("feed").status.refused_version == ""

    (controlled.root / "new").write_text(bad + "\n")
    (controlled.root / "new").rename(controlled.root / "scenarios/feed/current")
    wait_for(lambda: client.list_scenarios()[0].refused_version == bad, "the refusal")
    assert refusal(lambda: control.load("feed")).code is Code.FAILED_PRECONDITION
    assert client.predict("feed", ROWS).version == controlled.second


def test_unload_takes_out_of_service(controlled: Controlled) -> None:
    control, client = controlled.control, controlled.client
    resident = control.status("feed").scenarios[0].status.weight_bytes
    done = control.unload("feed")
    assert (done.status.state, done.status.version, done.status.weight_bytes) == ("UNLOADED", "", 0)
    assert resident > 0
    with pytest.raises(PredictError) as failure:
        client.predict("feed", ROWS.to_pydict())
    assert failure.value.code is Code.UNAVAILABLE
    assert "unloaded by an operator" in failure.value.message
    assert client.health("feed") == "NOT_SERVING"
    assert (client.health(), client.health("search")) == ("SERVING", "SERVING")
    assert 'smt_weight_bytes{scenario="feed"} 0' in controlled.running.metrics()
    assert "\nsmt_scenarios 1\n" in controlled.running.metrics()
    published = controlled.publish(4)
    assert control.unload("feed").status.state == "UNLOADED"
    for call in (control.rollback, control.unpin):
        assert refusal(lambda call=call: call("feed")).code is Code.FAILED_PRECONDITION  # type: ignore[misc]
    assert client.list_scenarios()[0].state == "UNLOADED"
    assert control.load("feed").status.version == published
    assert client.predict("feed", ROWS).version == published
    assert client.health("feed") == "SERVING"


def test_rollback_is_idempotent(controlled: Controlled) -> None:
    control = controlled.control
    for _ in range(2):
        done = control.rollback("feed")
        assert (done.status.version, done.pinned) == (controlled.first, True)
    assert control.unpin("feed").status.version == controlled.second
    assert control.rollback("feed").status.version == controlled.first


def test_what_cannot_be_done_says_why(controlled: Controlled) -> None:
    control = controlled.control
    for call, code, words in (
        (lambda: control.load("nosuch"), Code.NOT_FOUND, "'nosuch' is not in the registry; nearest: search, feed"),
        (lambda: control.load("feed", "v0"), Code.NOT_FOUND, "scenarios/feed/versions/v0"),
        (lambda: control.load("../feed"), Code.INVALID_ARGUMENT, "scenario: found '../feed'"),
        (lambda: control.load("feed", "../../x"), Code.INVALID_ARGUMENT, "version: found '../../x'"),
        (lambda: control.unload(""), Code.INVALID_ARGUMENT, "scenario: found ''"),
        (lambda: control.rollback("nosuch"), Code.NOT_FOUND, "nosuch"),
        (lambda: control.unpin("nosuch"), Code.NOT_FOUND, "nosuch"),
        (lambda: control.status("nosuch"), Code.NOT_FOUND, "nosuch"),
        (lambda: control.drain(-1), Code.INVALID_ARGUMENT, "seconds: found -1; expected 0..3600"),
        (lambda: control.drain(3601), Code.INVALID_ARGUMENT, "seconds: found 3601"),
        (lambda: control.log_level("loud"), Code.INVALID_ARGUMENT, "level: found 'loud'; expected debug, info"),
    ):
        failure = refusal(call)
        assert (failure.code, words in failure.message) == (code, True), failure
    assert control.status().state == "READY"


def test_bytes_that_are_no_message_are_invalid(shared: Controlled) -> None:
    with grpc.insecure_channel(shared.running.control_target) as channel:
        for method in ("Load", "Status", "SetLogLevel"):
            with pytest.raises(grpc.RpcError) as failure:
                channel.unary_unary(f"/smt.v1.ControlService/{method}")(b"\x0a\x05ab", timeout=30)
            assert failure.value.code() is Code.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError) as failure:
            channel.unary_unary("/smt.v1.ControlService/Load")(b"\x0a\x80\x80\x08" + bytes(1 << 17), timeout=30)
        assert failure.value.code() is Code.RESOURCE_EXHAUSTED


def test_nothing_of_it_is_on_the_data_port(shared: Controlled) -> None:
    methods = pb.DESCRIPTOR.services_by_name["ControlService"].methods_by_name
    assert len(methods) == 8
    with grpc.insecure_channel(shared.running.target) as channel:
        for method in methods:
            with pytest.raises(grpc.RpcError) as failure:
                channel.unary_unary(f"/smt.v1.ControlService/{method}")(b"", timeout=30)
            assert failure.value.code() is Code.UNIMPLEMENTED, method
    with ControlClient(shared.running.target) as control:
        assert "--control-port" in refusal(control.status).message
    with Client(shared.running.control_target) as client, pytest.raises(PredictError) as failure:
        client.predict("feed", ROWS.to_pydict())
    assert failure.value.code is Code.UNIMPLEMENTED, "and nothing is scored on the control port"


def test_every_call_is_logged_and_counted(controlled: Controlled) -> None:
    control, running = controlled.control, controlled.running

    def counted(method: str, code: str) -> float:
        pattern = rf'^smt_control_total\{{(?=[^}}]*method="{method}")(?=[^}}]*code="{code}")[^}}]*\}} (\S+)$'
        return sum(float(value) for value in re.findall(pattern, running.metrics(), re.MULTILINE))

    control.log_level("error")  # what is logged does not depend on it
    try:
        for call, method, code, scenario, value in (
            (lambda: control.load("feed", controlled.first), "Load", "OK", "feed", controlled.first),
            (lambda: control.load("feed", "v0"), "Load", "NOT_FOUND", "feed", "v0"),
            (lambda: control.rollback("x y"), "Rollback", "INVALID_ARGUMENT", "x y", ""),
            (lambda: control.status(), "Status", "OK", "", ""),
            (lambda: control.drain(-5), "Drain", "INVALID_ARGUMENT", "", "-5"),
        ):
            before = counted(method, code)
            try:
                call()
            except ControlError as failure:
                message = failure.message
            else:
                message = ""
            event = running.events("control")[-1]
            assert (event["method"], event["code"], event["scenario"], event["value"]) == (
                method,
                code,
                scenario,
                value,
            )
            assert event["message"] == message
            assert event["peer"].startswith("ipv4:127.0.0.1:")
            assert counted(method, code) == before + 1
    finally:
        assert control.log_level("info") == "info"


def test_the_log_level_changes(controlled: Controlled) -> None:
    control, running = controlled.control, controlled.running
    assert control.log_level() == "info"
    with pytest.raises(PredictError):
        controlled.client.predict("nosuch", ROWS.to_pydict())
    assert not running.events("request_failed")
    assert control.log_level("debug") == control.log_level() == "debug"
    assert control.status().log_level == "debug"
    with pytest.raises(PredictError):
        controlled.client.predict("nosuch", ROWS.to_pydict())
    assert running.events("request_failed")
    assert control.log_level("info") == "info"


def test_a_load_that_nobody_waits_for_is_given_up(controlled: Controlled) -> None:
    """Reading a file of this size takes much longer than the call may; the next call need not wait for the end."""
    control, running = controlled.control, controlled.running
    version, size = "20200101-000000-000-0000b16b", 1 << 30
    folder = controlled.root / "scenarios/feed/versions" / version
    shutil.copytree(controlled.root / "scenarios/feed/versions" / controlled.first, folder)
    with (folder / "weights.safetensors").open("r+b") as file:
        file.truncate(size)
    manifest = json.loads((folder / "manifest.json").read_text()) | {"version": version}
    manifest["files"]["weights.safetensors"] = {"bytes": size, "sha256": "0" * 64}
    content = json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(content)
    (folder / "manifest.sha256").write_text(hashlib.sha256(content).hexdigest() + "\n")
    refused = len(running.events("snapshot_refused"))
    try:
        failure = refusal(lambda: control.load("feed", version, timeout=0.05))
        assert failure.code is Code.DEADLINE_EXCEEDED
        [status] = control.status("feed").scenarios
        assert control.unpin("search").status.state == "SERVING"
        event = [event for event in running.events("control") if event["value"] == version][-1]
        assert (event["method"], event["code"]) == ("Load", "DEADLINE_EXCEEDED")
        assert (status.pinned, status.status.version) == (False, controlled.second)
        assert len(running.events("snapshot_refused")) == refused, "that it was given up is not its fault"
    finally:
        shutil.rmtree(folder)


def test_swaps_and_unloads_under_traffic(controlled: Controlled) -> None:
    """Every answer is OK or says that the scenario is unloaded, and names a version that was asked for."""
    stop = threading.Event()
    answers: list[str] = []
    failures: list[BaseException] = []
    unavailable: list[str] = []

    def traffic(scenario: str) -> None:
        rows = FEED.rows(20) if scenario == "feed" else SEARCH.rows(20)
        with Client(controlled.running.target, timeout=60) as client:
            while not stop.is_set():
                try:
                    answers.append(client.predict(scenario, rows).version)
                except PredictError as error:
                    if error.code is Code.UNAVAILABLE and scenario == "feed":
                        unavailable.append(error.message)
                    else:
                        failures.append(error)
                        return

    control = controlled.control
    steady = control.status("search").scenarios[0].status.version
    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(traffic, scenario) for scenario in ("feed", "feed", "search")]
        try:
            for step in range(30):
                wanted = controlled.first if step % 2 else controlled.second
                assert control.load("feed", wanted).status.version == wanted
                seen = len(answers)
                wait_for(lambda: failures or wanted in answers[seen:], "an answer of the new version")  # noqa: B023
                if step % 5 == 4:
                    seen = len(unavailable)
                    control.unload("feed")
                    wait_for(lambda: failures or len(unavailable) > seen, "a refused request")  # noqa: B023
                assert not failures
        finally:
            stop.set()
            for future in running:
                future.result(60)
    assert not failures
    assert all("unloaded by an operator" in message for message in unavailable)
    assert set(answers) == {controlled.first, controlled.second, steady}


def test_concurrent_calls_are_done_in_turn(controlled: Controlled) -> None:
    """Twelve operators at once: every call succeeds, and what is served in the end is what the last one asked for."""
    control = controlled.control

    def operate(number: int) -> None:
        for step in range(5):
            version = controlled.first if (step + number) % 2 else controlled.second
            assert control.load("feed", version).status.state in ("SERVING", "UNLOADED")
            if number % 4 == 0:
                control.unload("feed")

    with ThreadPoolExecutor(12) as pool:
        for future in [pool.submit(operate, number) for number in range(12)]:
            future.result(60)
    turns = [e for e in controlled.running.events("control") if e["method"] in ("Load", "Unload")][-1]
    [status] = control.status("feed").scenarios
    assert status.status.version == (turns["value"] if turns["method"] == "Load" else "")


# Drain: these servers end


def test_drain_ends_the_server_and_loses_nothing(compiled: Compiled, template: Template, tmp_path: Path) -> None:
    answers: list[int] = []
    errors: list[PredictError] = []

    def traffic() -> None:
        with Client(controlled.running.target, timeout=60) as client:
            while True:
                try:
                    answers.append(client.predict("feed", ROWS).rows)
                except PredictError as error:
                    errors.append(error)
                    return

    with Controlled(compiled, template, tmp_path) as controlled, ThreadPoolExecutor(3) as pool:
        running = [pool.submit(traffic) for _ in range(3)]
        wait_for(lambda: len(answers) > 50, "the traffic")
        begun = controlled.control.drain(7)
        assert begun.seconds == 7
        for future in running:
            future.result(60)
        assert controlled.running.join() == 0
        assert controlled.running.events("draining")[0]["seconds"] == 7
        assert controlled.running.events("drained")[0]["unanswered"] == 0
    assert [error.code for error in errors] == [Code.UNAVAILABLE] * 3


def test_drain_answers_who_asked_even_when_idle(compiled: Compiled, template: Template, tmp_path: Path) -> None:
    """Nothing keeps the process, and yet the answer arrives; a SIGTERM after it does not cut the drain short."""
    with Controlled(compiled, template, tmp_path) as controlled:
        assert controlled.control.drain().seconds == 20
        if controlled.running.process.poll() is None:
            assert controlled.running.terminate() == 0
        assert controlled.running.join() == 0
        assert controlled.running.events("exit_now") == []


def test_without_the_flag_there_is_no_control_port(registry_folder: Path, tmp_path: Path) -> None:
    with RunningServer(registry_folder, tmp_path) as server:
        assert "control_port" not in json.loads((tmp_path / "ports.json").read_text())
        assert not hasattr(server, "control_target")
