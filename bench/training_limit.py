"""What limits training on a machine: the time of the matrix products of one step, and of nothing else."""

import torch

from bench.machine import fastest
from bench.training_peers import Shape

_REPETITIONS = 5


def flops_per_row(shape: Shape) -> int:
    """Of one row of training: y = x Wᵀ, ∂x = ∂y W and ∂W = ∂yᵀ x of every matrix; a multiply and an add are two."""
    return sum(3 * 2 * inputs * outputs for inputs, outputs in shape.matrices)


def products_per_second(shape: Shape, threads: int) -> float:
    """Rows/s of the step's products alone, by torch.mm in float32 at the layers' shapes, each at its fastest."""
    torch.set_num_threads(threads)
    seconds = 0.0
    for inputs, outputs in shape.matrices:
        x, dy = torch.randn(shape.batch, inputs), torch.randn(shape.batch, outputs)
        w = torch.randn(outputs, inputs)
        for a, b in ((x, w.T), (dy, w), (dy.T, x)):
            out = torch.empty(a.shape[0], b.shape[1])

            def multiply(a: torch.Tensor = a, b: torch.Tensor = b, out: torch.Tensor = out) -> None:
                torch.mm(a, b, out=out)

            seconds += fastest(multiply, _REPETITIONS)
    return shape.batch / seconds
