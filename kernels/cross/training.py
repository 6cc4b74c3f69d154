"""`cross_full` in training on the CPU: between two matrix products, one pass over the activations each way (op.cc)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from smt.kernels.linear import product, trains_here

__all__ = ["applies", "cross_full"]


def applies(x0: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> bool:
    """Whether gradients are wanted, of layers of matrices that `trains_here`."""
    return 0 < len(weights) == len(biases) and x0.dim() == 2 and trains_here(x0, *weights, *biases)


def cross_full(x0: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """See reference.py, whose values and first derivatives these are, up to rounding. For what `applies` to."""
    result: Tensor = _CrossFull.apply(x0, *weights, *biases)  # type: ignore[no-untyped-call]
    return result


class _CrossFull(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x0: Tensor, *parameters: Tensor) -> Tensor:
        layers = len(parameters) // 2
        weights, biases = parameters[:layers], [bias.contiguous() for bias in parameters[layers:]]
        xs, zs = [x0.contiguous()], []
        for weight, bias in zip(weights, biases, strict=True):
            zs.append(product(xs[-1], weight.T))
            xs.append(torch.ops.smt.cross_step(xs[0], zs[-1], bias, xs[-1]))
        ctx.save_for_backward(*weights, *biases, *xs[:-1], *zs)
        return xs[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, ...]:
        saved = ctx.saved_tensors  # type: ignore[attr-defined]
        layers = len(saved) // 4
        weights, biases, xs, zs = (saved[i * layers : (i + 1) * layers] for i in range(4))
        g, dx0 = gradient.contiguous(), torch.empty_like(xs[0])
        d_weights, d_biases = [], []
        for i in reversed(range(layers)):
            last = i == layers - 1
            dz, d_bias = torch.ops.smt.cross_step_backward(g, xs[0], zs[i], biases[i], dx0, last, i == 0)
            d_weights.append(dz.T @ xs[i])
            d_biases.append(d_bias)
            if i == 0:
                product(dz, weights[i], onto=dx0)
            else:
                # The gradient that came in is not ours to overwrite; those of the layers below are.
                g = product(dz, weights[i], onto=g.clone() if last else g)
        return dx0, *reversed(d_weights), *reversed(d_biases)
