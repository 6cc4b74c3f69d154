"""Dropout by random bits, for training; alone or behind a bias and a relu."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from smt.kernels import cpu  # noqa: F401  # loads the ops
from smt.kernels.dropout import reference
from smt.kernels.dropout.reference import STEPS

__all__ = ["STEPS", "dropout", "random_bits", "relu_dropout_"]


def dropout(x: Tensor, bits: Tensor, dropped: int) -> Tensor:
    """Zeroes `dropped` of 65536 values; see reference.py, which computes the same to the bit. Differentiable in x."""
    if not _compiled(x):
        return reference.dropout(x, bits, dropped)
    result: Tensor = _Dropout.apply(x, bits, dropped)  # type: ignore[no-untyped-call]
    return result


def random_bits(x: Tensor) -> Tensor:
    """int16, uniform, one for each value of x, on its device; what they are is decided by the global generator."""
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
    if x.device.type == "cpu":
        # torch draws its own on one thread.
        torch.ops.smt.random_words_(words, int(torch.empty((), dtype=torch.int64).random_(-(2**63), None)))
    else:
        words.random_(-(2**63), None)
    return words.view(torch.int16)[: x.numel()]


def relu_dropout_(x: Tensor, bias: Tensor | None, bits: Tensor, dropped: int) -> Tensor:
    """`dropout` of relu(x + bias); see reference.py, which computes the same to the bit. Differentiable in both.

    x is overwritten, where that saves a pass over it: give it a tensor that nothing else reads, as a linear layer's
    result is.
    """
    if not _compiled(x):
        return reference.dropout(x if bias is None else x + bias, bits, dropped, relu=True)
    result: Tensor = _ReluDropout.apply(x, bias, bits, dropped)  # type: ignore[no-untyped-call]
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
    def forward(ctx: FunctionCtx, x: Tensor, bias: Tensor | None, bits: Tensor, dropped: int) -> Tensor:
        y: Tensor = torch.ops.smt.dropout_relu_(x, bias, bits, dropped)
        ctx.mark_dirty(y)
        ctx.save_for_backward(y)
        ctx.dropped, ctx.biased = dropped, bias is not None  # type: ignore[attr-defined]
        return y

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        [y] = ctx.saved_tensors  # type: ignore[attr-defined]
        moved, sums = torch.ops.smt.dropout_relu_backward(gradient.contiguous(), y, ctx.dropped)  # type: ignore[attr-defined]
        return moved, sums if ctx.biased else None, None, None  # type: ignore[attr-defined]
