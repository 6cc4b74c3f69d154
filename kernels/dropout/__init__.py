"""Dropout by given random bits, for training; alone or behind a relu."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from smt.kernels import cpu  # noqa: F401  # loads the ops
from smt.kernels.dropout import reference
from smt.kernels.dropout.reference import STEPS

__all__ = ["STEPS", "dropout", "relu_dropout_"]


def dropout(x: Tensor, bits: Tensor, dropped: int) -> Tensor:
    """Zeroes `dropped` of 65536 values; see reference.py, which computes the same to the bit. Differentiable in x."""
    if not _compiled(x):
        return reference.dropout(x, bits, dropped)
    result: Tensor = _Dropout.apply(x, bits, dropped)  # type: ignore[no-untyped-call]
    return result


def relu_dropout_(x: Tensor, bits: Tensor, dropped: int) -> Tensor:
    """`dropout` of relu(x); see reference.py, which computes the same to the bit. Differentiable in x.

    x is overwritten, where that saves a pass over it: give it a tensor that nothing else reads, as a linear layer's
    result is.
    """
    if not _compiled(x):
        return reference.dropout(x, bits, dropped, relu=True)
    result: Tensor = _ReluDropout.apply(x, bits, dropped)  # type: ignore[no-untyped-call]
    return result


def _compiled(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.is_contiguous()


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, bits: Tensor, dropped: int) -> Tensor:
        ctx.save_for_backward(bits)
        ctx.dropped = dropped  # type: ignore[attr-defined]
        result: Tensor = torch.ops.smt.dropout(x, bits, dropped)
        return result

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        [bits] = ctx.saved_tensors  # type: ignore[attr-defined]
        return torch.ops.smt.dropout(gradient.contiguous(), bits, ctx.dropped), None, None  # type: ignore[attr-defined]


class _ReluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, bits: Tensor, dropped: int) -> Tensor:
        y: Tensor = torch.ops.smt.dropout_relu_(x, bits, dropped)
        ctx.mark_dirty(y)
        ctx.save_for_backward(y)
        ctx.dropped = dropped  # type: ignore[attr-defined]
        return y

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        [y] = ctx.saved_tensors  # type: ignore[attr-defined]
        moved: Tensor = torch.ops.smt.dropout_relu_backward(gradient.contiguous(), y, ctx.dropped)  # type: ignore[attr-defined]
        return moved, None, None
