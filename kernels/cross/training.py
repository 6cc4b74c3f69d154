"""`cross_full` in training on the CPU: between two matrix products, one pass over the activations each way (op.cc)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from smt.kernels import cpu  # noqa: F401  # loads the ops

__all__ = ["applies", "cross_full"]


def applies(x0: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> bool:
    """Whether gradients are wanted, of layers of matrices of float32 on the CPU, outside of torch.export."""
    tensors = [x0, *weights, *biases]
    return (
        len(weights) > 0
        and len(weights) == len(biases)
        and x0.dim() == 2
        and torch.is_grad_enabled()
        and any(each.requires_grad for each in tensors)
        and all(each.device.type == "cpu" and each.dtype == torch.float32 for each in tensors)
        and not torch.compiler.is_compiling()
    )


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
            zs.append(xs[-1] @ weight.T)
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
                dx0.addmm_(dz, weights[i])
            else:
                # The gradient that came in is not ours to overwrite; those of the layers below are.
                g = torch.addmm(g, dz, weights[i]) if last else g.addmm_(dz, weights[i])
        return dx0, *reversed(d_weights), *reversed(d_biases)
