"""TLS of the data port: who may connect, certificates that change under traffic, files that cannot be used."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from smt.serving.cli import app
from smt.serving.client import AsyncClient, Client, PredictError, Tls, TlsError
from smt.serving.compile import BinaryInfo
from smt.serving.registry import Registry
from smt.training.template import Template
from tests.serving.certificates import Authority, Pair, encrypt, install
from tests.serving.support import FEED, RunningServer, copy_binaries, failed_start, wait_for

Compiled = tuple[Path, BinaryInfo, list[str]]
ROWS = FEED.rows(5)


class Secured:
    """A server with mutual TLS, whose files the tests replace."""

    def __init__(self, registry: Path, folder: Path) -> None:
        self.authority = Authority(folder / "ca")
        self.pair = Pair(folder / "server.crt", folder / "server.key")
        self.client_ca = folder / "clients.crt"
        install(self.authority.sign("server"), self.pair)
        self.trust(self.authority)
        self.client_pair = self.authority.sign("client")
        self.running = RunningServer(
            registry, folder, tls_cert=self.pair.cert, tls_key=self.pair.key, tls_client_ca=self.client_ca
        )

    def trust(self, authority: Authority) -> None:
        beside = self.client_ca.with_suffix(".new")
        shutil.copyfile(authority.ca, beside)
        beside.rename(self.client_ca)

    @property
    def tls(self) -> Tls:
        return self.authority.client(self.client_pair)

    def count(self, event: str) -> int:
        return len(self.running.events(event))

    def wait_for_one_more(self, event: str, change: Callable[[], object]) -> None:
        before = self.count(event)
        change()
        wait_for(lambda: self.count(event) > before, f"{event} in the log")


@pytest.fixture(scope="module")
def registry(compiled: Compiled, template: Template, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_binaries(compiled[0], tmp_path_factory.mktemp("tls") / "registry")
    FEED.publish(Registry(folder), template, seed=1)
    return folder


@pytest.fixture(scope="module")
def secured(registry: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    made = Secured(registry, tmp_path_factory.mktemp("secured"))
    with made.running:
        yield made
        assert made.running.process.poll() is None, "the server died under a test"


def connect(secured: Secured, tls: Tls | None) -> None:
    """One call over a connection of its own."""
    with Client(secured.running.target, timeout=10, tls=tls) as client:
        assert client.predict("feed", ROWS).rows == 5


def refused(secured: Secured, tls: Tls | None) -> str:
    with pytest.raises(PredictError) as failure:
        connect(secured, tls)
    assert failure.value.code is grpc.StatusCode.UNAVAILABLE
    return failure.value.message


def test_clients_with_a_certificate_are_served(secured: Secured) -> None:
    connect(secured, secured.tls)

    async def ask() -> str:
        async with AsyncClient(secured.running.target, timeout=10, tls=secured.tls) as client:
            await client.predict("feed", ROWS)
            return await client.health("feed")

    assert asyncio.run(ask()) == "SERVING"


def test_who_is_not_known_is_refused(secured: Secured, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger")
    pair = stranger.sign("client")
    assert "speaks TLS where we do not" in refused(secured, None)
    assert "asks for a certificate" in refused(secured, secured.authority.client())  # no certificate
    refused(secured, Tls(secured.authority.ca, pair.cert, pair.key))  # of a CA that the server does not trust
    distrustful = Tls(stranger.ca, secured.client_pair.cert, secured.client_pair.key)
    assert "--tls-ca" in refused(secured, distrustful)
    elsewhere = Tls(secured.authority.ca, secured.client_pair.cert, secured.client_pair.key, "elsewhere.example")
    assert "--tls-server-name" in refused(secured, elsewhere)


def test_without_a_client_ca_no_certificate_is_asked_for(registry: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    pair = authority.sign("server")
    with RunningServer(registry, tmp_path, tls_cert=pair.cert, tls_key=pair.key) as server:
        with Client(server.target, timeout=10, tls=authority.client()) as client:
            client.predict("feed", ROWS)
        named = Tls(authority.ca, server_name="localhost")
        with Client(server.target, timeout=10, tls=named) as client:
            client.predict("feed", ROWS)


def test_certificates_change_under_traffic(secured: Secured, tmp_path: Path) -> None:
    """Neither a connection that exists nor a new one fails while the pair changes, a few times."""
    stop = threading.Event()
    calls: list[int] = []
    failures: list[BaseException] = []

    def traffic(reconnecting: bool) -> None:
        number = len(calls)
        calls.append(0)
        try:
            with Client(secured.running.target, timeout=30, tls=secured.tls) as client:
                while not stop.is_set():
                    if reconnecting:
                        connect(secured, secured.tls)
                    else:
                        client.predict("feed", ROWS)
                    calls[number] += 1
        except BaseException as error:
            failures.append(error)

    def wait_for_calls() -> None:
        before = list(calls)
        wait_for(
            lambda: failures or all(now > then + 2 for now, then in zip(calls, before, strict=True)), "the traffic"
        )

    threads = [threading.Thread(target=traffic, args=(reconnecting,)) for reconnecting in (False, False, True)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: len(calls) == len(threads), "the threads to start")
        for number in range(3):
            pair = secured.authority.sign(f"server{number}")
            secured.wait_for_one_more("tls_reloaded", lambda pair=pair: install(pair, secured.pair))  # type: ignore[misc]
            wait_for_calls()
            assert shown_to(secured) == pair.cert.read_text().strip()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert min(calls) > 8


def shown_to(secured: Secured) -> str:
    """The certificate that a new connection is shown, PEM."""
    context = ssl.create_default_context(cafile=secured.authority.ca)
    context.load_cert_chain(secured.client_pair.cert, secured.client_pair.key)
    context.set_alpn_protocols(["h2"])
    host, port = secured.running.target.split(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wrapped,
    ):
        shown = wrapped.getpeercert(binary_form=True)
    assert shown is not None
    return ssl.DER_cert_to_PEM_cert(shown).strip()


def test_files_that_do_not_fit_change_nothing(secured: Secured) -> None:
    """The pair in use stays, an error names the file, and the next good pair is taken."""
    before = shown_to(secured)
    good, other = secured.authority.sign("good"), secured.authority.sign("other")
    damages: list[tuple[Callable[[], object], str]] = [
        (lambda: install(Pair(good.cert, other.key), secured.pair), "server.key: the key is not that of"),
        (lambda: install(Pair(good.key, good.key), secured.pair), "server.crt: holds no certificate"),
        (lambda: secured.pair.cert.write_bytes(good.cert.read_bytes()[:200]), "server.crt: certificate 1 cannot"),
        (lambda: secured.pair.cert.write_bytes(b""), "server.crt: holds no certificate"),
        (lambda: secured.pair.cert.unlink(), "server.crt: no such file"),
    ]
    for damage, reason in damages:
        secured.wait_for_one_more("tls_not_reloaded", damage)
        wait_for(lambda: reason in secured.running.events("tls_not_reloaded")[-1]["reason"], reason)  # noqa: B023
        connect(secured, secured.tls)
        assert shown_to(secured) == before
    logged = secured.count("tls_not_reloaded")
    time.sleep(2.5)  # two more looks, to see that nothing is logged: no event would tell
    assert secured.count("tls_not_reloaded") == logged
    secured.wait_for_one_more("tls_reloaded", lambda: install(good, secured.pair))
    assert shown_to(secured) == good.cert.read_text().strip()


def test_the_client_ca_changes(secured: Secured, tmp_path: Path) -> None:
    """New connections need a certificate of the new CA; those that exist go on."""
    fresh = Authority(tmp_path / "fresh")
    pair = fresh.sign("client")
    before = Client(secured.running.target, timeout=10, tls=secured.tls)
    with before:
        before.predict("feed", ROWS)
        secured.wait_for_one_more("tls_reloaded", lambda: secured.trust(fresh))
        refused(secured, secured.tls)
        connect(secured, Tls(secured.authority.ca, pair.cert, pair.key))
        before.predict("feed", ROWS)
    secured.wait_for_one_more("tls_reloaded", lambda: secured.trust(secured.authority))
    connect(secured, secured.tls)


def test_the_metric_says_when_the_certificate_expires(secured: Secured) -> None:
    pair = secured.authority.sign("soon", days=7)
    secured.wait_for_one_more("tls_reloaded", lambda: install(pair, secured.pair))
    [line] = [line for line in secured.running.metrics().splitlines() if line.startswith("smt_tls_cert")]
    assert line.startswith('smt_tls_certificate_expiry_timestamp_seconds{listener="data"} ')
    assert abs(float(line.split()[-1]) - time.time() - 7 * 86400) < 120


def test_commands_speak_tls(secured: Secured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = ["--target", secured.running.target]
    options = ["--tls-ca", secured.authority.ca, "--tls-cert", secured.client_pair.cert]
    options += ["--tls-key", secured.client_pair.key, "--tls-server-name", "localhost"]
    done = CliRunner().invoke(app, [str(word) for word in ["status", *target, *options, "--json"]])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["scenarios"][0]["scenario"] == "feed"

    pq.write_table(ROWS, tmp_path / "rows.parquet")
    for name, value in zip(options[::2], options[1::2], strict=True):
        monkeypatch.setenv(f"SMT_{str(name).strip('-').replace('-', '_').upper()}", str(value))
    done = CliRunner().invoke(app, ["predict", *target, "-s", "feed", "-i", str(tmp_path / "rows.parquet"), "--json"])
    assert done.exit_code == 0, done.output
    monkeypatch.delenv("SMT_TLS_CA")
    done = CliRunner().invoke(app, ["status", *target])
    assert (done.exit_code, "--tls-ca FILE" in done.stderr) == (2, True)
    monkeypatch.setenv("SMT_TLS_CA", str(tmp_path / "none.pem"))
    done = CliRunner().invoke(app, ["status", *target])
    assert (done.exit_code, "none.pem: No such file" in done.stderr) == (2, True)


def test_client_files_that_cannot_be_used(secured: Secured, tmp_path: Path) -> None:
    pair = secured.client_pair
    for tls, reason in (
        (Tls(tmp_path / "none.pem"), "none.pem: No such file"),
        (Tls(pair.key), "holds no certificate"),
        (Tls(secured.authority.ca, cert=pair.cert), "certificate without its key"),
        (Tls(secured.authority.ca, key=pair.key), "key without its certificate"),
        (Tls(secured.authority.ca, pair.cert, pair.cert), "holds no private key"),
    ):
        with pytest.raises(TlsError, match=reason):
            Client(secured.running.target, tls=tls)
    with pytest.raises(ValueError, match="at most one"):
        Client(secured.running.target, tls=secured.tls, credentials=grpc.ssl_channel_credentials())


def test_a_server_does_not_start_with_files_that_cannot_be_used(tmp_path: Path) -> None:
    """The message names the flag and the file."""
    authority = Authority(tmp_path / "ca")
    good, other = authority.sign("good"), authority.sign("other")
    encrypted, text, none = tmp_path / "encrypted.key", tmp_path / "text.pem", tmp_path / "none.pem"
    encrypt(good.key, encrypted)
    text.write_text("not a certificate\n")
    both = ["--tls-cert", good.cert, "--tls-key", good.key]
    for arguments, status, reason in (
        (["--tls-cert", none, "--tls-key", good.key], 1, f"--tls-cert: {none}: no such file"),
        (["--tls-cert", good.cert, "--tls-key", none], 1, f"--tls-key: {none}: no such file"),
        (["--tls-cert", tmp_path, "--tls-key", good.key], 1, f"--tls-cert: {tmp_path}: not a regular file"),
        (["--tls-cert", text, "--tls-key", good.key], 1, f"--tls-cert: {text}: holds no certificate"),
        (["--tls-cert", good.cert, "--tls-key", text], 1, f"--tls-key: {text}: holds no private key"),
        (["--tls-cert", good.cert, "--tls-key", other.key], 1, f"--tls-key: {other.key}: the key is not that of"),
        (["--tls-cert", good.cert, "--tls-key", encrypted], 1, f"--tls-key: {encrypted}: the key is encrypted"),
        ([*both, "--tls-client-ca", none], 1, f"--tls-client-ca: {none}: no such file"),
        ([*both, "--tls-client-ca", good.key], 1, f"--tls-client-ca: {good.key}: holds no certificate"),
        (["--tls-cert", good.cert], 2, "--tls-cert requires --tls-key"),
        (["--tls-key", good.key], 2, "--tls-key requires --tls-cert"),
        (["--tls-client-ca", authority.ca], 2, "--tls-client-ca requires --tls-cert"),
    ):
        found, output = failed_start(tmp_path, *arguments)
        assert reason in output
        assert found == status
