"""The `dot` and `fm` interactions: the references against their formulas, the Triton kernels against the references."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smt.kernels.interaction import dot, fm, reference
from smt.kernels.interaction import triton as kernels
from tests.kernels.triton_compile import SHARED_LIMIT
from tests.kernels.triton_parity import compiled, launches, randn, same_with_gradients

ROWS = [0, 1, 5, 33]


def doubles(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("count", "dim"), [(1, 4), (2, 1), (5, 3), (27, 16)])
def test_references(rows: int, count: int, dim: int) -> None:
    """Pair by pair, in the order (1, 0), (2, 0), (2, 1) …"""
    vectors = doubles(rows, count, dim)
    pairs = [(i, j) for i in range(count) for j in range(i)]
    expected = np.zeros((rows, len(pairs)))
    for row in range(rows):
        for column, (i, j) in enumerate(pairs):
            expected[row, column] = vectors[row, i].numpy() @ vectors[row, j].numpy()
    np.testing.assert_allclose(dot(vectors).numpy(), expected, rtol=1e-12, atol=1e-12)
    both = dot(vectors, concat_first=True)
    np.testing.assert_array_equal(both[:, :dim].numpy(), vectors[:, 0].numpy())
    np.testing.assert_array_equal(both[:, dim:].numpy(), dot(vectors).numpy())
    np.testing.assert_allclose(fm(vectors).numpy(), expected.sum(1, keepdims=True), rtol=1e-10, atol=1e-10)


def test_fm_is_the_sum_over_combinations() -> None:
    """Rendle's example: v_i x_i as vectors give Σ_{i<j} ⟨v_i, v_j⟩ x_i x_j."""
    factors, values = doubles(6, 4), doubles(6)
    expected = sum(factors[i] @ factors[j] * values[i] * values[j] for i, j in combinations(range(6), 2))
    torch.testing.assert_close(fm((factors * values[:, None])[None])[0, 0], expected)


def test_gradients_of_the_references() -> None:
    vectors = doubles(3, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(dot, (vectors,))
    assert torch.autograd.gradcheck(lambda v: dot(v, concat_first=True), (vectors,))
    assert torch.autograd.gradcheck(fm, (vectors,))


def check(rows: int, count: int, dim: int) -> None:
    vectors = [randn(rows, count, dim)]
    same_with_gradients(lambda v: dot(v, backend="triton"), reference.dot, vectors)
    same_with_gradients(lambda v: dot(v, True, backend="triton"), lambda v: reference.dot(v, True), vectors)
    same_with_gradients(lambda v: fm(v, backend="triton"), reference.fm, vectors)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(
    ("count", "dim"), [(1, 4), (2, 1), (27, 16), (33, 150)], ids=["one vector", "one number", "R1", "several blocks"]
)
def test_triton(rows: int, count: int, dim: int) -> None:
    check(rows, count, dim)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(rows=st.integers(0, 20), count=st.integers(1, 40), dim=st.integers(1, 40))
def test_triton_on_any_shape(rows: int, count: int, dim: int) -> None:
    check(rows, count, dim)


def test_vectors_that_are_not_contiguous() -> None:
    vectors = [randn(9, 5, 7)]

    def turned(v: Tensor) -> Tensor:
        return v.permute(2, 1, 0)

    same_with_gradients(lambda v: dot(turned(v), backend="triton"), lambda v: reference.dot(turned(v)), vectors)
    same_with_gradients(lambda v: fm(turned(v), backend="triton"), lambda v: reference.fm(turned(v)), vectors)


def test_what_the_ops_mean_in_plain_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Off the GPU the ops compute the same without a kernel."""
    monkeypatch.setattr(kernels, "on_kernels", lambda x: False)
    check(5, 4, 7)


def test_compiles_for_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """The DLRM of MLPerf: 27 vectors of 128. Products of 27 rows are mma.sync; wgmma takes 64."""

    def train() -> None:
        vectors = torch.zeros((64, 27, 128), dtype=torch.bfloat16, requires_grad=True)
        torch.ops.smt.dot_triton(vectors, True).sum().backward()
        torch.ops.smt.fm_triton(vectors).sum().backward()

    found = launches(monkeypatch, [kernels], train)
    assert [launch.name for launch in found] == [
        "dot_kernel",
        "dot_backward_kernel",
        "fm_kernel",
        "fm_backward_kernel",
    ]
    for launch, result in compiled(found):
        assert result.spill_bytes == 0, launch
        assert result.shared_bytes <= SHARED_LIMIT, launch
        assert (result.mma > 0) == launch.name.startswith("dot"), launch
