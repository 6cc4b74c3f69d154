"""Tables in float16 and int8, and the Triton kernel of the gather. test_ops.py has the float32 reference's test."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import Tensor

from smt.kernels.embedding import (
    POOLINGS,
    dequantise_rows,
    pooled_embedding,
    pooled_embedding_int8,
    quantise_rows,
)
from smt.kernels.embedding import triton as kernels
from tests.kernels.triton_parity import DEVICE, compiled, launches

Bags = tuple[Tensor, Tensor, Tensor]


def bags_of(rows: int, slots: int, table_rows: int, longest: int, seed: int = 0) -> Bags:
    """ids, offsets, bag_index: bags of 0 to `longest` ids, some of which several rows read and some none."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest + 1, size=max(1, rows * slots // 2))
    ids = rng.integers(0, table_rows, size=lengths.sum())
    index = rng.integers(0, len(lengths), size=(rows, slots))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return tuple(torch.from_numpy(array.astype(np.int64)).to(DEVICE) for array in (ids, offsets, index))  # type: ignore[return-value]


def pooled_by_hand(values: Tensor, bags: Bags, pooling: str) -> Tensor:
    ids, offsets, index = (array.cpu() for array in bags)
    pooled = []
    for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        total = values.cpu().double()[ids[begin:end]].sum(dim=0)
        pooled.append(total / max(1, end - begin) if pooling == "mean" else total)
    return torch.stack(pooled)[index]


def table_of(rows: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


tables = npst.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 9)),
    elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(tables)
def test_quantised_rows_are_off_by_half_a_step_at_most(values: np.ndarray) -> None:
    table = torch.from_numpy(values)
    q, scale, bias = quantise_rows(table)
    assert (q.dtype, scale.dtype, bias.dtype) == (torch.int8, torch.float32, torch.float32)
    step = (table.double().amax(1) - table.double().amin(1)) / 255
    rounding = 4e-7 * table.double().abs().amax(1)  # of float32, in bias and product
    error = (dequantise_rows(q, scale, bias).double() - table.double()).abs().amax(1)
    assert (error <= 0.5001 * step + rounding).all()


def test_rows_of_equal_values_are_exact() -> None:
    table = torch.tensor([[0.3] * 5, [0.0] * 5, [-7.25] * 5])
    assert torch.equal(dequantise_rows(*quantise_rows(table)), table)


def test_a_row_uses_the_whole_range() -> None:
    q, _, _ = quantise_rows(table_of(20, 16).cpu())
    assert (q.amin(1) == -128).all()
    assert (q.amax(1) == 127).all()


@pytest.mark.parametrize("backend", ["reference", "triton"])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(
    ("rows", "slots", "dim", "longest"),
    [(0, 3, 4, 2), (1, 1, 1, 1), (5, 3, 7, 4), (33, 26, 16, 1), (9, 2, 300, 3)],
    ids=["no rows", "ones", "odd", "one-hot", "wide"],
)
def test_pooled(backend: str, pooling: str, rows: int, slots: int, dim: int, longest: int) -> None:
    """Both backends on tables of all three types, against sums by hand."""
    table, bags = table_of(40, dim), bags_of(rows, slots, 40, longest)
    for values in (table, table.half()):
        got = pooled_embedding(values, *bags, pooling, backend=backend)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.cpu().double(), pooled_by_hand(values, bags, pooling), rtol=1e-5, atol=1e-5)
    q, scale, bias = quantise_rows(table)
    got = pooled_embedding_int8(q, scale, bias, *bags, pooling, backend=backend)
    assert got.dtype == torch.float32
    exact = q.double() * scale.double()[:, None] + bias.double()[:, None]
    torch.testing.assert_close(got.cpu().double(), pooled_by_hand(exact, bags, pooling), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_no_ids_at_all(backend: str) -> None:
    """Every categorical value of a request may be missing."""
    none = torch.zeros(0, dtype=torch.int64, device=DEVICE)
    offsets = torch.zeros(3, dtype=torch.int64, device=DEVICE)
    index = torch.zeros((2, 5), dtype=torch.int64, device=DEVICE)
    zeros = torch.zeros(2, 5, 3, device=DEVICE)
    table = table_of(4, 3)
    for values in (table, table.half()):
        assert torch.equal(pooled_embedding(values, none, offsets, index, "mean", backend=backend), zeros)
    got = pooled_embedding_int8(*quantise_rows(table), none, offsets, index, "mean", backend=backend)
    assert torch.equal(got, zeros)


def test_ids_outside_the_table_read_nothing() -> None:
    """The kernel's defence of its memory; that such ids do not occur is the caller's business."""
    ids = torch.tensor([-1, 2, 4, 1 << 62], device=DEVICE)
    offsets = torch.tensor([0, 4], device=DEVICE)
    table = table_of(4, 3)
    got = kernels.pooled_embedding(table, ids, offsets, torch.zeros((1, 1), dtype=torch.int64, device=DEVICE), "sum")
    torch.testing.assert_close(got[0, 0], table[2])


def test_result_of_another_dtype() -> None:
    """The dense part on a GPU takes bfloat16: the sums are rounded once."""
    table, bags = table_of(40, 8), bags_of(6, 3, 40, 3)
    exact = pooled_embedding(table, *bags, "sum", backend="triton")
    assert torch.equal(kernels.pooled_embedding(table, *bags, "sum", torch.float16), exact.half())


def test_what_the_op_means_in_plain_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Off the GPU the op computes the same without the kernel."""
    table, bags = table_of(40, 8), bags_of(6, 3, 40, 3)
    quantised = quantise_rows(table)
    got = [kernels.pooled_embedding(t, *bags, "mean", torch.float16) for t in (table, table.half())]
    got.append(kernels.pooled_embedding_int8(*quantised, *bags, "sum"))
    monkeypatch.setattr(kernels, "on_kernels", lambda x: False)
    plain = [kernels.pooled_embedding(t, *bags, "mean", torch.float16) for t in (table, table.half())]
    plain.append(kernels.pooled_embedding_int8(*quantised, *bags, "sum"))
    for a, b in zip(got, plain, strict=True):
        torch.testing.assert_close(a, b)


def test_compiles_for_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of 128 columns: nothing spills, whatever the type of the table."""
    table, bags = torch.zeros(40, 128), tuple(array.cpu() for array in bags_of(6, 26, 40, 3))

    def serve() -> None:
        for values in (table, table.half()):
            kernels.pooled_embedding(values, *bags, "mean", torch.bfloat16)
        kernels.pooled_embedding_int8(*quantise_rows(table), *bags, "sum", torch.bfloat16)

    found = launches(monkeypatch, [kernels], serve)
    assert [launch.signature["table_ptr"] for launch in found] == ["*fp32", "*fp16", "*i8"]
    for launch, result in compiled(found):
        assert result.spill_bytes == 0, launch
