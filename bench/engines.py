"""Engines of many scenarios in one process: ours, and one of a peer's for each scenario."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.fleet import Fleet
from bench.inprocess import Callee, share
from bench.ours import compile_fused
from bench.peer_build import INPUTS, OUTPUT, ArtefactCache, load_package, onnx_graph
from bench.peer_net import PeerNet
from bench.peers import openvino_model
from bench.shapes import Batch, Shape, on_huge_pages
from smt.kernels import cpu
from smt.serving.fused import tile_program


@dataclass(frozen=True)
class Fused:
    """Makes ours: one binary with every scenario's weights in its arena, see `bench.inprocess.Factory`."""

    fleet: Fleet

    def __call__(self, number: int, count: int) -> tuple[Callee, Shape]:
        torch.set_num_threads(1)
        return _FusedFleet(self.fleet, list(share(range(self.fleet.count), number, count))), self.fleet.shape


class _FusedFleet:
    def __init__(self, fleet: Fleet, scenarios: list[int]) -> None:
        template = fleet.template
        program = tile_program(template, "bf16")
        self._binary = load_package(compile_fused(template, "bf16", ArtefactCache(fleet.cache)))
        self._arena = on_huge_pages((len(scenarios), cpu.packed_bytes(program)), torch.uint8)
        rows = fleet.table_rows
        self._pool = on_huge_pages((len(scenarios) * rows, template.slots.dim), torch.float32)
        self._base = torch.arange(len(scenarios)) * rows
        wanted = {scenario: slot for slot, scenario in enumerate(scenarios)}
        for scenario, weights in enumerate(fleet.weights()):
            if (slot := wanted.get(scenario)) is not None:
                self._arena[slot].copy_(cpu.pack(weights.slab, program))
                self._pool[slot * rows : (slot + 1) * rows].copy_(weights.table)
        self._slots: dict[tuple[int, int], Tensor] = {}

    def prepare(self, batch: Batch) -> tuple[Tensor, ...]:
        return (batch.block_slot, batch.dense, batch.ids, batch.offsets, batch.bag_index)

    def run(self, scenario: int, prepared: tuple[Tensor, ...]) -> NDArray[np.float32]:
        blocks, *features = prepared
        key = (scenario, len(blocks))
        if key not in self._slots:
            self._slots[key] = torch.full_like(blocks, scenario)
        return self._binary(self._arena, self._slots[key], self._pool, self._base, *features).numpy()


@dataclass(frozen=True)
class EachOpenVino:
    """Makes a compiled model in bf16 for each scenario."""

    fleet: Fleet

    def __call__(self, number: int, count: int) -> tuple[Callee, Shape]:
        return _OpenVinoFleet(self.fleet, share(range(self.fleet.count), number, count)), self.fleet.shape


class _OpenVinoFleet:
    def __init__(self, fleet: Fleet, scenarios: Sequence[int]) -> None:
        import openvino

        self._tensor: Any = openvino.Tensor
        core: Any = openvino.Core()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16",
            "INFERENCE_NUM_THREADS": 1,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # it would put every engine on the same core
        }
        self._requests = [
            core.compile_model(openvino_model(graph, table), "CPU", settings).create_infer_request()
            for graph, table in scenario_graphs(fleet, scenarios)
        ]

    def prepare(self, batch: Batch) -> list[tuple[str, Any]]:
        arrays = (batch.dense, batch.rows32)
        return [
            (name, self._tensor(array.numpy(), shared_memory=True))
            for name, array in zip(INPUTS[1:], arrays, strict=True)
        ]

    def run(self, scenario: int, prepared: list[tuple[str, Any]]) -> NDArray[np.float32]:
        request = self._requests[scenario]
        for name, tensor in prepared:
            request.set_tensor(name, tensor)
        request.infer()
        scores: NDArray[np.float32] = request.get_output_tensor().data
        return scores


@dataclass(frozen=True)
class EachOnnxRuntime:
    """Makes a session in float32 for each scenario."""

    fleet: Fleet

    def __call__(self, number: int, count: int) -> tuple[Callee, Shape]:
        return _OnnxRuntimeFleet(self.fleet, share(range(self.fleet.count), number, count)), self.fleet.shape


class _OnnxRuntimeFleet:
    def __init__(self, fleet: Fleet, scenarios: Sequence[int]) -> None:
        import onnxruntime

        self._value = onnxruntime.OrtValue.ortvalue_from_numpy
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._bindings: list[tuple[Any, Any, Any]] = []
        for graph, table in scenario_graphs(fleet, scenarios):
            session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            binding, value = session.io_binding(), self._value(table.numpy())
            binding.bind_ortvalue_input(INPUTS[0], value)
            self._bindings.append((session, binding, value))
        self._tasks = fleet.template.tasks

    def prepare(self, batch: Batch) -> tuple[Any, ...]:
        output = np.empty((batch.size, self._tasks), np.float32)
        return (output, *(self._value(array) for array in (batch.dense.numpy(), batch.rows.numpy(), output)))

    def run(self, scenario: int, prepared: tuple[Any, ...]) -> NDArray[np.float32]:
        session, binding, _ = self._bindings[scenario]
        scores, *inputs, output = prepared
        for name, value in zip(INPUTS[1:], inputs, strict=True):
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output(OUTPUT, output)
        session.run_with_iobinding(binding)
        return scores  # type: ignore[no-any-return]


def scenario_graphs(fleet: Fleet, scenarios: Sequence[int]) -> Iterator[tuple[bytes, Tensor]]:
    """The ONNX graph and the table of each of these scenarios, in order.

    Exporting takes seconds. The first scenario's graph is taken instead, and its matrices are replaced.
    """
    import onnx
    from onnx import numpy_helper

    problem = fleet.problem()
    graph = onnx.load(onnx_graph(problem, ArtefactCache(fleet.cache)))
    wanted = set(scenarios)
    for scenario, weights in enumerate(fleet.weights()):
        if scenario not in wanted:
            continue
        state = PeerNet(fleet.template, weights.slab).state_dict()
        for constant in graph.graph.initializer:
            if constant.name in state:
                constant.CopyFrom(numpy_helper.from_array(state[constant.name].numpy(), constant.name))
        yield graph.SerializeToString(), weights.table
