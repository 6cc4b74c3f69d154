"""`mlp` in Triton: interpreted on the CPU against the reference, and compiled for the H100."""

import itertools

import pytest
import torch
from torch import Tensor

from smt.kernels import triton_stages
from smt.kernels.mlp import mlp
from smt.kernels.mlp.triton import _backward_program, _forward_program
from smt.kernels.triton_support import aligned
from tests.kernels.triton_compile import SHARED_LIMIT, Request, compile_all
from tests.kernels.triton_programs import compile_programs

TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}
Weights = tuple[list[Tensor], list[Tensor], list[tuple[Tensor, Tensor]] | None]


def weights_of(widths: list[int], normalised: bool, seed: int = 0) -> Weights:
    """weights, biases, norms."""
    g = torch.Generator().manual_seed(seed)
    weights = [torch.randn(n, k, generator=g) / k**0.5 for k, n in itertools.pairwise(widths)]
    biases = [torch.randn(n, generator=g) for n in widths[1:]]
    norms = [(torch.randn(n, generator=g), torch.randn(n, generator=g)) for n in widths[1:]]
    return weights, biases, norms if normalised else None


def flat(weights: Weights) -> list[Tensor]:
    """In the order of the op's offsets."""
    norms = weights[2] or []
    return [*weights[0], *weights[1], *(gain for gain, _ in norms), *(shift for _, shift in norms)]


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize(
    ("activation", "launches"),
    [("relu", "one"), ("gelu", "one"), ("silu", "one"), ("relu", "split"), ("gelu", "split")],
)
@pytest.mark.parametrize(("rows", "widths"), [(0, [3, 4]), (1, [6, 3]), (5, [6, 7, 3]), (33, [13, 17, 5, 40])])
def test_forward_and_backward(
    monkeypatch: pytest.MonkeyPatch, rows: int, widths: list[int], launches: str, activation: str, normalised: bool
) -> None:
    if launches == "split":  # as for matrices wider than those of one launch, with several tiles of columns
        monkeypatch.setattr(triton_stages, "ONE_LAUNCH_WIDTH", 0)
        monkeypatch.setattr(triton_stages, "BLOCK_N", 16)
    _forward_program.cache_clear()
    _backward_program.cache_clear()
    x = torch.randn(rows, widths[0], generator=torch.Generator().manual_seed(1)).requires_grad_()
    weights = weights_of(widths, normalised)
    leaves = [x, *(w.requires_grad_() for w in flat(weights))]
    outcomes = []
    for backend in ("triton", "reference"):
        y = mlp(x, weights[0], weights[1], activation, weights[2], backend=backend)
        outcomes.append([y, *torch.autograd.grad(y, leaves, torch.linspace(-1, 1, y.numel()).view(y.shape))])
    for found, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("rows", [1, 64, 200])
def test_rows_of_many_slots(rows: int, normalised: bool) -> None:
    widths, row_block = [6, 9, 4], 64
    slots = [weights_of(widths, normalised, seed) for seed in range(3)]
    offsets, end = [], 0
    for w in flat(slots[0]):
        offsets.append(end)
        end += aligned(w.numel()) + 16
    arena = torch.full((3, end), torch.nan)  # what lies between the weights is not read
    for slot, weights in zip(arena, slots, strict=True):
        for at, w in zip(offsets, flat(weights), strict=True):
            slot[at : at + w.numel()] = w.flatten()
    x = torch.randn(rows, 6, generator=torch.Generator().manual_seed(1))
    block_slot = torch.tensor([2, 0, 2, 1][: -(-rows // row_block)], dtype=torch.int32)
    found = torch.ops.smt.mlp_triton(x, arena, block_slot, widths[1:], offsets, "silu", normalised, row_block)
    parts = zip(x.split(row_block), block_slot.tolist(), strict=True)
    expected = [mlp(part, slots[s][0], slots[s][1], "silu", slots[s][2]) for part, s in parts]
    torch.testing.assert_close(found, torch.cat(expected), **TOLERANCE)


def test_large_mean_under_normalisation() -> None:
    """The variance is that of the differences from the mean: squares of large values would leave nothing of it."""
    weights, biases, norms = weights_of([8, 24], True)
    biases[0] += 1000
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    found = mlp(x, weights, biases, "relu", norms, backend="triton")
    expected = mlp(
        x.double(), [weights[0].double()], [biases[0].double()], "relu", [tuple(p.double() for p in norms[0])]
    )
    torch.testing.assert_close(found.double(), expected, rtol=2e-3, atol=2e-3)


def test_errors() -> None:
    x, weights, biases = torch.zeros(3, 5), [torch.zeros(4, 5)], [torch.zeros(4)]
    with pytest.raises(ValueError, match=r"weights\[0\] has shape \(4, 5\); expected \(4, 6\)"):
        mlp(torch.zeros(3, 6), weights, biases, "relu", backend="triton")
    with pytest.raises(ValueError, match="0 biases; expected 1, one per layer"):
        mlp(x, weights, [], "relu", backend="triton")
    with pytest.raises(ValueError, match=r"biases of norms\[0\] has shape \(3,\); expected \(4,\)"):
        mlp(x, weights, biases, "relu", [(torch.zeros(4), torch.zeros(3))], backend="triton")
    slots = torch.zeros(1, dtype=torch.int32)
    with pytest.raises(ValueError, match="2 offsets for 1 layers; expected 4 per layer"):
        torch.ops.smt.mlp_triton(x, torch.zeros(1, 24), slots, [4], [0, 20], "relu", True, 64)


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
