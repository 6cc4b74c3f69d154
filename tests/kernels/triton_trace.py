"""Traces `mlp` with torch.compile as on a GPU, on a machine that has none, and prints which tensors its kernels write.

One list per graph (forward, backward), and in it one per kernel. Run by test_triton_mlp.py in a process of its own, as
Triton must not be interpreting. The tensors are the CPU's, and the op is made to take them for a GPU's.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

import smt.kernels.mlp.triton as mlp_triton


class _Driver:
    """What torch asks of Triton's driver while it looks for the tensors that a kernel writes."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


class _StopError(Exception):
    """All graphs are there; they cannot run."""


def main() -> None:
    driver.set_active(_Driver())
    mlp_triton.interpreting = lambda: True
    written: list[list[list[str]]] = []

    def keep(graph: torch.fx.GraphModule, example: Sequence[Any]) -> Callable[..., Any]:
        assert any(isinstance(value, (int, torch.SymInt)) for value in example), "the number of rows is a symbol"
        kernels = [node for node in graph.graph.nodes if "triton_kernel_wrapper" in str(node.target)]
        written.append([node.kwargs["tensors_to_clone"] for node in kernels])
        if len(written) == 2:
            raise _StopError
        return make_boxed_func(graph.forward)

    def step(x: torch.Tensor, weights: list[torch.Tensor], biases: list[torch.Tensor]) -> torch.Tensor:
        return mlp_triton.mlp(x, weights, biases, "gelu")

    weights = [torch.randn(16, 16, requires_grad=True) for _ in range(2)]
    biases = [torch.randn(16, requires_grad=True) for _ in range(2)]
    compiled = torch.compile(
        step, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep), dynamic=True, fullgraph=True
    )
    try:
        compiled(torch.randn(70, 16), weights, biases)
    except Exception as error:
        if len(written) != 2:
            raise error
    print(json.dumps(written))


if __name__ == "__main__":
    main()
