"""The engines that the fused kernels are measured against, each on its best settings.

    cache = ArtefactCache(Path("build/bench"))
    for variant in PEERS["OpenVINO bf16"]:
        engine = variant.load(problem, rows=256, threads=1, cache=cache)

Every peer computes the function of `PeerNet`: its weights are constants, packed ahead of time where the engine does
that; inputs are handed over where they lie, and the output has its memory before the clock starts. A peer whose best
settings depend on the shape has several variants, and the fastest one at a point counts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.peer_build import (
    INPUTS,
    OUTPUT,
    ArtefactCache,
    Problem,
    aot_inductor,
    load_package,
    onnx_graph,
    quantized_graph,
)
from bench.peer_net import PeerNet
from bench.shapes import Batch


class Engine(Protocol):
    """One loaded engine: `run` alone is timed."""

    def bind(self, batch: Batch) -> None:
        """Hands over the inputs of the next run."""

    def run(self) -> None:
        """Computes what was bound."""

    def output(self) -> NDArray[np.float32]:
        """Probabilities [B, T] of the last run."""


Load = Callable[[Problem, int, int, ArtefactCache], Engine]


@dataclass(frozen=True)
class Variant:
    """One way to set up a peer.

    Attributes:
        load: (problem, rows, threads, cache) -> engine; raises what the engine raises where it cannot run.
        fixed_rows: the engine takes batches of that many rows only.
    """

    name: str
    load: Load
    fixed_rows: bool = False


class TorchEngine:
    """A callable of tensors (table, dense, ids) -> probabilities, on PyTorch's own threads."""

    def __init__(self, function: Callable[..., Tensor], table: Tensor, threads: int) -> None:
        self._function, self._table, self._threads = function, table, threads
        self._arguments: tuple[Tensor, ...] = ()
        self._output = torch.empty(0)

    def bind(self, batch: Batch) -> None:
        torch.set_num_threads(self._threads)
        self._arguments = (self._table, batch.dense, batch.rows)

    def run(self) -> None:
        with torch.inference_mode():
            self._output = self._function(*self._arguments)

    def output(self) -> NDArray[np.float32]:
        return self._output.numpy()


class OnnxRuntimeEngine:
    """An ONNX graph in ONNX Runtime, inputs and output bound to memory that exists."""

    def __init__(self, graph: Path, problem: Problem, threads: int) -> None:
        import onnxruntime

        self._value = onnxruntime.OrtValue.ortvalue_from_numpy
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Its threads spin while a call runs, which is fastest, and stop at its end, or they would slow the next engine.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self._binding = self._session.io_binding()
        self._table = self._value(problem.table.numpy())
        self._binding.bind_ortvalue_input(INPUTS[0], self._table)
        self._bound: tuple[Any, ...] = ()
        self._output = np.empty((0, problem.shape.template.tasks), np.float32)

    def bind(self, batch: Batch) -> None:
        if len(self._output) != batch.size:
            self._output = np.empty((batch.size, self._output.shape[1]), np.float32)
        arrays = (batch.dense.numpy(), batch.rows.numpy(), self._output)
        self._bound = tuple(self._value(array) for array in arrays)
        for name, value in zip(INPUTS[1:], self._bound[:2], strict=True):
            self._binding.bind_ortvalue_input(name, value)
        self._binding.bind_ortvalue_output(OUTPUT, self._bound[2])

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def output(self) -> NDArray[np.float32]:
        return self._output


def openvino_model(graph: Path | bytes, table: Tensor) -> Any:
    """The ONNX graph as an openvino.Model of (dense [rows, D] float32, ids [rows, S] int32), rows dynamic.

    The table is a constant: as an input it would be converted to bf16 in every call.
    """
    import openvino
    from openvino import opset13, preprocess

    core: Any = openvino.Core()
    model: Any = core.read_model(graph if isinstance(graph, bytes) else str(graph))
    parameter = model.input(INPUTS[0]).node
    parameter.output(0).replace(opset13.constant(table.numpy(), shared_memory=True).output(0))
    model.remove_parameter(parameter)
    steps: Any = preprocess.PrePostProcessor(model)
    steps.input("ids").tensor().set_element_type(openvino.Type.i32)  # what it computes with
    return steps.build()


class OpenVinoEngine:
    """The graph in OpenVINO, see `openvino_model`."""

    def __init__(
        self, graph: Path, problem: Problem, rows: int | None, threads: int, precision: Literal["f32", "bf16"]
    ) -> None:
        """`rows` None: the number of rows stays dynamic. Raises RuntimeError if the CPU lacks the precision."""
        import openvino

        self._tensor: Any = openvino.Tensor
        core: Any = openvino.Core()
        capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and "BF16" not in capabilities:
            raise RuntimeError(f"OpenVINO finds no bf16 instructions on this CPU (it has {', '.join(capabilities)})")
        model = openvino_model(graph, problem.table)
        if rows is not None:
            slots = problem.shape.template.slots
            model.reshape({"dense": [rows, slots.dense], "ids": [rows, slots.categorical]})
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        self._request: Any = core.compile_model(model, "CPU", settings).create_infer_request()
        self._bound: tuple[Any, ...] = ()

    def bind(self, batch: Batch) -> None:
        self._bound = tuple(self._tensor(t.numpy(), shared_memory=True) for t in (batch.dense, batch.rows32))
        for name, value in zip(INPUTS[1:], self._bound, strict=True):
            self._request.set_tensor(name, value)

    def run(self) -> None:
        self._request.infer()

    def output(self) -> NDArray[np.float32]:
        return np.asarray(self._request.get_output_tensor().data)


def _eager(dtype: torch.dtype) -> list[Variant]:
    """PyTorch as it is. Weights in bfloat16 are faster than autocast at every number of rows."""

    def load(problem: Problem, rows: int, threads: int, cache: ArtefactCache) -> Engine:
        return TorchEngine(PeerNet(problem.shape.template, problem.slab, dtype).eval(), problem.table, threads)

    return [Variant("", load)]


def _aot_inductor(dtype: torch.dtype, max_autotune: bool) -> list[Variant]:
    """Rows are dynamic: fixing them gained 7 % at most, and that where other peers are twice as fast."""

    def load(problem: Problem, rows: int, threads: int, cache: ArtefactCache) -> Engine:
        path = aot_inductor(problem, dtype, max_autotune, threads, cache)
        return TorchEngine(load_package(path), problem.table, threads)

    return [Variant("", load)]


def _onnx_runtime_fp32() -> list[Variant]:
    """Rows are dynamic: fixing them made no difference."""

    def load(problem: Problem, rows: int, threads: int, cache: ArtefactCache) -> Engine:
        return OnnxRuntimeEngine(onnx_graph(problem, cache), problem, threads)

    return [Variant("", load)]


def _onnx_runtime_int8(scales: Literal["per tensor", "per channel"]) -> Variant:
    def load(problem: Problem, rows: int, threads: int, cache: ArtefactCache) -> Engine:
        return OnnxRuntimeEngine(quantized_graph(problem, scales, cache), problem, threads)

    return Variant(scales, load)


def _openvino(precision: Literal["f32", "bf16"]) -> list[Variant]:
    """Fixed rows are faster for one row, dynamic ones for many."""

    def load(problem: Problem, rows: int | None, threads: int, cache: ArtefactCache) -> Engine:
        return OpenVinoEngine(onnx_graph(problem, cache), problem, rows, threads, precision)

    def load_dynamic(problem: Problem, rows: int, threads: int, cache: ArtefactCache) -> Engine:
        return load(problem, None, threads, cache)

    return [Variant("fixed rows", load, fixed_rows=True), Variant("dynamic rows", load_dynamic)]


PEERS: dict[str, list[Variant]] = {
    "eager fp32": _eager(torch.float32),
    "eager bf16": _eager(torch.bfloat16),
    "AOTInductor fp32": _aot_inductor(torch.float32, False),
    "AOTInductor bf16": _aot_inductor(torch.bfloat16, False),
    "AOTInductor max_autotune fp32": _aot_inductor(torch.float32, True),
    "AOTInductor max_autotune bf16": _aot_inductor(torch.bfloat16, True),
    "ONNX Runtime fp32": _onnx_runtime_fp32(),
    "ONNX Runtime int8": [_onnx_runtime_int8("per tensor"), _onnx_runtime_int8("per channel")],
    "OpenVINO fp32": _openvino("f32"),
    "OpenVINO bf16": _openvino("bf16"),
}
