"""Every step of a tile program against the specification of its op: all kernels, all precisions, awkward shapes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smt.kernels import cpu
from smt.kernels.mlp import ACTIVATIONS
from tests.kernels.cpu.networks import ALL_KERNELS, ROWS, Network, check, using

# Around the widths of vectors (16), panels and bf16 blocks (32) and int8 blocks (64), and anything between.
widths = st.sampled_from([1, 2, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 96, 100]) | st.integers(1, 100)
narrow = st.sampled_from([1, 3, 16, 17, 32, 33]) | st.integers(1, 40)
rows = st.sampled_from(ROWS)
activations = st.sampled_from(sorted(ACTIVATIONS))
seeds = st.integers(0, 1000)
poolings = st.sampled_from(["sum", "mean"])
tables = st.sampled_from(["fp32", "fp16", "int8"])
properties = settings(derandomize=True, deadline=None, database=None, max_examples=30)


@properties
@given(rows, widths, st.lists(widths, min_size=1, max_size=3), activations, st.booleans(), seeds)
def test_mlp(rows: int, inputs: int, units: list[int], activation: str, norm: bool, seed: int) -> None:
    check(Network(inputs).mlp(units, activation, norm), rows, seed)


@properties
@given(rows, widths, st.lists(widths, min_size=1, max_size=3), activations, st.booleans(), seeds)
def test_exact_mlp(rows: int, inputs: int, units: list[int], activation: str, norm: bool, seed: int) -> None:
    """In a program of any precision an exact mlp computes what one of fp32 does, bit for bit."""
    net, rounded = (Network(inputs).mlp(units, activation, norm, exact=exact) for exact in (True, False))
    check(net, rows, seed)
    batch = net.batch(rows, [net.slab(seed), net.slab(seed + 1)], seed)
    for kernels in ALL_KERNELS:
        with using(kernels):
            fp32 = replace(batch, net=rounded, arenas={}).run("fp32")
            for precision in cpu.PRECISIONS:
                assert torch.equal(batch.run(precision), fp32), (kernels, precision)


@properties
@given(rows, widths, st.lists(widths, min_size=1, max_size=2), st.lists(widths, min_size=1, max_size=2), seeds)
def test_exact_mlp_among_others(rows: int, inputs: int, exact: list[int], rounded: list[int], seed: int) -> None:
    """Whole floats are rounded for what comes next, and rounded activations widened for an exact mlp."""
    check(Network(inputs).mlp(rounded, "relu").mlp(exact, "silu", exact=True).mlp(rounded, "relu"), rows, seed)
    net = Network(inputs).mlp(exact, "relu", exact=True).gather(3, 5).mlp(rounded, "gelu")
    check(net.heads(2, [], "relu", shared=True, probability=True), rows, seed)


@properties
@given(rows, widths, st.integers(1, 3), widths, seeds)
def test_cross_low_rank(rows: int, inputs: int, layers: int, rank: int, seed: int) -> None:
    check(Network(inputs).cross_low_rank(layers, rank), rows, seed)


@properties
@given(rows, widths, st.integers(1, 4), seeds)
def test_cross_full(rows: int, inputs: int, layers: int, seed: int) -> None:
    check(Network(inputs).cross_full(layers), rows, seed)


@properties
@given(rows, st.integers(1, 35), st.integers(1, 40), st.booleans(), seeds)
def test_dot(rows: int, vectors: int, dim: int, dense_first: bool, seed: int) -> None:
    if vectors == 1 and not dense_first:
        vectors = 2  # one vector has no pairs
    check(Network(vectors * dim).dot(dim, dense_first), rows, seed)


@properties
@given(rows, st.integers(1, 6), narrow, st.booleans(), poolings, tables, activations, seeds)
def test_dot_of_gathered(
    rows: int, slots: int, dim: int, dense_first: bool, pooling: str, table: str, activation: str, seed: int
) -> None:
    """DLRM: the dense arch's output is the first vector."""
    net = Network(7).mlp([9, dim], activation).gather(slots, dim, pooling, table).dot(dim, dense_first)
    check(net, rows, seed)


@properties
@given(rows, narrow, st.integers(1, 5), st.sampled_from([*range(1, 9), 16, 17, 33, 48]), poolings, tables, seeds)
def test_gather(rows: int, inputs: int, slots: int, dim: int, pooling: str, table: str, seed: int) -> None:
    check(Network(inputs).gather(slots, dim, pooling, table), rows, seed)


@properties
@given(rows, narrow, st.lists(widths, min_size=1, max_size=2), activations, st.booleans(), tables, seeds)
def test_gather_behind_layers(
    rows: int, inputs: int, units: list[int], activation: str, norm: bool, table: str, seed: int
) -> None:
    """The last layer writes whole vectors into the buffer whose further columns are the gathered rows."""
    check(Network(inputs).mlp(units, activation, norm).gather(2, 5, "sum", table).mlp([8], activation), rows, seed)


@properties
@given(rows, widths, st.integers(1, 9), st.integers(1, 9), st.lists(widths, min_size=1, max_size=2), activations, seeds)
def test_experts(rows: int, inputs: int, tasks: int, count: int, units: list[int], activation: str, seed: int) -> None:
    check(Network(inputs).experts(tasks, count, units, activation), rows, seed)


@properties
@given(rows, widths, st.integers(1, 9), st.lists(narrow, max_size=2), activations, st.booleans(), seeds)
def test_heads_of_one_input(
    rows: int, inputs: int, tasks: int, units: list[int], activation: str, probability: bool, seed: int
) -> None:
    check(Network(inputs).heads(tasks, units, activation, shared=True, probability=probability), rows, seed)


@properties
@given(rows, widths, st.integers(1, 9), st.lists(narrow, max_size=2), activations, st.booleans(), seeds)
def test_heads_of_an_input_each(
    rows: int, width: int, tasks: int, units: list[int], activation: str, probability: bool, seed: int
) -> None:
    net = Network(tasks * width, groups=tasks)
    check(net.heads(tasks, units, activation, shared=False, probability=probability), rows, seed)


@properties
@given(rows, widths, st.integers(1, 9), st.integers(1, 9), widths, narrow, activations, seeds)
def test_mixtures_of_experts_reach_the_heads_unrounded(
    rows: int, inputs: int, tasks: int, count: int, expert: int, tower: int, activation: str, seed: int
) -> None:
    """In bf16 a mixture is multiplied as what bf16 holds of it, and the rest.

    Inputs and weights are numbers that bf16 holds, so mixtures are all that could be rounded: the result is as near
    the specification as in fp32. In one part it would be some 2^-9 of the mixtures off. AVX2 multiplies integers, which
    round everything, but less than bf16 does.
    """
    net = Network(inputs).experts(tasks, count, [expert], activation).heads(tasks, [tower], activation, shared=False)
    batch = net.batch(rows, [net.slab(seed).bfloat16().float(), net.slab(seed + 1).bfloat16().float()], seed)
    batch = replace(batch, x=batch.x.bfloat16().float())
    expected = batch.reference()
    for kernels in ALL_KERNELS:
        tolerance = batch.tolerance("bf16") / 16 if kernels == "avx2" else batch.tolerance("fp32")
        with using(kernels):
            error = (batch.run("bf16") - expected).abs()
        assert not rows or error.max() <= tolerance, f"{kernels}: off by {error.max()}, more than {tolerance}"


@pytest.mark.parametrize("inputs", [1, 17, 512, 5000])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_largest_sums(inputs: int, sign: float) -> None:
    """All weights and all activations as large as any: no sum of products of integers overflows."""
    net = Network(inputs).mlp([19], "relu")
    batch = net.batch(23, [torch.full((net.elements,), sign)])
    batch = replace(batch, x=torch.full((23, inputs), sign))
    expected = batch.reference()
    for precision in cpu.PRECISIONS:
        for kernels in ALL_KERNELS:
            with using(kernels):
                error = (batch.run(precision) - expected).abs().max()
            assert error <= 2e-2 * inputs, (kernels, precision)


@pytest.mark.parametrize("table", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("rows", ROWS)
def test_all_steps(rows: int, table: str) -> None:
    """`rank` of a template with all that it may have."""
    net = Network(13).mlp([37, 19], "silu", norm=True).gather(4, 11, "mean", table).cross_low_rank(2, 21)
    net.cross_full(2).mlp([70, 33], "relu").experts(3, 4, [29, 50], "gelu")
    net.heads(3, [18, 9], "relu", shared=False, probability=True)
    check(net, rows, seed=rows, slots=3)
