"""The Triton kernels of `heads`, alone and with the experts in one launch: parity with float64, and for the H100."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smt.kernels.experts import grouped
from smt.kernels.experts import triton as experts_kernels
from smt.kernels.heads import experts_heads, heads
from smt.kernels.heads import triton as kernels
from smt.kernels.triton_support import arena_of, compute_dtype
from tests.kernels.triton_compile import SHARED_LIMIT
from tests.kernels.triton_parity import DEVICE, Launch, close, compiled, launches, randn, same_with_gradients


def weights_of(inputs: int, units: list[int], tasks: int, seed: int = 0) -> list[Tensor]:
    """Weights layer by layer, biases layer by layer, out weight, out bias."""
    widths = [inputs, *units]
    return [
        *(randn(tasks, n, k, seed=seed) for k, n in pairwise(widths)),
        *(randn(tasks, n, seed=seed + 1) for n in units),
        randn(tasks, widths[-1], seed=seed + 2),
        randn(tasks, seed=seed + 3),
    ]


def check(rows: int, inputs: int, units: list[int], tasks: int, activation: str, shared: bool) -> None:
    """`shared`: one input for all tasks, expanded as the shared-bottom component does."""
    layers = len(units)

    def call(backend: str, x: Tensor, *w: Tensor) -> Tensor:
        x = x.expand(-1, tasks, -1)
        return heads(x, w[:layers], w[layers : 2 * layers], w[-2], w[-1], activation, backend=backend)

    same_with_gradients(
        lambda *a: call("triton", *a),
        lambda *a: call("reference", *a),
        [randn(rows, 1 if shared else tasks, inputs, seed=9), *weights_of(inputs, units, tasks)],
    )


@pytest.mark.parametrize("rows", [0, 1, 5, 33, 130])
@pytest.mark.parametrize("units", [[], [24], [9, 17, 5]])
def test_rows(rows: int, units: list[int]) -> None:
    check(rows, 13, units, 3, "silu", shared=rows == 33)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
@pytest.mark.parametrize(
    ("inputs", "units", "tasks"),
    [(1, [1], 1), (300, [], 2), (300, [200], 1), (8, [33, 70], 9)],
    ids=["ones", "many inputs, none hidden", "several blocks", "many tasks"],
)
def test_widths(activation: str, inputs: int, units: list[int], tasks: int) -> None:
    check(5, inputs, units, tasks, activation, shared=False)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    rows=st.integers(0, 70),
    inputs=st.integers(1, 40),
    units=st.lists(st.integers(1, 40), max_size=2),
    tasks=st.integers(1, 6),
    shared=st.booleans(),
)
def test_any_shape(rows: int, inputs: int, units: list[int], tasks: int, shared: bool) -> None:
    check(rows, inputs, units, tasks, "gelu", shared)


def expert_weights_of(inputs: int, units: list[int], count: int, tasks: int, seed: int = 0) -> list[Tensor]:
    widths = [inputs, *units]
    return [
        *(randn(count, n, k, seed=seed) for k, n in pairwise(widths)),
        *(randn(count, n, seed=seed + 1) for n in units),
        randn(tasks, count, inputs, seed=seed + 2),
        randn(tasks, count, seed=seed + 3),
    ]


@pytest.mark.parametrize("rows", [0, 1, 5, 33, 130])
@pytest.mark.parametrize(
    ("inputs", "units", "count", "tasks", "hidden"),
    [(20, [24], 3, 5, [17]), (300, [70], 2, 3, []), (9, [12, 8], 2, 2, [5]), (9, [12], 2, 18, [5, 7])],
    ids=["one launch", "one launch, no hidden layer", "deep experts", "deep heads"],
)
def test_experts_heads(rows: int, inputs: int, units: list[int], count: int, tasks: int, hidden: list[int]) -> None:
    e, h = expert_weights_of(inputs, units, count, tasks), weights_of(units[-1], hidden, tasks)
    x = randn(rows, inputs, seed=4)

    def call(backend: str, x: Tensor, e: list[Tensor], h: list[Tensor]) -> Tensor:
        le, lh = len(units), len(hidden)
        return experts_heads(
            x, e[:le], e[le : 2 * le], e[-2], e[-1], "relu", h[:lh], h[lh : 2 * lh], h[-2], h[-1], "gelu",
            backend=backend,
        )  # fmt: skip

    expected = call("reference", x.double(), [w.double() for w in e], [w.double() for w in h])
    close(call("triton", x, e, h), expected)


def test_experts_heads_gradients() -> None:
    """What is differentiated goes through the two ops, which keep what the backward needs."""
    e, h = expert_weights_of(12, [10], 3, 2), weights_of(10, [7], 2)

    def call(backend: str, x: Tensor, *w: Tensor) -> Tensor:
        return experts_heads(
            x, [w[0]], [w[1]], w[2], w[3], "silu", [w[4]], [w[5]], w[6], w[7], "relu", backend=backend
        )  # fmt: skip

    same_with_gradients(
        lambda *a: call("triton", *a), lambda *a: call("reference", *a), [randn(33, 12, seed=5), *e, *h]
    )


def test_rows_of_several_slots() -> None:
    """Each block of rows reads the slot that block_slot names; row blocks may be larger than the kernel's tile."""
    slots = [[*expert_weights_of(20, [24], 3, 2, seed=s), *weights_of(24, [7], 2, seed=s)] for s in (0, 100, 200)]
    arenas = [arena_of(weights, compute_dtype(DEVICE)) for weights in slots]
    arena, offsets = torch.cat([arena for arena, _ in arenas]), arenas[0][1]
    of_experts = experts_kernels.ExpertsLayout.of(slots[0][:1], slots[0][2], offsets[:4], "relu")
    of_heads = kernels.HeadsLayout.of(slots[0][4:5], slots[0][6], 24, offsets[4:], "silu")
    x, order = randn(300, 20), [2, 0, 1]
    block_slot = torch.tensor(order, dtype=torch.int32, device=DEVICE)
    got = kernels.experts_heads_arena(arena, block_slot, x.to(arena.dtype), of_experts, of_heads, row_block=128)
    for block, slot in enumerate(order):
        rows = slice(128 * block, 128 * block + 128)
        w = [weight.double() for weight in slots[slot]]
        exact = experts_heads(
            x[rows].double(), [w[0]], [w[1]], w[2], w[3], "relu", [w[4]], [w[5]], w[6], w[7], "silu"
        )  # fmt: skip
        close(got[rows], exact)


def test_what_an_arena_means_in_plain_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Off the GPU the ops, and the backward, compute the same without a kernel."""
    weights = [*expert_weights_of(20, [24], 3, 2), *weights_of(24, [7], 2)]
    arena, offsets = arena_of(weights, compute_dtype(DEVICE))
    of_experts = experts_kernels.ExpertsLayout.of(weights[:1], weights[2], offsets[:4], "relu")
    of_heads = kernels.HeadsLayout.of(weights[4:5], weights[6], 24, offsets[4:], "silu")
    slots, order = torch.cat([arena * 0.5, arena]), torch.tensor([1, 0, 1], dtype=torch.int32, device=DEVICE)
    x, mix, direction = (randn(*shape).to(arena.dtype) for shape in ((150, 20), (150, 2, 24), (150, 2)))

    def forward_and_gradients() -> list[Tensor]:
        inputs = arena.clone().requires_grad_(), mix.clone().requires_grad_()
        y = kernels.heads_arena(inputs[0], torch.zeros_like(order), inputs[1], of_heads)
        probabilities = kernels.experts_heads_arena(slots, order, x, of_experts, of_heads)
        return [probabilities, *torch.autograd.grad(y, inputs, direction.float())]

    fused = forward_and_gradients()
    for module in (kernels, experts_kernels):
        monkeypatch.setattr(module, "on_kernels", lambda x: False)
    for got, expected in zip(forward_and_gradients(), fused, strict=True):
        close(got, expected)


def test_plain_pytorch_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots, blocks and rows stay open in an export off the GPU."""
    weights = [*expert_weights_of(20, [24], 3, 2), *weights_of(24, [7], 2)]
    arena, offsets = arena_of(weights, compute_dtype(DEVICE))
    of_experts = experts_kernels.ExpertsLayout.of(weights[:1], weights[2], offsets[:4], "relu")
    of_heads = kernels.HeadsLayout.of(weights[4:5], weights[6], 24, offsets[4:], "silu")

    class Net(torch.nn.Module):
        def forward(self, arena: Tensor, block_slot: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            mixed = experts_kernels.experts_arena(arena, block_slot, x, of_experts)
            fused = kernels.experts_heads_arena(arena, block_slot, x, of_experts, of_heads)
            return fused, torch.sigmoid(kernels.heads_arena(arena, block_slot, mixed, of_heads))

    def inputs(rows: int, order: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        slots = torch.cat([arena * (0.5 + i) for i in range(max(order) + 1)])
        return slots, torch.tensor(order, dtype=torch.int32, device=DEVICE), randn(rows, 20).to(arena.dtype)

    for module in (kernels, experts_kernels):
        monkeypatch.setattr(module, "on_kernels", lambda x: False)
    sizes = [torch.export.Dim(name, min=1) for name in ("slots", "blocks", "rows")]
    with torch.no_grad():
        program = torch.export.export(
            Net(), inputs(150, [0, 1, 1]), dynamic_shapes=tuple({0: size} for size in sizes)
        )  # fmt: skip
        other = inputs(250, [2, 0, 1, 2])
        for got, expected in zip(program.module()(*other), Net()(*other), strict=True):
            close(got, expected)


def bfloat16_arena(shapes: list[tuple[int, ...]]) -> tuple[Tensor, list[int]]:
    return arena_of([torch.zeros(shape) for shape in shapes], torch.bfloat16)


def check_compiled(found: list[Launch], no_wgmma: set[str]) -> None:
    for launch, result in compiled(found):
        assert result.spill_bytes == 0, launch
        assert result.shared_bytes <= SHARED_LIMIT, launch
        # Of the logit's layer, with one output per task, a product has 16 rows; wgmma takes 64.
        assert result.wgmma > 0 or launch.name in no_wgmma or launch.constexprs["N"] == 1, launch


def test_one_launch_compiles_for_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """R3: eight experts and eight towers are one launch."""

    def serve() -> None:
        arena, at = bfloat16_arena(
            [(8, 128, 256), (8, 128), (8, 8, 256), (8, 8), (8, 64, 128), (8, 64), (8, 64), (8,)]
        )  # fmt: skip
        kernels.experts_heads_arena(
            arena, torch.zeros(1, dtype=torch.int32), torch.zeros((64, 256), dtype=torch.bfloat16),
            experts_kernels.ExpertsLayout((256, 128), (at[0],), (at[1],), at[2], at[3], 8, 8, "relu"),
            kernels.HeadsLayout((128, 64), (at[4],), (at[5],), at[6], at[7], 8, "relu"),
        )  # fmt: skip

    found = launches(monkeypatch, [kernels, experts_kernels, grouped], serve)
    assert [launch.name for launch in found] == ["experts_heads_kernel"]
    check_compiled(found, set())


@pytest.mark.parametrize(
    ("inputs", "hidden", "tasks"), [(256, [64], 4), (256, [], 1)], ids=["R1", "R2, no hidden layer"]
)
def test_compiles_for_hopper(monkeypatch: pytest.MonkeyPatch, inputs: int, hidden: list[int], tasks: int) -> None:
    """Forward and backward of the towers of the shared-bottom templates."""

    def train() -> None:
        widths = [inputs, *hidden]
        layers = [(tasks, n, k) for k, n in pairwise(widths)]
        arena, at = bfloat16_arena([*layers, *((tasks, n) for n in hidden), (tasks, widths[-1]), (tasks,)])
        x = torch.zeros((64, 1, inputs), dtype=torch.bfloat16, requires_grad=True).expand(-1, tasks, -1)
        layout = kernels.HeadsLayout(
            tuple(widths), tuple(at[: len(hidden)]), tuple(at[len(hidden) : 2 * len(hidden)]), at[-2], at[-1], tasks,
            "relu",
        )  # fmt: skip
        slot = torch.zeros(1, dtype=torch.int32)
        kernels.heads_arena(arena.requires_grad_(), slot, x, layout).sum().backward()

    found = launches(monkeypatch, [kernels, grouped], train)
    gradients = ["grouped_weight_gradient_kernel", "grouped_input_gradient_kernel"]
    assert [launch.name for launch in found] == ["heads_kernel", *gradients * (len(hidden) + 1)]
    check_compiled(found, set() if hidden else {"heads_kernel"})


def test_ops_trace_with_a_symbolic_number_of_rows() -> None:
    """torch.compile sees into every op, knows exactly what each kernel writes, and leaves the number of rows open."""
    program = Path(__file__).with_name("triton_trace_ops.py")
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TORCH_LOGS": "-all"}
    done = subprocess.run(
        [sys.executable, str(program)], env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    dw, dx = ["parts_ptr"], ["dx_ptr"]
    assert json.loads(done.stdout) == {
        "experts": [[["gates_ptr", "z_ptr", "mix_ptr"]], [["dz_ptr", "dscore_ptr"], dw, dw, dx]],
        "heads": [[["z_ptr", "out_ptr"]], [dw, dx, dw, dx]],
        "experts_heads": [[["gates_ptr", "mix_ptr", "out_ptr"]]],
        "dot": [[["out_ptr"]], [["dv_ptr"]]],
        "fm": [[["out_ptr"]], [["dv_ptr"]]],
        "embedding": [[["out_ptr"]]],
    }
