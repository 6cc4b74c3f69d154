"""The strongest server that installs from a package index: NVIDIA Triton, whose Python backend runs OpenVINO in bf16.

    with TritonServer(problem, SETUPS, Path("build/bench")) as server:
        server.target, server.models

Triton takes what an engine takes: dense [rows, D] FP32 and ids [rows, S] INT32, rows of the table. Every set-up is a
model of its own; the fastest at a point counts.
"""

import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from bench.peer_build import ArtefactCache, Problem, onnx_graph
from bench.peers import openvino_model
from bench.result import ROOT
from bench.shapes import Batch
from smt.serving.protos import grpc_service_pb2 as pb
from smt.serving.quiet import quiet

REQUIREMENTS = ROOT / "requirements" / "peers.txt"
MODEL = Path(__file__).resolve().parent / "triton_model" / "model.py"
_WAIT_SECONDS = 60.0
_SHARED_MEMORY_BYTES = 16 << 20  # of each instance, for the tensors of its requests


class PeerUnavailableError(RuntimeError):
    """The peer cannot run here; the message says why."""


class NotInstalledError(PeerUnavailableError):
    """What the peer is made of cannot be had here."""


@dataclass(frozen=True)
class Setup:
    """One way to run the model: so many instances (processes) with so many threads each.

    Attributes:
        batching: Triton's dynamic batching, without delay: what waits for an instance is handed over together.
    """

    instances: int
    threads: int
    batching: bool

    @property
    def model(self) -> str:
        """Name of the model in Triton."""
        return f"r1-{self.instances}x{self.threads}{'-batching' if self.batching else ''}"


# The best of what was tried on two cores. Worse at every point: several streams of one process, and more threads or
# instances than cores.
SETUPS = (Setup(2, 1, False), Setup(2, 1, True), Setup(1, 2, True))


def install(folder: Path) -> Path:
    """The folder of Triton's package, installed there unless it is. Raises NotInstalledError."""
    return install_packages(REQUIREMENTS, folder) / "pytriton" / "tritonserver"


def install_packages(requirements: Path, folder: Path) -> Path:
    """A folder within `folder` of the pinned packages, without what they depend on, installed unless it is there.

    Raises:
        NotInstalledError: pip cannot have them.
    """
    made_of = requirements.read_bytes() + sys.version.encode()
    place = folder / f"peers-{hashlib.sha256(made_of).hexdigest()[:16]}"
    if not place.exists():
        stage = place.with_name(f"{place.name}-{os.getpid()}")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
        command += ["--target", str(stage), "--requirement", str(requirements)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            shutil.rmtree(stage, ignore_errors=True)
            reason = (done.stderr.strip().splitlines() or [f"pip ended with {done.returncode}"])[-1]
            raise NotInstalledError(f"{requirements.name} cannot be installed: {reason}")
        stage.rename(place)
    return place


def infer_request(model: str, batch: Batch) -> bytes:
    """A ModelInfer message with the batch as the server takes it best: raw, ids of 4 bytes."""
    request = pb.ModelInferRequest(model_name=model)
    for name, datatype, values in (("dense", "FP32", batch.dense), ("ids", "INT32", batch.rows32)):
        request.inputs.add(name=name, datatype=datatype, shape=list(values.shape))
        request.raw_input_contents.append(values.numpy().tobytes())
    return request.SerializeToString()


class TritonServer:
    """Triton on a loopback port that the system picks. A context manager; every wait is bounded.

    Attributes:
        target: host and port of its gRPC service, which speaks the Open Inference Protocol.
        models: set-ups by the name of their model.
        pid: of the server; its instances are its children.
    """

    def __init__(self, problem: Problem, setups: Sequence[Setup], folder: Path, options: Sequence[str] = ()) -> None:
        """
        Args:
            problem: one scenario's weights, constants of the model.
            folder: where what is installed and built is kept.
            options: further ones of tritonserver's command line.
        """
        self._problem, self._folder, self._options = problem, folder, options
        self.models = {setup.model: setup for setup in setups}
        self.target = ""
        self.pid = 0

    def __enter__(self) -> Self:
        """Raises PeerUnavailableError when it cannot be installed or does not come up."""
        package = install(self._folder)
        self._scratch = Path(tempfile.mkdtemp(prefix="triton-"))
        try:
            self._write_repository(package)
            self._log = self._scratch / "server.log"
            command = [
                str(package / "bin" / "tritonserver"),
                f"--model-repository={self._scratch / 'models'}",
                f"--backend-directory={self._scratch / 'backends'}",
                f"--backend-config=python,shm-default-byte-size={_SHARED_MEMORY_BYTES}",
                "--grpc-address=127.0.0.1",
                "--grpc-port=0",
                "--allow-http=false",
                "--allow-metrics=false",
                *self._options,
            ]
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(command, stdout=log, stderr=log, env=_environment(package))
            self.pid = self._process.pid
        except BaseException:
            shutil.rmtree(self._scratch, ignore_errors=True)
            raise
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """SIGTERM, so that its instances end with it."""
        self._process.terminate()
        try:
            self._process.wait(_WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _write_repository(self, package: Path) -> None:
        stub = package / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
        if not stub.is_dir():
            raise NotInstalledError(f"Triton's Python backend has no build for Python {stub.name}")
        backend = self._scratch / "backends" / "python"
        shutil.copytree(package / "backends" / "python", backend)
        shutil.copy2(stub / "triton_python_backend_stub", backend)
        self._write_models()

    def _write_models(self) -> None:
        graph = self._scratch / "graph.xml"
        self._save_graph(onnx_graph(self._problem, ArtefactCache(self._folder)), self._problem.table, graph)
        for name, setup in self.models.items():
            self._write_model(name, setup, graph, 1)

    @staticmethod
    def _save_graph(onnx: Path | bytes, table: Tensor, path: Path) -> None:
        import openvino

        with quiet():
            model = openvino_model(onnx, table)
        openvino.save_model(model, str(path), compress_to_fp16=False)

    def _write_model(self, name: str, setup: Setup, graph: Path, version: int) -> None:
        folder = self._scratch / "models" / name
        (folder / str(version)).mkdir(parents=True)
        shutil.copy(MODEL, folder / str(version))
        (folder / "config.pbtxt").write_text(self._configuration(name, setup, graph))

    def _configuration(self, name: str, setup: Setup, graph: Path) -> str:
        template = self._problem.shape.template
        parameters = {"graph": graph, "threads": setup.threads}
        lines = [
            f'name: "{name}"',
            'backend: "python"',
            "max_batch_size: 65536",
            f'input {{ name: "dense" data_type: TYPE_FP32 dims: [{template.slots.dense}] }}',
            f'input {{ name: "ids" data_type: TYPE_INT32 dims: [{template.slots.categorical}] }}',
            f'output {{ name: "probabilities" data_type: TYPE_FP32 dims: [{template.tasks}] }}',
            f"instance_group {{ kind: KIND_CPU count: {setup.instances} }}",
            *(f'parameters {{ key: "{k}" value {{ string_value: "{v}" }} }}' for k, v in parameters.items()),
        ]
        return "\n".join([*lines, *(["dynamic_batching { }"] if setup.batching else []), ""])

    def _wait(self) -> None:
        """Until it accepts calls: it opens its port when every model is loaded."""
        deadline = time.monotonic() + _WAIT_SECONDS
        while "Started GRPCInferenceService" not in (log := self._log.read_text(errors="replace")):
            if self._process.poll() is not None:
                raise PeerUnavailableError(f"Triton ended with {self._process.returncode}: {_reason(log)}")
            if time.monotonic() > deadline:
                raise PeerUnavailableError(f"Triton was not ready after {_WAIT_SECONDS:.0f} s: {_reason(log)}")
            time.sleep(0.05)
        self.target = f"127.0.0.1:{listening_port(self.pid)}"


def listening_port(pid: int) -> int:
    """The TCP port that a process listens on. Triton does not tell which one the system picked.

    Raises PeerUnavailableError unless it is exactly one.
    """
    sockets = set()
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            if match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{descriptor}")):
                sockets.add(match[1])
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:  # LISTEN; inode
                ports.add(int(fields[1].rpartition(":")[2], 16))
    if len(ports) != 1:
        raise PeerUnavailableError(f"process {pid} listens on the ports {sorted(ports)}; expected one")
    return ports.pop()


def _openvino() -> Path:
    """The folder to import openvino from: it is the one of this environment, as in the other benchmarks."""
    spec = importlib.util.find_spec("openvino")
    if spec is None or spec.origin is None:
        raise NotInstalledError("openvino is not installed; `pip install 'smt-stack[bench]'`")
    return Path(spec.origin).parents[1]


def _environment(package: Path) -> dict[str, str]:
    """Ours, with what the backend's processes link (the wheel's libraries, libpython) and import."""
    folders = [str(package.parents[1] / "nvidia_pytriton.libs"), str(sysconfig.get_config_var("LIBDIR"))]
    folders += filter(None, [os.environ.get("LD_LIBRARY_PATH")])
    packages = f"{package.parents[1]}{os.pathsep}{_openvino()}"
    return dict(os.environ) | {"LD_LIBRARY_PATH": ":".join(folders), "TRITON_MODEL_PACKAGES": packages}


def _reason(log: str) -> str:
    """What the log says of the first error."""
    found: Any = re.search(r"(?:failed to load|error:|Internal:|error while loading)[^\n]*", log)
    return found[0] if found else (log.strip().splitlines() or ["it said nothing"])[-1]
