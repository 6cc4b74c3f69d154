"""Our servers as the benchmarks start them: smt-server on a registry, and a bare gRPC server with an empty method."""

import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, Self

from bench.result import ROOT
from smt.serving.serve import find_server, server_environment

WAIT_SECONDS = 120.0
EMPTY_METHOD = "/smt.bench.EmptyService/Call"
_EMPTY_SOURCES = Path(__file__).resolve().parent / "empty_server"


class ServerError(RuntimeError):
    """A server does not come up, or cannot be built; the message says why."""


class SmtServer:
    """smt-server on loopback ports that the system picks. A context manager; every wait is bounded.

    Attributes:
        target: host and port of its gRPC services.
        start_seconds: from the start of the process until every scenario was loaded.
    """

    def __init__(self, registry: Path, **options: Any) -> None:
        """`options`: of the command line, without the dashes."""
        self._registry, self._options = registry, options
        self.target, self.start_seconds = "", 0.0

    def __enter__(self) -> Self:
        """Raises ServerError, ServeError."""
        self._folder = Path(tempfile.mkdtemp(prefix="smt-server-"))
        ports, log = self._folder / "ports.json", self._folder / "server.log"
        server = find_server()
        options = {"port": 0, "metrics-port": 0, "port-file": ports}
        options |= {name.replace("_", "-"): value for name, value in self._options.items()}
        arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
        environment = server_environment(server)
        with log.open("wb") as stderr:
            started = time.monotonic()
            command = [str(server), "--registry", str(self._registry), *arguments]
            self._process = subprocess.Popen(command, stderr=stderr, env=environment)
        try:
            while not (ports.exists() and ports.read_text().endswith("}\n")):
                if self._process.poll() is not None or time.monotonic() > started + WAIT_SECONDS:
                    last = " ".join(log.read_text(errors="replace").splitlines()[-2:]) or "it said nothing"
                    raise ServerError(f"smt-server is not ready after {time.monotonic() - started:.0f} s: {last}")
                time.sleep(0.005)
            self.start_seconds = time.monotonic() - started
            found = json.loads(ports.read_text())
        except BaseException:
            self.__exit__()
            raise
        self.target = f"127.0.0.1:{found['port']}"
        self._metrics_url = f"http://127.0.0.1:{found['metrics_port']}/metrics"
        return self

    def __exit__(self, *error: object) -> None:
        _end(self._process)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        return self._process.pid

    def rss_bytes(self) -> int:
        """Resident memory."""
        return rss_bytes(self.pid)

    def cpu_seconds(self) -> float:
        """Of all its threads, since it started."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))

    def metric(self, name: str, **labels: str) -> float:
        """Sum of a metric's samples with these labels. Raises ServerError if there is no such metric."""
        return metric_sum(self.metrics_text(), name, labels)

    def metrics_text(self) -> str:
        """What Prometheus would read."""
        with urllib.request.urlopen(self._metrics_url, timeout=WAIT_SECONDS) as answer:
            content: bytes = answer.read()
        return content.decode()

    def log_lines(self) -> list[str]:
        """What it wrote on stderr, as far as the lines are complete."""
        return (self._folder / "server.log").read_text(errors="replace").split("\n")[:-1]

    def kill(self) -> None:
        """As a crash ends it."""
        self._process.kill()
        self._process.wait()

    def terminate(self) -> int | None:
        """Asks it to end, as an orchestrator does; returns its exit status, None if it did not end in time."""
        self._process.terminate()
        try:
            return self._process.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            return None


class EmptyServer:
    """A C++ callback server with one method that does nothing, see empty_server/. A context manager.

    Attributes:
        target: its host and port.
    """

    def __init__(self, folder: Path) -> None:
        """`folder`: where it is built and kept."""
        self._folder = folder
        self.target = ""

    def __enter__(self) -> Self:
        """Raises ServerError when it cannot be built or does not come up."""
        program = build_empty_server(self._folder)
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()
        if not port:
            self.__exit__()
            raise ServerError(f"{program} ended with {self._process.returncode} before it listened")
        self.target = f"127.0.0.1:{port}"
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        _end(self._process)
        self._process.stdout.close()


def build_empty_server(folder: Path) -> Path:
    """The program, built unless it is up to date. Raises ServerError with the compiler's last words."""
    build = folder / "empty_server"
    configure = ["cmake", "-S", str(_EMPTY_SOURCES), "-B", str(build), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"]
    for command in (configure, ["cmake", "--build", str(build)]):
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise ServerError(f"the empty server cannot be built: {error}") from error
        if done.returncode != 0:
            raise ServerError(f"the empty server cannot be built: {(done.stderr or done.stdout)[-500:]}")
    return build / "empty-server"


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def metric_sum(text: str, name: str, labels: dict[str, str]) -> float:
    """Sum of the samples `name` with these labels in Prometheus' text format. Raises ServerError if there is none."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    samples = [line for line in text.splitlines() if line.split(" ")[0].split("{")[0] == name]
    if not samples:
        raise ServerError(f"/metrics has no {name}")
    return sum(float(line.rpartition(" ")[2]) for line in samples if all(part in line for part in wanted))


def _end(process: "subprocess.Popen[Any]") -> None:
    """SIGTERM, then SIGKILL after a while."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
