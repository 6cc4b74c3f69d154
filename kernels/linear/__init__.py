"""Linear layers in training on the CPU: the matrix products by the faster one of the two libraries (op.cc)."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from smt.kernels import cpu  # noqa: F401  # loads the ops
from smt.kernels.linear import reference

__all__ = ["linear", "product", "trains_here"]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b; see reference.py, whose value and first derivatives these are, up to rounding.

    Args:
        x: [..., K] inputs. weight: [N, K]. bias: [N].

    Returns:
        [..., N] in the dtype of x. Differentiable in all arguments, once where it `trains_here`.
    """
    tensors = (x, weight) if bias is None else (x, weight, bias)
    if x.dim() != 2 or not trains_here(*tensors):
        return reference.linear(x, weight, bias)
    y: Tensor = _Linear.apply(x, weight)  # type: ignore[no-untyped-call]
    return y if bias is None else y.add_(bias)


def product(a: Tensor, b: Tensor, onto: Tensor | None = None) -> Tensor:
    """a b, or `onto` += a b, of float32 on the CPU; see reference.py, which it is up to rounding. Not differentiable.

    Made for an `a` of many rows. Where K is the long side, as in the gradient of a weight, torch.mm splits that over
    threads, which is faster.

    Raises:
        ValueError: other tensors, or shapes that do not fit; `onto` is not contiguous.
    """
    ops = torch.ops.smt
    result: Tensor = ops.product(a, b) if onto is None else ops.product_onto_(onto, a, b)
    return result


def trains_here(*tensors: Tensor) -> bool:
    """Whether gradients are wanted of tensors of float32 on the CPU, outside of torch.export and torch.compile."""
    return (
        torch.is_grad_enabled()
        and any(each.requires_grad for each in tensors)
        and all(each.device.type == "cpu" and each.dtype == torch.float32 for each in tensors)
        and not torch.compiler.is_compiling()
    )


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight.T)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        for_x, for_weight = ctx.needs_input_grad  # type: ignore[attr-defined]
        return product(gradient, weight) if for_x else None, gradient.T @ x if for_weight else None
