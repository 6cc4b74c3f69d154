"""Who may call the control service: token, mutual TLS, and where it refuses to listen without either."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from smt.serving.cli import app
from smt.serving.client import Client
from smt.serving.control import ControlClient, ControlError, TokenError, read_token
from smt.serving.registry import Registry
from smt.serving.tls import Tls
from smt.training.template import Template
from tests.serving.certificates import Authority
from tests.serving.support import FEED, RunningServer, copy_binaries, failed_start, wait_for

Code = grpc.StatusCode
TOKEN = "s3cret-Token_0123456789"


def write_token(path: Path, text: str, mode: int = 0o600) -> Path:
    """As a deployment does: complete, and then in its place."""
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.chmod(mode)
    beside.rename(path)
    return path


@pytest.fixture(scope="module")
def guarded(
    compiled: tuple[Path, Any, Any], template: Template, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunningServer, Path]]:
    """A server whose control port asks for a token, and the token's file."""
    folder = tmp_path_factory.mktemp("guarded")
    registry = copy_binaries(compiled[0], folder / "registry")
    FEED.publish(Registry(registry), template, seed=1)
    token = write_token(folder / "token", TOKEN + "\n")
    with RunningServer(registry, folder, control_port=0, control_token_file=token) as running:
        yield running, token
        assert running.process.poll() is None, "the server died under a test"


def status_code(server: RunningServer, token: str | None) -> Code:
    with ControlClient(server.control_target, token=token, timeout=30) as control:
        try:
            control.status()
        except ControlError as error:
            return error.code
        return Code.OK


def test_who_knows_the_token_may_call(guarded: tuple[RunningServer, Path]) -> None:
    server, path = guarded
    with ControlClient(server.control_target, token=read_token(path), timeout=30) as control:
        assert control.status().state == "READY"
        assert control.unload("feed").status.state == "UNLOADED"
        assert control.load("feed").status.state == "SERVING"


def test_who_does_not_is_unauthenticated(guarded: tuple[RunningServer, Path]) -> None:
    server, _ = guarded
    wrong = [None, "", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), f"Bearer {TOKEN}"]
    for token in wrong:
        assert status_code(server, token) is Code.UNAUTHENTICATED, token
    with ControlClient(server.control_target, token="wrong", timeout=30) as control:
        calls = (
            lambda: control.load("feed"),
            lambda: control.unload("feed"),
            lambda: control.rollback("feed"),
            lambda: control.unpin("feed"),
            lambda: control.drain(),
            lambda: control.log_level("error"),
            lambda: control.log_level(),
        )
        for call in calls:
            with pytest.raises(ControlError) as failure:
                call()
            assert failure.value.code is Code.UNAUTHENTICATED
            assert "--control-token-file" in failure.value.message
            assert TOKEN not in failure.value.message
    event = server.events("control")[-1]
    assert (event["method"], event["code"], event["scenario"]) == ("GetLogLevel", "UNAUTHENTICATED", "")
    assert event["peer"].startswith("ipv4:127.0.0.1:")
    assert 'code="UNAUTHENTICATED"' in server.metrics()
    with Client(server.target, timeout=30) as client:
        assert client.predict("feed", FEED.rows(3)).rows == 3, "nothing was done"


def test_the_metadata_is_taken_literally(guarded: tuple[RunningServer, Path]) -> None:
    server, _ = guarded
    right = ("authorization", f"Bearer {TOKEN}")
    with grpc.insecure_channel(server.control_target) as channel:
        call = channel.unary_unary("/smt.v1.ControlService/Status")
        assert call(b"", metadata=(right,), timeout=30)
        for metadata in (
            (("authorization", TOKEN),),
            (("authorization", f"bearer {TOKEN}"),),
            (("authorization", f"Bearer  {TOKEN}"),),
            (("x-authorization", f"Bearer {TOKEN}"),),
            (right, right),
            (right, ("authorization", "Bearer wrong")),
        ):
            with pytest.raises(grpc.RpcError) as failure:
                call(b"", metadata=metadata, timeout=30)
            assert failure.value.code() is Code.UNAUTHENTICATED, metadata


def test_the_token_changes(guarded: tuple[RunningServer, Path]) -> None:
    """At once; and a file that cannot be used lets nobody in, while the log says why."""
    server, path = guarded
    try:
        write_token(path, "another\n")
        assert status_code(server, TOKEN) is Code.UNAUTHENTICATED
        assert status_code(server, "another") is Code.OK
        for text, mode, reason in (
            (TOKEN, 0o644, "mode 0644 lets every user"),
            ("", 0o600, "found 0 bytes; expected one line"),
            ("two words", 0o600, "found 9 bytes"),
        ):
            write_token(path, text, mode)
            for token in (TOKEN, "", "another", text):
                assert status_code(server, token) is Code.UNAUTHENTICATED
            assert reason in server.events("control_token_unusable")[-1]["reason"]
        logged = len(server.events("control_token_unusable"))
        path.unlink()
        for _ in range(3):
            assert status_code(server, TOKEN) is Code.UNAUTHENTICATED
        assert "no such file" in server.events("control_token_unusable")[-1]["reason"]
        assert len(server.events("control_token_unusable")) == logged + 1, "once, not at every call"
    finally:
        write_token(path, TOKEN)
    assert status_code(server, TOKEN) is Code.OK


def test_mutual_tls(registry_folder: Path, template: Template, tmp_path: Path) -> None:
    """Strangers do not connect; the log names who called; the data port has its own rules."""
    FEED.publish(Registry(registry_folder), template, seed=1)
    authority, stranger = Authority(tmp_path / "ca"), Authority(tmp_path / "other")
    pair, operator = authority.sign("server"), authority.sign("oncall")
    files = {"control_tls_cert": pair.cert, "control_tls_key": pair.key, "control_tls_client_ca": authority.ca}
    # All addresses: what is refused without mutual TLS.
    with RunningServer(registry_folder, tmp_path, control_port=0, control_host="0.0.0.0", **files) as server:
        with ControlClient(server.control_target, tls=authority.client(operator), timeout=30) as control:
            assert control.status().state == "READY"
        identity = server.events("control")[-1]["identity"]
        assert "localhost" in identity or "oncall" in identity
        other = stranger.sign("oncall")
        for tls in (None, authority.client(), Tls(authority.ca, other.cert, other.key)):
            with ControlClient(server.control_target, tls=tls, timeout=10) as control:
                with pytest.raises(ControlError) as failure:
                    control.status()
                assert failure.value.code is Code.UNAVAILABLE
        with Client(server.target, timeout=30) as client:
            client.predict("feed", FEED.rows(3))
        assert 'expiry_timestamp_seconds{listener="control"}' in server.metrics()
        assert not server.events("control_open")


def test_token_and_mutual_tls_are_both_asked_for(registry_folder: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    pair, operator = authority.sign("server"), authority.sign("oncall")
    files = {"control_tls_cert": pair.cert, "control_tls_key": pair.key, "control_tls_client_ca": authority.ca}
    token = write_token(tmp_path / "token", TOKEN)
    with RunningServer(registry_folder, tmp_path, control_port=0, control_token_file=token, **files) as server:
        for given, code in ((TOKEN, Code.OK), (None, Code.UNAUTHENTICATED)):
            with ControlClient(
                server.control_target, token=given, tls=authority.client(operator), timeout=30
            ) as control:
                try:
                    control.status()
                    found = Code.OK
                except ControlError as error:
                    found = error.code
            assert found is code


def test_without_either_it_listens_on_this_machine_only(registry_folder: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    pair = authority.sign("server")
    for host in ("0.0.0.0", "::"):
        for more in ([], ["--control-tls-cert", pair.cert, "--control-tls-key", pair.key]):
            status, output = failed_start(registry_folder, "--control-port", 0, "--control-host", host, *more)
            assert status == 1
            assert f"--control-host: other machines reach {host}" in output
            assert "--control-token-file" in output
            assert "--control-tls-client-ca" in output
    with RunningServer(registry_folder, tmp_path, control_port=0) as server:
        assert status_code(server, None) is Code.OK
        assert server.events("control_open"), "and the log warns"
    token = write_token(tmp_path / "token", TOKEN)
    with RunningServer(
        registry_folder, tmp_path, control_port=0, control_host="0.0.0.0", control_token_file=token
    ) as server:
        assert status_code(server, TOKEN) is Code.OK
        assert server.events("control_token_in_clear"), "the log warns that there is no TLS"


def test_it_does_not_start_with_files_that_cannot_be_used(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    pair = authority.sign("server")
    none, open_to_all, spaced = tmp_path / "none", tmp_path / "open", tmp_path / "spaced"
    write_token(open_to_all, TOKEN, 0o604)
    write_token(spaced, "a b")
    tls = ["--control-tls-cert", pair.cert, "--control-tls-key"]
    for arguments, status, reason in (
        (["--control-token-file", none], 1, f"--control-token-file: {none}: no such file"),
        (["--control-token-file", tmp_path], 1, f"--control-token-file: {tmp_path}: not a regular file"),
        (["--control-token-file", open_to_all], 1, f"--control-token-file: {open_to_all}: mode 0604"),
        (["--control-token-file", spaced], 1, f"--control-token-file: {spaced}: found 3 bytes; expected one line"),
        ([*tls, none], 1, f"--control-tls-key: {none}: no such file"),
        ([*tls, authority.pair.key], 1, "--control-tls-key: "),
        (["--control-tls-cert", pair.cert], 2, "--control-tls-cert requires --control-tls-key"),
        (["--control-host", "no.such.host.invalid"], 1, "--control-host: 'no.such.host.invalid'"),
        (["--control-port", "70000"], 2, "--control-port"),
    ):
        found, output = failed_start(tmp_path, "--control-port", 0, *arguments)
        assert reason in output
        assert found == status
    for flag in ("--control-host", "--control-token-file", "--control-tls-cert"):
        found, output = failed_start(
            tmp_path, flag, "127.0.0.1", *(["--control-tls-key", "k"] if "tls" in flag else [])
        )
        assert (found, f"{flag} requires --control-port" in output) == (2, True)


def test_a_port_in_use_is_named(registry_folder: Path, tmp_path: Path) -> None:
    with RunningServer(registry_folder, tmp_path, control_port=0) as server:
        port = server.control_target.split(":")[1]
        status, output = failed_start(registry_folder, "--control-port", port)
    assert status == 1
    assert f"--control-port: cannot listen on 127.0.0.1:{port}: Address already in use" in output


# The command


def run(server: RunningServer, token: Path | None, *arguments: str) -> Any:
    more = ["--target", server.control_target, *(["--token-file", str(token)] if token else [])]
    return CliRunner().invoke(app, ["control", *arguments, *more])


def test_the_command(guarded: tuple[RunningServer, Path], template: Template) -> None:
    server, token = guarded
    first = server.registry.current("feed")
    assert first is not None
    second = FEED.publish(server.registry, template, seed=2).version

    def reported(*arguments: str) -> Any:
        done = run(server, token, *arguments, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    assert reported("load", "feed")["version"] == second
    assert reported("load", "feed", "--version", first) | {"loads": 0, "weight_bytes": 0, "abi_hash": ""} == {
        "scenario": "feed",
        "version": first,
        "state": "SERVING",
        "refused_version": "",
        "refused_reason": "",
        "abi_hash": "",
        "weight_bytes": 0,
        "loads": 0,
        "pinned": True,
        "rollback_version": second,
    }
    assert reported("rollback", "feed")["version"] == second
    assert reported("unpin", "feed")["pinned"] is False
    assert reported("unload", "feed")["state"] == "UNLOADED"
    status = reported("status")
    assert (status["state"], status["log_level"], status["inflight"]) == ("READY", "info", 0)
    assert [scenario["state"] for scenario in status["scenarios"]] == ["UNLOADED"]
    assert reported("load", "feed")["state"] == "SERVING"
    assert reported("log-level", "warn") == reported("log-level") == {"target": server.control_target, "level": "warn"}
    shown = run(server, token, "log-level", "info")
    assert shown.stdout.strip() == "info"
    shown = run(server, token, "status")
    assert "READY" in shown.stdout
    assert second in shown.stdout

    refused = run(server, token, "load", "feed", "--version", "v0")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "error: NOT_FOUND: version: scenarios/feed/versions/v0" in refused.stderr
    refused = run(server, None, "status")
    assert (refused.exit_code, "UNAUTHENTICATED" in refused.stderr) == (1, True)


def test_the_command_takes_the_token_from_the_environment(
    guarded: tuple[RunningServer, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server, token = guarded
    monkeypatch.setenv("SMT_CONTROL_TARGET", server.control_target)
    monkeypatch.setenv("SMT_CONTROL_TOKEN_FILE", str(token))
    assert CliRunner().invoke(app, ["control", "status"]).exit_code == 0
    monkeypatch.setenv("SMT_CONTROL_TOKEN_FILE", str(tmp_path / "none"))
    done = CliRunner().invoke(app, ["control", "status"])
    assert (done.exit_code, "cannot read the token" in done.stderr) == (2, True)
    with pytest.raises(TokenError, match="found 2 words"):
        read_token(write_token(tmp_path / "two", "a b"))


def test_the_command_drains(registry_folder: Path, tmp_path: Path) -> None:
    with RunningServer(registry_folder, tmp_path, control_port=0) as server:
        done = run(server, None, "drain", "--seconds", "3", "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout) == {"target": server.control_target, "seconds": 3, "inflight": 0}
        assert server.join() == 0


def test_the_log_names_operators_by_certificate_only_once_it_is_verified(tmp_path: Path) -> None:
    """Without mutual TLS there is nobody to name."""
    authority = Authority(tmp_path / "ca")
    pair = authority.sign("server")
    registry = tmp_path / "registry"
    os.mkdir(registry)
    with RunningServer(
        registry, tmp_path, control_port=0, control_tls_cert=pair.cert, control_tls_key=pair.key
    ) as server:
        with ControlClient(server.control_target, tls=authority.client(authority.sign("me")), timeout=30) as control:
            control.status()
        wait_for(lambda: server.events("control"), "the log")
        assert server.events("control")[-1]["identity"] == ""
