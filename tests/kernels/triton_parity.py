"""Helpers of the Triton tests: parity with a float64 reference, and what an op launches, compiled for sm_90.

Kernels run on the GPU where there is one, in bfloat16, and are interpreted on the CPU elsewhere, in float32.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any

import pytest
import torch
import triton.language as tl
from torch import Tensor

from smt.kernels.triton_support import compute_dtype
from tests.kernels.triton_compile import Compiled, Request, compile_all

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Of the largest value: rounding of inputs is the reference's too, rounding of intermediate activations is not.
TOLERANCE = 3e-2 if DEVICE.type == "cuda" else 2e-5


def randn(*shape: int, seed: int = 0) -> Tensor:
    """Float32 values that the kernels' dtype can hold, scaled so that a layer keeps the size of its input."""
    generator = torch.Generator().manual_seed(seed + sum(shape))
    values = torch.randn(shape, generator=generator) / max(1, shape[-1]) ** 0.5
    return values.to(compute_dtype(DEVICE)).float().to(DEVICE)


def close(got: Tensor, expected: Tensor) -> None:
    """Same shape, and no value further off than TOLERANCE times the largest one."""
    assert got.shape == expected.shape
    assert torch.isfinite(got).all()
    if expected.numel():
        scale = max(1e-3, expected.abs().max().item())
        assert (got.double().cpu() - expected.double().cpu()).abs().max().item() <= TOLERANCE * scale


def same_with_gradients(
    ours: Callable[..., Tensor], reference: Callable[..., Tensor], inputs: Iterable[Tensor], seed: int = 7
) -> None:
    """Forward and every input's gradient agree with the reference's in float64."""
    mine = [value.clone().requires_grad_() for value in inputs]
    exact = [value.detach().cpu().double().requires_grad_() for value in mine]
    got, expected = ours(*mine), reference(*exact)
    close(got, expected)
    direction = randn(*got.shape, seed=seed)
    gradients = torch.autograd.grad(got, mine, direction)
    for gradient, true in zip(gradients, torch.autograd.grad(expected, exact, direction.cpu().double()), strict=True):
        close(gradient, true)


class Launch(Request):
    """A kernel as an op launches it."""

    @property
    def name(self) -> str:
        return self.kernel.split(":")[1]


_TYPES = {
    torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32", torch.int8: "*i8",
    torch.int32: "*i32", torch.int64: "*i64",
}  # fmt: skip


def launches(
    monkeypatch: pytest.MonkeyPatch, modules: Iterable[ModuleType], call: Callable[[], object]
) -> list[Launch]:
    """What `call` launches, in order, without running it: `modules` are those that launch."""
    found: list[Launch] = []

    def record(kernel: Any) -> Any:
        parameters = inspect.signature(kernel.fn).parameters

        class Grid:
            def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
                def launch(*args: Any, num_warps: int, num_stages: int = 3, **named: Any) -> None:
                    values = inspect.signature(kernel.fn).bind(*args, **named).arguments
                    constant = {k for k, p in parameters.items() if p.annotation in (tl.constexpr, "tl.constexpr")}
                    signature = {
                        key: _TYPES[value.dtype] if isinstance(value, Tensor) else "i32"
                        for key, value in values.items()
                        if key not in constant
                    }
                    constexprs = {key: values[key] for key in values if key in constant}
                    place = f"{kernel.fn.__module__}:{kernel.fn.__name__}"
                    found.append(Launch(place, signature, constexprs, num_warps, num_stages))

                return launch

        return Grid()

    with monkeypatch.context() as patch:
        for module in modules:
            patch.setattr(module, "wrap_triton", record)
            if hasattr(module, "on_kernels"):
                patch.setattr(module, "on_kernels", lambda x: True)
        call()
    return found


def compiled(found: Sequence[Launch]) -> list[tuple[Launch, Compiled]]:
    """Each launch and what became of it on sm_90; see `compile_all`."""
    return list(zip(found, compile_all(found), strict=True))
