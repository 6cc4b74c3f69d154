"""What limits training on a machine: the time of the matrix products of one step, and of nothing else."""

from functools import partial

import torch

from bench.machine import fastest
from bench.training_peers import Shape
from smt.kernels.linear import product

_REPETITIONS = 5


def flops_per_row(shape: Shape) -> int:
    """Of one row of training: y = x Wᵀ, ∂x = ∂y W and ∂W = ∂yᵀ x of every matrix; a multiply and an add are two."""
    return sum(3 * 2 * inputs * outputs for inputs, outputs in shape.matrices)


def products_per_second(shape: Shape, threads: int) -> float:
    """Rows/s of the step's products alone, in float32 at the layers' shapes, each at its fastest.

    By torch.mm, which the peers use, or by what our linear layers use, whichever is faster.
    """
    torch.set_num_threads(threads)
    seconds = 0.0
    for inputs, outputs in shape.matrices:
        x, dy = torch.randn(shape.batch, inputs), torch.randn(shape.batch, outputs)
        w = torch.randn(outputs, inputs)
        for a, b in ((x, w.T), (dy, w), (dy.T, x)):
            seconds += min(fastest(partial(multiply, a, b), _REPETITIONS) for multiply in (torch.mm, product))
    return shape.batch / seconds
