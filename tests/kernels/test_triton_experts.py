"""The Triton kernels of `experts` against the float64 reference, and compiled for the H100."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smt.kernels.experts import experts, grouped, reference
from smt.kernels.experts import triton as kernels
from smt.kernels.triton_support import arena_of, compute_dtype
from tests.kernels.triton_compile import SHARED_LIMIT
from tests.kernels.triton_parity import DEVICE, close, compiled, launches, randn, same_with_gradients


def weights_of(inputs: int, units: list[int], count: int, tasks: int, seed: int = 0) -> list[Tensor]:
    """Weights layer by layer, biases layer by layer, gate weight, gate bias."""
    widths = [inputs, *units]
    return [
        *(randn(count, n, k, seed=seed) for k, n in zip(widths, units, strict=False)),
        *(randn(count, n, seed=seed + 1) for n in units),
        randn(tasks, count, inputs, seed=seed + 2),
        randn(tasks, count, seed=seed + 3),
    ]


def check(rows: int, inputs: int, units: list[int], count: int, tasks: int, activation: str) -> None:
    layers = len(units)

    def call(backend: str, x: Tensor, *w: Tensor) -> Tensor:
        return experts(x, w[:layers], w[layers : 2 * layers], w[-2], w[-1], activation, backend=backend)

    same_with_gradients(
        lambda *a: call("triton", *a),
        lambda *a: call("reference", *a),
        [randn(rows, inputs, seed=9), *weights_of(inputs, units, count, tasks)],
    )


@pytest.mark.parametrize("rows", [0, 1, 5, 33, 130])
@pytest.mark.parametrize("units", [[24], [9, 17, 5]])
def test_rows(rows: int, units: list[int]) -> None:
    check(rows, 13, units, 3, 2, "silu")


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
@pytest.mark.parametrize(
    ("inputs", "units", "count", "tasks"),
    [(1, [1], 1, 1), (300, [40], 2, 3), (17, [70], 5, 1), (8, [33], 9, 18)],
    ids=["ones", "inputs of several blocks", "outputs of several blocks", "more tasks than a block"],
)
def test_widths(activation: str, inputs: int, units: list[int], count: int, tasks: int) -> None:
    check(5, inputs, units, count, tasks, activation)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    rows=st.integers(0, 70),
    inputs=st.integers(1, 40),
    units=st.lists(st.integers(1, 40), min_size=1, max_size=2),
    count=st.integers(1, 6),
    tasks=st.integers(1, 6),
)
def test_any_shape(rows: int, inputs: int, units: list[int], count: int, tasks: int) -> None:
    check(rows, inputs, units, count, tasks, "gelu")


def test_rows_of_several_slots() -> None:
    """Each block of rows reads the slot that block_slot names, behind whatever else the slab holds."""
    slots = [weights_of(20, [24, 7], 3, 2, seed=10 * slot) for slot in range(3)]
    before = randn(40)
    arenas = [arena_of([before, *weights], compute_dtype(DEVICE)) for weights in slots]
    arena, offsets = torch.cat([arena for arena, _ in arenas]), arenas[0][1]
    layout = kernels.ExpertsLayout.of(slots[0][:2], slots[0][-2], offsets[1:], "relu")
    x = randn(200, 20)
    order = [2, 0, 0, 1]
    block_slot = torch.tensor(order, dtype=torch.int32, device=DEVICE)
    got = kernels.experts_arena(arena, block_slot, x.to(arena.dtype), layout)
    for block, slot in enumerate(order):
        rows = slice(64 * block, min(64 * block + 64, 200))
        w = [weight.double() for weight in slots[slot]]
        close(got[rows], reference.experts(x[rows].double(), w[:2], w[2:4], w[-2], w[-1], "relu"))


def test_gradient_of_a_slab_is_zero_where_other_weights_lie() -> None:
    weights = weights_of(20, [24], 3, 2)
    arena, offsets = arena_of([randn(40), *weights, randn(30)], compute_dtype(DEVICE))
    arena.requires_grad_()
    layout = kernels.ExpertsLayout.of(weights[:1], weights[-2], offsets[1:], "relu")
    slot = torch.zeros(1, dtype=torch.int32, device=DEVICE)
    kernels.experts_arena(arena, slot, randn(9, 20).to(arena.dtype), layout).float().sum().backward()
    assert arena.grad is not None
    assert arena.grad[0, : offsets[1]].count_nonzero() == 0
    assert arena.grad[0, offsets[-1] :].count_nonzero() == 0
    assert arena.grad[0, offsets[1] : offsets[-1]].count_nonzero() > 0


def test_gradients_of_several_slots_are_refused() -> None:
    weights = weights_of(8, [8], 2, 2)
    arena, offsets = arena_of(weights, compute_dtype(DEVICE))
    arena = arena.repeat(2, 1).requires_grad_()
    layout = kernels.ExpertsLayout.of(weights[:1], weights[-2], offsets, "relu")
    slot = torch.tensor([1], dtype=torch.int32, device=DEVICE)
    out = kernels.experts_arena(arena, slot, randn(3, 8).to(arena.dtype), layout)
    with pytest.raises(ValueError, match="2 slots"):
        out.sum().backward()


def test_what_an_arena_means_in_plain_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Off the GPU the op, and its backward, compute the same without a kernel."""
    weights = weights_of(12, [10, 7], 3, 2)
    arena, offsets = arena_of(weights, compute_dtype(DEVICE))
    layout = kernels.ExpertsLayout.of(weights[:2], weights[-2], offsets, "gelu")
    slots, order = torch.cat([arena * 0.5, arena]), torch.tensor([1, 0, 1], dtype=torch.int32, device=DEVICE)
    x, direction = randn(150, 12).to(arena.dtype), randn(150, 2, 7).to(arena.dtype)

    def forward_and_gradients() -> list[Tensor]:
        inputs = arena.clone().requires_grad_(), x.clone().requires_grad_()
        y = kernels.experts_arena(inputs[0], torch.zeros_like(order), inputs[1], layout)
        return [kernels.experts_arena(slots, order, x, layout), *torch.autograd.grad(y, inputs, direction)]

    fused = forward_and_gradients()
    monkeypatch.setattr(kernels, "on_kernels", lambda x: False)
    for got, expected in zip(forward_and_gradients(), fused, strict=True):
        close(got, expected)


def test_compiles_for_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """At R3's shape: nothing spills, tiles fit the shared memory, and products are wgmma instructions."""

    def train() -> None:
        x = torch.zeros((64, 256), dtype=torch.bfloat16, requires_grad=True)
        weights = [(8, 128, 256), (8, 128), (8, 8, 256), (8, 8)]
        arena, offsets = arena_of([torch.zeros(shape) for shape in weights], torch.bfloat16)
        layout = kernels.ExpertsLayout((256, 128), (offsets[0],), (offsets[1],), *offsets[2:], 8, 8, "relu")
        slot = torch.zeros(1, dtype=torch.int32)
        kernels.experts_arena(arena.requires_grad_(), slot, x, layout).sum().backward()

    found = launches(monkeypatch, [kernels, grouped], train)
    assert [launch.name for launch in found] == [
        "experts_kernel",
        "mix_backward_kernel",
        "grouped_weight_gradient_kernel",
        "grouped_weight_gradient_kernel",
        "grouped_input_gradient_kernel",
    ]
    for launch, result in compiled(found):
        assert result.spill_bytes == 0, launch
        assert result.shared_bytes <= SHARED_LIMIT, launch
        assert (result.wgmma > 0) == (launch.name != "mix_backward_kernel"), launch
