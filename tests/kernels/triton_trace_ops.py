"""Traces ops with torch.compile as on a GPU, on a machine that has none, and prints which tensors their kernels write.

Per op: one list per graph (forward, backward), and in it one per kernel. Run by test_triton_heads.py in a process of
its own, as Triton must not be interpreting. The tensors are the CPU's, and the ops are made to take them for a GPU's.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

import smt.kernels.backend
from smt.kernels.embedding import triton as embedding
from smt.kernels.experts import triton as experts
from smt.kernels.heads import triton as heads
from smt.kernels.interaction import triton as interaction


class _Driver:
    """What torch asks of Triton's driver while it looks for the tensors that a kernel writes."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


class _StopError(Exception):
    """All graphs are there; they cannot run."""


def written(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> list[list[list[str]]]:
    """Per graph and kernel, the names of the tensors that are written."""
    graphs: list[list[list[str]]] = []
    expected = 2 if any(value.requires_grad for value in inputs) else 1

    def keep(graph: torch.fx.GraphModule, example: Sequence[Any]) -> Callable[..., Any]:
        assert any(isinstance(value, (int, torch.SymInt)) for value in example), "the number of rows is a symbol"
        kernels = [node for node in graph.graph.nodes if "triton_kernel_wrapper" in str(node.target)]
        graphs.append([node.kwargs["tensors_to_clone"] for node in kernels])
        if len(graphs) == expected:
            raise _StopError
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    backend = aot_autograd(fw_compiler=keep, bw_compiler=keep)
    try:
        torch.compile(function, backend=backend, dynamic=True, fullgraph=True)(*inputs)
    except Exception:
        if len(graphs) != expected:
            raise
    return graphs


def main() -> None:
    driver.set_active(_Driver())
    smt.kernels.backend.interpreting = lambda: True

    def leaf(*shape: int) -> Tensor:
        return torch.randn(shape, requires_grad=True)

    of_experts = [leaf(3, 8, 16), leaf(3, 8), leaf(2, 3, 16), leaf(2, 3)]
    of_heads = [leaf(2, 4, 8), leaf(2, 4), leaf(2, 4), leaf(2)]
    weights = [weight.detach() for weight in (*of_experts, *of_heads)]
    bags = [torch.zeros(10, dtype=torch.int64), torch.arange(11), torch.zeros((7, 3), dtype=torch.int64)]
    found = {
        "experts": written(
            lambda x, w, b, g, c: experts.experts(x, [w], [b], g, c, "relu"), [leaf(70, 16), *of_experts]
        ),
        "heads": written(
            lambda x, w, b, o, c: heads.heads(x, [w], [b], o, c, "relu"), [leaf(70, 2, 8), *of_heads]
        ),
        "experts_heads": written(
            lambda x, w, b, g, c, v, d, o, p: heads.experts_heads(
                x, [w], [b], g, c, "relu", [v], [d], o, p, "relu"
            ),
            [torch.randn(70, 16), *weights],
        ),
        "dot": written(lambda v: interaction.dot(v, True), [leaf(70, 5, 16)]),
        "fm": written(interaction.fm, [leaf(70, 5, 16)]),
        "embedding": written(
            lambda t, i, o, b: embedding.pooled_embedding(t, i, o, b, "sum"), [torch.randn(50, 8), *bags]
        ),
    }  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
