"""Servers whose scenarios get new weights while they serve: ours, and peers that load a model again.

    with Smt(variants) as contender:
        contender.streams(rows=16)
        contender.swap("scenario_000")        # returns when an answer by the new weights is there

Every scenario is a model of R1 with weights of its own. A peer's model of other weights is another file, made
beforehand: the clock of a swap runs from when the server is told, or the registry is written to.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import grpc
import numpy as np

from bench.engines import scenario_graphs
from bench.fleet import Fleet
from bench.hotswap_versions import Variants
from bench.load import requests
from bench.peer_server import Setup, TritonServer, infer_request
from bench.servers import SmtServer
from bench.shapes import Batch, random_batch
from smt.serving.client import Client
from smt.serving.delta_rows import weights_content
from smt.serving.loadgen import Payload, Stream
from smt.serving.manifest import WEIGHTS_FILE
from smt.serving.protos import grpc_service_pb2 as pb
from smt.serving.protos import grpc_service_pb2_grpc as stubs
from smt.serving.registry import Registry

_MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
_WAIT_SECONDS = 60.0
_PAYLOADS = 4
_VARIANTS = 2


class SwapError(RuntimeError):
    """New weights do not come to be served."""


class Contender(Protocol):
    """A context manager. pids: of the processes that serve."""

    name: str
    target: str

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    @property
    def pids(self) -> list[int]: ...

    def streams(self, rows: int) -> list[Stream]: ...

    def swap(self, scenario: str) -> None:
        """Raises SwapError."""


class Smt:
    """Ours: a file of weights is published."""

    name = "smt"

    def __init__(self, variants: Variants) -> None:
        self._variants = variants
        self._turn = 0

    def __enter__(self) -> Self:
        self._stack = contextlib.ExitStack()
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-hotswap-")))
        self._registry = Registry(folder)
        self._variants.publish(self._registry)
        fields = {"scenario", "template", "abi_hash", "dim", "tasks", "features"}
        self._drafts = {
            name: self._registry.snapshot(name).model_dump(mode="json", include=fields)
            for name in self._variants.fleet.names
        }
        self._files = {name: [weights_content(one) for one in made] for name, made in self._variants.weights.items()}
        self._server = self._stack.enter_context(SmtServer(folder, workers=2))
        self.target = self._server.target
        self._client = self._stack.enter_context(Client(self.target, timeout=_WAIT_SECONDS))
        slots = self._variants.template.slots
        self._row = {f"number_{i}": [0.5] for i in range(slots.dense)}
        self._row |= {f"id_{i}": [7] for i in range(slots.categorical)}
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def pids(self) -> list[int]:
        return [self._server.pid]

    def streams(self, rows: int) -> list[Stream]:
        mix = dict.fromkeys(self._variants.fleet.names, 1.0)
        return requests(self._variants.fleet, self.target, mix, rows, 0, payloads=_PAYLOADS)

    def swap(self, scenario: str) -> None:
        self._turn += 1
        content = self._files[scenario][self._turn % self._variants.count]
        made = self._registry.publish_snapshot(self._drafts[scenario], {WEIGHTS_FILE: content})
        deadline = time.monotonic() + _WAIT_SECONDS
        while self._client.predict(scenario, self._row).version != made.version:
            if time.monotonic() > deadline:
                raise SwapError(f"{made.version} is not served")


class _Peer:
    """What speaks the Open Inference Protocol: RepositoryModelLoad, then the answers say another version."""

    fleet: Fleet
    target: str

    def _connect(self) -> None:
        self._channel = grpc.insecure_channel(self.target)
        self._stub: Any = stubs.GRPCInferenceServiceStub(self._channel)  # type: ignore[no-untyped-call]
        one = random_batch(self.fleet.shape, 1, np.random.default_rng(0))
        self._one = {name: pb.ModelInferRequest.FromString(self._message(name, one)) for name in self.fleet.names}

    def _message(self, scenario: str, batch: Batch) -> bytes:
        return infer_request(scenario, batch)

    def streams(self, rows: int) -> list[Stream]:
        rng = np.random.default_rng(0)
        batches = [random_batch(self.fleet.shape, rows, rng) for _ in range(_PAYLOADS)]
        least = 4 * rows * self.fleet.template.tasks
        return [
            Stream(name, _MODEL_INFER, [Payload(self._message(name, batch), rows) for batch in batches],
                   min_response_bytes=least)
            for name in self.fleet.names
        ]  # fmt: skip

    def _version(self, scenario: str) -> str:
        return str(self._stub.ModelInfer(self._one[scenario], timeout=_WAIT_SECONDS).model_version)

    def _load(self, scenario: str, before: str) -> None:
        self._stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=scenario), timeout=_WAIT_SECONDS)
        deadline = time.monotonic() + _WAIT_SECONDS
        while self._version(scenario) == before:
            if time.monotonic() > deadline:
                raise SwapError(f"{scenario}: version {before} is still what answers")


def _graphs(fleet: Fleet) -> list[list[tuple[bytes, Any]]]:
    """Of each scenario, one with each of two sets of weights."""
    wide = Fleet(fleet.template, fleet.count * _VARIANTS, fleet.cache)
    made = list(scenario_graphs(wide, range(wide.count)))
    return [made[i * _VARIANTS : (i + 1) * _VARIANTS] for i in range(fleet.count)]


class OnnxRuntime(_Peer):
    """ONNX Runtime sessions behind a Python gRPC server, float32; see hotswap_ort_server.py."""

    name = "ONNX Runtime, new session"

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self._turn = 0

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="bench-ort-"))
        (self._folder / "models").mkdir()
        for name, graphs in zip(self.fleet.names, _graphs(self.fleet), strict=True):
            for number, (graph, table) in enumerate(graphs):
                (self._folder / f"{name}-{number}.onnx").write_bytes(_with_table(graph, table))
            shutil.copy(self._folder / f"{name}-0.onnx", self._folder / "models" / f"{name}.onnx")
        command = [sys.executable, "-m", "bench.hotswap_ort_server", str(self._folder / "models")]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.target = f"127.0.0.1:{self._process.stdout.readline().strip()}"
        self._connect()
        return self

    def __exit__(self, *error: object) -> None:
        self._channel.close()
        self._process.kill()
        self._process.communicate()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def pids(self) -> list[int]:
        return [self._process.pid]

    def _message(self, scenario: str, batch: Batch) -> bytes:
        request = pb.ModelInferRequest(model_name=scenario)
        for name, datatype, values in (("dense", "FP32", batch.dense), ("ids", "INT64", batch.rows)):
            request.inputs.add(name=name, datatype=datatype, shape=list(values.shape))
            request.raw_input_contents.append(values.numpy().tobytes())
        return request.SerializeToString()

    def swap(self, scenario: str) -> None:
        self._turn += 1
        before = self._version(scenario)
        shutil.copy(self._folder / f"{scenario}-{self._turn % _VARIANTS}.onnx",
                    self._folder / "models" / f"{scenario}.onnx")  # fmt: skip
        self._load(scenario, before)


class Triton(TritonServer, _Peer):
    """Triton's Python backend with OpenVINO, one instance of one thread for each scenario, loaded again on demand."""

    name = "Triton, model loaded again"

    def __init__(self, fleet: Fleet) -> None:
        options = ["--model-control-mode=explicit", "--load-model=*"]
        super().__init__(fleet.problem(), (), fleet.cache, options)
        self.fleet = fleet
        self._numbers = dict.fromkeys(fleet.names, 1)

    def __enter__(self) -> Self:
        super().__enter__()
        self._connect()
        return self

    def __exit__(self, *error: object) -> None:
        if hasattr(self, "_channel"):
            self._channel.close()
        super().__exit__(*error)

    def _write_models(self) -> None:
        self._setup = Setup(1, 1, False)
        for name, graphs in zip(self.fleet.names, _graphs(self.fleet), strict=True):
            for number, (graph, table) in enumerate(graphs):
                self._save_graph(graph, table, self._scratch / f"{name}-{number}.xml")
            self._write_model(name, self._setup, self._scratch / f"{name}-0.xml", 1)

    @property
    def pids(self) -> list[int]:
        found = [self.pid]
        for pid in found:  # grows while it is walked
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    found += [int(child) for child in task.read_text().split()]
        return found

    def swap(self, scenario: str) -> None:
        before = self._numbers[scenario]
        self._numbers[scenario] = number = before + 1
        graph = self._scratch / f"{scenario}-{number % _VARIANTS}.xml"
        self._write_model(scenario, self._setup, graph, number)
        shutil.rmtree(self._scratch / "models" / scenario / str(before))
        self._load(scenario, str(before))


def _with_table(graph: bytes, table: Any) -> bytes:
    """The graph with its table as a constant, so that the weights are all in the file."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(graph)
    [place] = [one for one in model.graph.input if one.name == "table"]
    model.graph.input.remove(place)
    model.graph.initializer.append(numpy_helper.from_array(table.numpy(), "table"))
    return bytes(model.SerializeToString())


def contenders(variants: Variants) -> Sequence[Contender]:
    return [Smt(variants), OnnxRuntime(variants.fleet), Triton(variants.fleet)]
