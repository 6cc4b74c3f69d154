"""Traces ops with torch.compile as on a GPU, on a machine that has none, and prints which tensors their kernels write.

    {"mlp": [[["s_ptr", "y_ptr"]], [["s_ptr", "y_ptr"], ["out_ptr"]]], "rank": [...], "exported": 6}: per op its graphs
    (forward, backward), per graph its kernels; and how many dimensions stay dynamic in an exported `rank`.

Run by test_triton_trace.py in a process of its own, as Triton must not be interpreting. The tensors are the CPU's, and
the ops are made to take them for a GPU's: up to the code of the kernels nothing depends on the device.
"""

import contextlib
import json
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import torch
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from smt.kernels.cpu.program import Linear, TileProgram
from smt.kernels.cross.triton import cross
from smt.kernels.mlp.triton import mlp
from smt.kernels.rank.triton import Plan, rank_triton


class _Driver:
    """What torch asks of Triton's driver while it looks for the tensors that a kernel writes."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


class _Traced(Exception):
    """All graphs are there; they cannot run."""


def written(function: Callable[..., Tensor], arguments: Sequence[Any], graphs: int) -> list[list[list[str]]]:
    """Of each graph of `function`, and each kernel in it: the tensors that are taken for written, so copied before."""
    found: list[list[list[str]]] = []

    def keep(graph: torch.fx.GraphModule, example: Sequence[Any]) -> Callable[..., Any]:
        assert any(isinstance(value, (int, torch.SymInt)) for value in example), "the number of rows is a symbol"
        kernels = [node for node in graph.graph.nodes if "triton_kernel_wrapper" in str(node.target)]
        found.append([node.kwargs["tensors_to_clone"] for node in kernels])
        if len(found) == graphs:
            raise _Traced
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    backend = aot_autograd(fw_compiler=keep, bw_compiler=keep)
    with contextlib.suppress(Exception):  # _Traced, wrapped by what it passes through
        torch.compile(function, backend=backend, dynamic=True, fullgraph=True)(*arguments)
    assert len(found) == graphs, f"{len(found)} of {graphs} graphs were traced"
    return found


def rank_arguments() -> tuple[Callable[..., Tensor], list[Tensor]]:
    """Every kind of stage that a forward has, on three slots."""
    program = TileProgram("bf16", 5)
    program.mlp([Linear(8, 0, 48, 64, 80)], "relu")
    program.gather(3, 8, "mean", "fp32")
    program.cross_low_rank(4, [(0, 0, 0)])
    program.dot(4, 8, True)
    program.mlp([Linear(16, 0, 0)], "relu")
    program.experts(2, 3, [Linear(8, 0, 0), Linear(8, 0, 0)], "relu", (0, 0))
    program.heads(2, [Linear(8, 0, 0)], "relu", (0, 0), shared=False, probability=True)
    values, rows, bags = program.values(), 70, 9
    assert Plan(values).tasks == 2
    lookup = torch.zeros(11, 8), torch.zeros(3, dtype=torch.int64), torch.zeros(rows, 5)
    ids, offsets = torch.zeros(21, dtype=torch.int64), torch.zeros(bags + 1, dtype=torch.int64)
    slots, bag_index = torch.zeros(2, dtype=torch.int32), torch.zeros(rows, 3, dtype=torch.int64)

    def scores(arena: Tensor, *inputs: Tensor) -> Tensor:
        return rank_triton(arena, *inputs, values, 64)

    return scores, [torch.zeros(3, 4096), slots, *lookup, ids, offsets, bag_index]


def exported_dimensions() -> list[str]:
    """What dimensions are symbols when `rank` is exported for AOTInductor."""
    scores, example = rank_arguments()

    class Module(torch.nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            return scores(*inputs)

    rows, blocks, table, slots, ids, bags = (
        torch.export.Dim(name, min=least, max=1 << 20)
        for name, least in (("rows", 1), ("blocks", 1), ("table", 2), ("slots", 1), ("ids", 0), ("bags", 2))
    )
    dynamic = (({0: slots}, {0: blocks}, {0: table}, {0: slots}, {0: rows}, {0: ids}, {0: bags}, {0: rows}),)
    program = torch.export.export(Module(), tuple(example), dynamic_shapes=dynamic)
    assert any(node.target is torch.ops.smt.rank_triton.default for node in program.graph.nodes)
    return sorted(str(symbol) for symbol in program.range_constraints)


def main() -> None:
    driver.set_active(_Driver())
    weights = [torch.randn(16, 16, requires_grad=True) for _ in range(2)]
    biases = [torch.randn(16, requires_grad=True) for _ in range(2)]
    x = torch.randn(70, 16)
    with (
        mock.patch("smt.kernels.mlp.triton.on_kernels", return_value=True),
        mock.patch("smt.kernels.cross.triton.on_kernels", return_value=True),
        mock.patch("smt.kernels.rank.triton.resolve", return_value="triton"),
    ):
        result = {
            "mlp": written(lambda x, w, b: mlp(x, w, b, "gelu"), (x, weights, biases), 2),
            "cross": written(lambda x, w, b: cross(x, w, b, w), (x, weights, biases), 2),
            "rank": written(*rank_arguments(), 1),
            "exported": len(exported_dimensions()),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
