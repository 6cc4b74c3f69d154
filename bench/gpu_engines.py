"""The whole function on a GPU, ids to probabilities: ours, and the engines that could replace it.

An engine is a function of a batch on the GPU that returns probabilities [B, T]. Peers compute `PeerNet`, whose weights
are constants, in bfloat16, compiled for the number of rows where they like that; ours takes the weights as arguments.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from bench.peer_net import PeerNet
from bench.shapes import Batch, Shape
from smt.kernels.rank.triton import split_slabs
from smt.kernels.triton_support import compute_dtype, one_slot
from smt.serving.fused import tile_program

Engine = Callable[[Batch], Tensor]
ROW_BLOCK = 128  # rows that share a slot of the arena
OURS = "triton"
OURS_COMPILED = "triton in AOTInductor"


@dataclass(frozen=True)
class Problem:
    """A shape, one scenario's dense weights [elements] and its table [R, dim], both float32 on `table`'s device."""

    shape: Shape
    slab: Tensor
    table: Tensor


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch's tensors on another device."""
    return Batch(**{field.name: getattr(batch, field.name).to(device) for field in fields(batch)})


def batch_bytes(batch: Batch) -> int:
    """Bytes of what our function reads of a batch, the rows of the table included."""
    tensors = (batch.dense, batch.ids, batch.offsets, batch.bag_index)
    return sum(tensor.nbytes for tensor in tensors)


class Rank(nn.Module):
    """The template by the Triton kernels, as a function of weights and features."""

    def __init__(self, shape: Shape, arena: Tensor) -> None:
        super().__init__()
        self.program = tile_program(shape.template, "bf16").values()
        # In bfloat16 a slot holds the rounded slab and what rounding took from it; see `split_slabs`.
        self.residual = arena.shape[1] // 2 if arena.dtype == torch.bfloat16 else 0

    def forward(
        self,
        arena: Tensor,
        block_slot: Tensor,
        pool: Tensor,
        pool_base: Tensor,
        dense: Tensor,
        ids: Tensor,
        offsets: Tensor,
        bag_index: Tensor,
    ) -> Tensor:
        scores: Tensor = torch.ops.smt.rank_triton(
            arena, block_slot, pool, pool_base, dense, ids, offsets, bag_index, self.program, ROW_BLOCK, self.residual
        )
        return scores


def _arena(problem: Problem) -> Tensor:
    """[1, elements]: one slot, so that peers compute the same."""
    slabs, device = problem.slab[None].to(problem.table.device), problem.table.device
    return split_slabs(slabs) if compute_dtype(device) == torch.bfloat16 else slabs


def _arguments(problem: Problem, arena: Tensor) -> Callable[[Batch], tuple[Tensor, ...]]:
    """What `Rank` takes for a batch."""
    device = problem.table.device
    base = torch.zeros(1, dtype=torch.int64, device=device)
    slots: dict[int, Tensor] = {}

    def arguments(batch: Batch) -> tuple[Tensor, ...]:
        if batch.size not in slots:
            slots[batch.size] = one_slot(batch.size, device, ROW_BLOCK)
        features = (batch.dense, batch.ids, batch.offsets, batch.bag_index)
        return (arena, slots[batch.size], problem.table, base, *features)

    return arguments


def triton(problem: Problem) -> Engine:
    """Ours, called as an op."""
    arena = _arena(problem)
    rank, arguments = Rank(problem.shape, arena), _arguments(problem, arena)
    return lambda batch: rank(*arguments(batch))


def triton_compiled(problem: Problem, example: Batch) -> Engine:
    """Ours in the form that is served: exported with every size open, and compiled by AOTInductor.

    example: on the GPU, of more rows than one block has.
    """
    arguments = _arguments(problem, _arena(problem))
    dim = torch.export.Dim
    slots, rows = dim("slots", min=1), dim("rows", min=1, max=1 << 20)
    sizes = (slots, dim("blocks", min=1), dim("pool_rows", min=2), slots, rows, dim("n_ids", min=0), dim("bags", min=2))
    # A dimension that is 1 in the example would be taken for a constant: two slots.
    arena, block_slot, pool, base, *features = arguments(example)
    inputs = (arena.repeat(2, 1), block_slot, pool, base.repeat(2), *features)
    program = torch.export.export(
        Rank(problem.shape, arena), inputs, dynamic_shapes=tuple({0: size} for size in (*sizes, rows))
    )  # fmt: skip
    package = _aot_inductor(program, {})
    return lambda batch: package(*arguments(batch))


def eager(problem: Problem) -> Engine:
    net = PeerNet(problem.shape.template, problem.slab, torch.bfloat16).eval().to(problem.table.device)
    return lambda batch: _result(net(problem.table, batch.dense, batch.rows))


def compiled(problem: Problem) -> Engine:
    """torch.compile, max-autotune, compiled for each number of rows. Graphs are captured by the benchmark, for all."""
    net = PeerNet(problem.shape.template, problem.slab, torch.bfloat16).eval().to(problem.table.device)
    function = torch.compile(net, mode="max-autotune-no-cudagraphs", dynamic=False)
    return lambda batch: _result(function(problem.table, batch.dense, batch.rows))


def aot_inductor(problem: Problem, example: Batch) -> Engine:
    """AOTInductor, max-autotune, the weights frozen in, for the example's number of rows."""
    net = PeerNet(problem.shape.template, problem.slab, torch.bfloat16).eval().to(problem.table.device)
    with torch.no_grad():
        program = torch.export.export(net, (problem.table, example.dense, example.rows))
    package = _aot_inductor(program, {"max_autotune": True, "freezing": True})
    return lambda batch: _result(package(problem.table, batch.dense, batch.rows))


def _aot_inductor(program: torch.export.ExportedProgram, configs: dict[str, Any]) -> Callable[..., Any]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "package.pt2"
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=configs)
        package: Any = torch._inductor.aoti_load_package(str(path), run_single_threaded=True)
    function: Callable[..., Any] = package
    return function


class OnnxRuntimeCuda:
    """The graph of `PeerNet` in float32 (its products in TF32), inputs and output bound to memory on the GPU.

    Not captured: it launches on its own stream, and is timed by `seconds`.
    """

    def __init__(self, problem: Problem, example: Batch) -> None:
        """Raises RuntimeError where ONNX Runtime is missing or has no CUDA."""
        try:
            import onnxruntime
        except ImportError as error:
            raise RuntimeError("onnxruntime is not installed") from error
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise RuntimeError(f"onnxruntime {onnxruntime.__version__} here has no CUDAExecutionProvider")
        net = PeerNet(problem.shape.template, problem.slab).eval()
        rows = torch.export.Dim("rows", min=1, max=1 << 20)
        inputs = (problem.table.cpu(), example.dense.cpu(), example.rows.cpu())
        graph: Any = torch.onnx.export(
            net, inputs, dynamo=True, verbose=False, input_names=["table", "dense", "ids"], output_names=["scores"],
            dynamic_shapes={"table": None, "dense": {0: rows}, "ids": {0: rows}},
        )  # fmt: skip
        buffer = io.BytesIO()
        graph.save(buffer)
        self._session = onnxruntime.InferenceSession(
            buffer.getvalue(), providers=[("CUDAExecutionProvider", {"use_tf32": "1"})]
        )
        self._table, self._tasks = problem.table, problem.shape.template.tasks

    def __call__(self, batch: Batch) -> Tensor:
        out = torch.empty((batch.size, self._tasks), device=batch.dense.device)
        binding = self._session.io_binding()
        for name, tensor in (("table", self._table), ("dense", batch.dense), ("ids", batch.rows)):
            kind = "float32" if tensor.dtype == torch.float32 else "int64"
            binding.bind_input(name, "cuda", 0, kind, tuple(tensor.shape), tensor.data_ptr())
        binding.bind_output("scores", "cuda", 0, "float32", tuple(out.shape), out.data_ptr())
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return out


def _result(output: Any) -> Tensor:
    result: Tensor = output[0] if isinstance(output, (list, tuple)) else output
    return result
