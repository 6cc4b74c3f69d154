"""`mlp` in Triton: against the reference, and compiled for the H100."""

import itertools
from collections.abc import Sequence
from functools import partial

import pytest
import torch
from torch import Tensor

from smt.kernels import triton_stages
from smt.kernels.mlp import mlp
from smt.kernels.mlp.triton import _backward_program, _forward_program
from smt.kernels.triton_support import aligned, arena_of, compute_dtype
from tests.kernels.triton_compile import SHARED_LIMIT, Request, compile_all
from tests.kernels.triton_parity import DEVICE, close, randn, same_with_gradients
from tests.kernels.triton_programs import compile_programs

Norms = list[tuple[Tensor, Tensor]]
Weights = tuple[list[Tensor], list[Tensor], Norms | None]


def weights_of(widths: list[int], normalised: bool, seed: int = 0) -> Weights:
    """weights, biases, norms."""
    weights = [randn(n, k, seed=seed) for k, n in itertools.pairwise(widths)]
    biases = [randn(n, seed=seed + 1) for n in widths[1:]]
    norms = [(randn(n, seed=seed + 2) * n**0.5, randn(n, seed=seed + 3)) for n in widths[1:]]
    return weights, biases, norms if normalised else None


def flat(weights: Weights) -> list[Tensor]:
    """In the order of the op's offsets."""
    norms = weights[2] or []
    return [*weights[0], *weights[1], *(gain for gain, _ in norms), *(shift for _, shift in norms)]


def unflatten(values: Sequence[Tensor], layers: int) -> Weights:
    """The inverse of `flat`."""
    lists = [list(values[i : i + layers]) for i in range(0, len(values), layers)]
    return lists[0], lists[1], list(zip(lists[2], lists[3], strict=True)) if len(lists) == 4 else None


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize(
    ("activation", "how"),
    [("relu", "one launch"), ("gelu", "one launch"), ("silu", "one launch"), ("relu", "split"), ("gelu", "split")],
)
@pytest.mark.parametrize(("rows", "widths"), [(0, [3, 4]), (1, [6, 3]), (5, [6, 7, 3]), (33, [13, 17, 5, 40])])
def test_forward_and_backward(
    monkeypatch: pytest.MonkeyPatch, rows: int, widths: list[int], how: str, activation: str, normalised: bool
) -> None:
    if how == "split":  # as for matrices wider than those of one launch, with several tiles of columns
        monkeypatch.setattr(triton_stages, "ONE_LAUNCH_WIDTH", 0)
        monkeypatch.setattr(triton_stages, "BLOCK_N", 16)
    _forward_program.cache_clear()
    _backward_program.cache_clear()

    def call(backend: str, x: Tensor, *values: Tensor) -> Tensor:
        weights, biases, norms = unflatten(values, len(widths) - 1)
        return mlp(x, weights, biases, activation, norms, backend=backend)

    inputs = [randn(rows, widths[0], seed=9) * widths[0] ** 0.5, *flat(weights_of(widths, normalised))]
    same_with_gradients(partial(call, "triton"), partial(call, "reference"), inputs)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("rows", [1, 64, 200])
def test_rows_of_many_slots(rows: int, normalised: bool) -> None:
    widths, row_block, dtype = [6, 9, 4], 64, compute_dtype(DEVICE)
    slots = [weights_of(widths, normalised, 100 * seed) for seed in range(3)]
    offsets, end = [], 0
    for w in flat(slots[0]):
        offsets.append(end)
        end += aligned(w.numel()) + 16
    arena = torch.full((3, end), torch.nan, dtype=dtype, device=DEVICE)  # what lies between the weights is not read
    for slot, weights in zip(arena, slots, strict=True):
        for at, w in zip(offsets, flat(weights), strict=True):
            slot[at : at + w.numel()] = w.flatten()
    x = randn(rows, 6) * 2
    block_slot = torch.tensor([2, 0, 2, 1][: -(-rows // row_block)], dtype=torch.int32, device=DEVICE)
    op = torch.ops.smt.mlp_triton
    found = op(x.to(dtype), arena, block_slot, widths[1:], offsets, "silu", normalised, row_block)
    parts = zip(x.split(row_block), block_slot.tolist(), strict=True)
    close(found, torch.cat([mlp(part, slots[s][0], slots[s][1], "silu", slots[s][2]) for part, s in parts]))


@pytest.mark.parametrize("normalised", [False, True])
def test_plain_pytorch_where_no_kernels_run(monkeypatch: pytest.MonkeyPatch, normalised: bool) -> None:
    """There an op computes the reference slot by slot, differentiable, and can be exported and compiled."""
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    slots = [[w.cpu().double() for w in flat(weights_of([5, 4, 3], normalised, seed))] for seed in range(2)]
    arenas = [arena_of(weights, torch.float64) for weights in slots]
    offsets, arena = arenas[0][1], torch.cat([arena for arena, _ in arenas])
    x, constants = randn(70, 5).cpu().double(), ([4, 3], offsets, "gelu", normalised, 64)
    found = torch.ops.smt.mlp_triton(x, arena, torch.tensor([1, 0], dtype=torch.int32), *constants)
    parts = []
    for part, slot in zip(x.split(64), (1, 0), strict=True):
        weights, biases, norms = unflatten(slots[slot], 2)
        parts.append(mlp(part, weights, biases, "gelu", norms))
    torch.testing.assert_close(found, torch.cat(parts))
    one = torch.zeros(1, dtype=torch.int32)

    def function(x: Tensor, arena: Tensor) -> Tensor:
        return torch.ops.smt.mlp_triton(x, arena, one, *constants)

    arguments = x[:3].clone().requires_grad_(), arena[:1].clone().requires_grad_()
    assert torch.autograd.gradcheck(function, arguments)
    torch.library.opcheck(torch.ops.smt.mlp_triton, (*arguments, one, *constants))


@pytest.mark.skipif(DEVICE.type == "cuda", reason="what is normalised is stored in bfloat16, 4 of 1000 apart")
def test_large_mean_under_normalisation() -> None:
    """The variance is that of the differences from the mean: squares of large values would leave nothing of it."""
    values = flat(weights_of([8, 24], True))
    values[1] += 1000
    x = randn(5, 8) * 3
    weights, biases, norms = unflatten(values, 1)
    found = mlp(x, weights, biases, "relu", norms, backend="triton")
    weights, biases, norms = unflatten([value.double() for value in values], 1)
    torch.testing.assert_close(found.double(), mlp(x.double(), weights, biases, "relu", norms), rtol=2e-3, atol=2e-3)


def test_errors() -> None:
    dtype = compute_dtype(DEVICE)

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=DEVICE)

    x, weights, biases = zeros(3, 5), [zeros(4, 5)], [zeros(4)]
    with pytest.raises(ValueError, match=r"weights\[0\] has shape \(4, 5\); expected \(4, 6\)"):
        mlp(zeros(3, 6), weights, biases, "relu", backend="triton")
    with pytest.raises(ValueError, match="0 biases; expected 1, one per layer"):
        mlp(x, weights, [], "relu", backend="triton")
    with pytest.raises(ValueError, match=r"biases of norms\[0\] has shape \(3,\); expected \(4,\)"):
        mlp(x, weights, biases, "relu", [(zeros(4), zeros(3))], backend="triton")
    slots = torch.zeros(1, dtype=torch.int32, device=DEVICE)
    with pytest.raises(ValueError, match="2 offsets for 1 layers; expected 4 per layer"):
        torch.ops.smt.mlp_triton(x, zeros(1, 24), slots, [4], [0, 20], "relu", True, 64)


def test_compiled_for_hopper() -> None:
    """Deep arch of R1 backwards, with and without LayerNorm, and the first layer of R2's: nothing spills, every matrix
    goes through wgmma.

    test_triton_rank.py compiles the whole forward of R1 and R3.
    """
    programs = {}
    for name, widths, normalised in (
        ("R1", [432, 512, 256], False),
        ("R1 LayerNorm", [432, 512, 256], True),
        ("R2", [3456, 1024], False),
    ):
        sizes = [n * k for k, n in itertools.pairwise(widths)] + widths[1:] * (3 if normalised else 1)
        offsets = tuple(itertools.accumulate((aligned(s) for s in sizes), initial=0))
        arguments = widths[0], tuple(widths[1:]), offsets[:-1], "gelu", normalised
        program = _forward_program(*arguments) if name == "R2" else _backward_program(*arguments)
        programs[name] = program[0], offsets[-1]
    for name, launches in compile_programs(programs).items():
        assert len(launches) == 1
        for compiled, matrices in launches:
            assert compiled.spill_bytes == 0, (name, compiled)
            assert compiled.shared_bytes <= SHARED_LIMIT // 2, "two programs fit one SM"
            assert compiled.wgmma >= matrices, (name, compiled)
            assert compiled.mma == 0, (name, compiled)


def test_weight_gradients_compiled_for_hopper() -> None:
    jobs = _backward_program(432, (512, 256), (0, 221184, 352256, 352768), "gelu", False)[2]
    table = tuple((100 * i, 100 * (i + 1), *job) for i, job in enumerate(jobs))
    constants = {"JOBS": table, "ELEMENTS": 353024, "BLOCK_N": 64, "BLOCK_K": 128, "BLOCK_ROWS": 64}
    signature = {"a_ptr": "*bf16", "s_ptr": "*bf16", "out_ptr": "*fp32", "rows": "i32", "split_rows": "i32"}
    request = Request("smt.kernels.triton_support:_weight_gradients_kernel", signature, constants)
    compiled = compile_all([request])[0]
    assert compiled.spill_bytes == 0
    assert compiled.wgmma >= 4 * len(jobs)
    assert compiled.shared_bytes <= SHARED_LIMIT // 2
