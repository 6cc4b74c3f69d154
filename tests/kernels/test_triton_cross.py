"""`cross` in Triton: against the reference, and compiled for the H100."""

from functools import partial

import pytest
import torch
from torch import Tensor

from smt.kernels import triton_stages
from smt.kernels.cross import cross_full, cross_low_rank
from smt.kernels.cross.triton import _backward_program, _forward_program
from smt.kernels.triton_support import arena_of, compute_dtype
from tests.kernels.triton_compile import SHARED_LIMIT
from tests.kernels.triton_parity import DEVICE, close, randn, same_with_gradients
from tests.kernels.triton_programs import compile_programs

# (rows, width, rank, layers)
SHAPES = [(0, 5, 2, 2), (1, 5, 2, 3), (5, 17, 3, 2), (33, 13, 1, 1), (70, 40, 24, 2)]
Lists = list[list[Tensor]]


def weights_of(width: int, rank: int, layers: int, seed: int = 0) -> Lists:
    """Low-rank: down, up, biases. Full (rank 0): weights, biases."""
    shapes = [(rank, width), (width, rank), (width,)] if rank else [(width, width), (width,)]
    return [[randn(*shape, seed=seed + 10 * i) for i in range(layers)] for shape in shapes]


def run(x: Tensor, lists: Lists, backend: str) -> Tensor:
    return cross_low_rank(x, *lists, backend=backend) if len(lists) == 3 else cross_full(x, *lists, backend=backend)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("how", ["one launch", "split"])
@pytest.mark.parametrize(("rows", "width", "rank", "layers"), SHAPES)
def test_forward_and_backward(
    monkeypatch: pytest.MonkeyPatch, rows: int, width: int, rank: int, layers: int, how: str, full: bool
) -> None:
    if how == "split":  # as for matrices wider than those of one launch, with several tiles of columns
        monkeypatch.setattr(triton_stages, "ONE_LAUNCH_WIDTH", 0)
        monkeypatch.setattr(triton_stages, "BLOCK_N", 16)
    _forward_program.cache_clear()
    _backward_program.cache_clear()
    lists = weights_of(width, 0 if full else rank, layers)

    def call(backend: str, x: Tensor, *flat: Tensor) -> Tensor:
        return run(x, [list(flat[i * layers : (i + 1) * layers]) for i in range(len(lists))], backend)

    inputs = [randn(rows, width, seed=9) * width**0.5, *(w for group in lists for w in group)]
    same_with_gradients(partial(call, "triton"), partial(call, "reference"), inputs)


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("rows", [1, 64, 200])
def test_rows_of_many_slots(rows: int, rank: int) -> None:
    width, layers, row_block = 9, 2, 64
    slots = [weights_of(width, rank, layers, 100 * seed) for seed in range(3)]
    flat = [[w.flatten() for group in lists for w in group] for lists in slots]
    gap = torch.full((5,), torch.nan, device=DEVICE)  # what lies between the weights is not read
    arena = torch.stack([torch.cat([piece for w in weights for piece in (gap, w)]) for weights in flat])
    offsets, end = [], 0
    for w in flat[0]:
        offsets.append(end + 5)
        end += 5 + w.numel()
    x, dtype = randn(rows, width) * 3, compute_dtype(DEVICE)
    block_slot = torch.tensor([2, 0, 2, 1][: -(-rows // row_block)], dtype=torch.int32, device=DEVICE)
    op = torch.ops.smt.cross_triton
    found = op(x.to(dtype), arena.to(dtype), block_slot, offsets, rank, row_block)
    blocks = [run(part, slots[s], "reference") for part, s in zip(x.split(row_block), block_slot.tolist(), strict=True)]
    close(found, torch.cat(blocks))


@pytest.mark.parametrize("rank", [0, 2])
def test_plain_pytorch_where_no_kernels_run(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    """There an op computes the reference slot by slot, differentiable, and can be exported and compiled."""
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    slots = [weights_of(5, rank, 2, 100 * seed) for seed in range(2)]
    arenas = [arena_of([w.cpu().double() for group in lists for w in group], torch.float64) for lists in slots]
    offsets, arena = arenas[0][1], torch.cat([arena for arena, _ in arenas])
    x = randn(70, 5).cpu().double().requires_grad_()
    found = torch.ops.smt.cross_triton(x, arena, torch.tensor([1, 0], dtype=torch.int32), offsets, rank, 64)
    exact = [[[w.cpu().double() for w in group] for group in slots[s]] for s in (1, 0)]
    parts = [run(part, lists, "reference") for part, lists in zip(x.split(64), exact, strict=True)]
    torch.testing.assert_close(found, torch.cat(parts))
    one = torch.zeros(1, dtype=torch.int32)

    def function(x: Tensor, arena: Tensor) -> Tensor:
        return torch.ops.smt.cross_triton(x, arena, one, offsets, rank, 64)

    arguments = x.detach()[:3].requires_grad_(), arena[:1].clone().requires_grad_()
    assert torch.autograd.gradcheck(function, arguments)
    torch.library.opcheck(torch.ops.smt.cross_triton, (*arguments, one, offsets, rank, 64))


def test_strided_input() -> None:
    x = randn(12, 10)[::2, ::2]
    lists = weights_of(5, 2, 2)
    close(run(x, lists, "triton"), run(x, lists, "reference"))


def test_errors() -> None:
    dtype, op = compute_dtype(DEVICE), torch.ops.smt.cross_triton

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=DEVICE)

    x, slots = zeros(70, 5), torch.zeros(2, dtype=torch.int32, device=DEVICE)
    with pytest.raises(ValueError, match="row_block is 48; expected a multiple of 64"):
        op(x, zeros(1, 30), slots, [0, 25], 0, 48)
    with pytest.raises(ValueError, match=r"2 entries of block_slot for 150 rows; expected one per 64 rows"):
        op(zeros(150, 5), zeros(1, 30), slots, [0, 25], 0, 64)
    with pytest.raises(ValueError, match=rf"expected a contiguous .* of {dtype}"):
        op(x, zeros(1, 30).double(), slots, [0, 25], 0, 64)
    with pytest.raises(ValueError, match="a slot of the arena has 29 elements"):
        op(x, zeros(1, 29), slots, [0, 25], 0, 64)
    with pytest.raises(ValueError, match="4 offsets; expected 3 per layer"):
        op(x, zeros(1, 60), slots, [0, 1, 2, 3], 2, 64)
    with pytest.raises(ValueError, match=r"up\[1\] has shape \(5, 3\); expected \(5, 2\)"):
        cross_low_rank(x, [zeros(2, 5)] * 2, [zeros(5, 2), zeros(5, 3)], [zeros(5)] * 2, backend="triton")
    with pytest.raises(ValueError, match="the arena has 2 slots; gradients are of an arena of one slot"):
        op(x, zeros(2, 30).requires_grad_(), slots, [0, 25], 0, 64).sum().backward()


def test_compiled_for_hopper() -> None:
    """Layers of R1 and R2 of the kernel benchmark: nothing spills, and every matrix goes through wgmma.

    test_triton_rank.py compiles the whole forward of R1 and R3.
    """
    programs = {}
    for name, width, rank, layers in (("R1", 432, 64, 2), ("R2", 3456, 512, 1)):
        matrix = width * rank
        offsets = tuple(i * matrix for i in range(2 * layers))
        offsets += tuple(2 * layers * matrix + i * width for i in range(layers))
        elements = offsets[-1] + width
        if name == "R2":
            programs[name] = _forward_program(offsets, rank, width, layers)[0], elements
        programs[f"{name} backward"] = _backward_program(offsets, rank, width, layers)[0], elements
    for name, launches in compile_programs(programs).items():
        assert len(launches) == 1 or "R2" in name
        for compiled, matrices in launches:
            assert compiled.spill_bytes == 0, (name, compiled)
            assert compiled.shared_bytes <= SHARED_LIMIT // 2, "two programs fit one SM"
            assert compiled.wgmma >= 4 * matrices, (name, compiled)
            assert compiled.mma == 0, (name, compiled)
            assert compiled.async_copies > 0 or matrices == 0, (name, compiled)
