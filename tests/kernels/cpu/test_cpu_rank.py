"""Whole networks on the CPU: random ones, rows of many scenarios, context, threads, accuracy of the reference model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smt.kernels import cpu
from smt.kernels.embedding import quantise_rows
from smt.kernels.embedding.pool import pool_rows
from smt.kernels.mlp import ACTIVATIONS
from tests.kernels.cpu.networks import ALL_KERNELS, ROWS, Batch, Network, check, using

activations = st.sampled_from(sorted(ACTIVATIONS))


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Templates: dense arch, gather, an interaction, deep arch, experts, heads; most of them optional."""

    def units() -> list[int]:
        return draw(st.lists(st.integers(1, 70), min_size=1, max_size=2))

    net = Network(draw(st.integers(1, 40)))
    exact = draw(st.booleans())
    interaction = draw(st.sampled_from(["none", "low rank", "full", "dot"]))
    dim = draw(st.integers(1, 20))
    if interaction == "dot":
        net.mlp([*units(), dim], draw(activations), exact=exact)
    elif draw(st.booleans()):
        net.mlp(units(), draw(activations), draw(st.booleans()), exact=exact)
    pooling, table = draw(st.sampled_from(["sum", "mean"])), draw(st.sampled_from(["fp32", "fp16", "int8"]))
    net.gather(draw(st.integers(1, 6)), dim, pooling, table)
    if interaction == "low rank":
        net.cross_low_rank(draw(st.integers(1, 3)), draw(st.integers(1, 40)))
    elif interaction == "full":
        net.cross_full(draw(st.integers(1, 3)))
    elif interaction == "dot":
        net.dot(dim, dense_first=draw(st.booleans()))
    if draw(st.booleans()):
        net.mlp(units(), draw(activations), draw(st.booleans()))
    tasks = draw(st.integers(1, 9))
    shared = draw(st.booleans())
    if not shared:
        net.experts(tasks, draw(st.integers(1, 6)), units(), draw(activations))
    towers = draw(st.lists(st.integers(1, 40), max_size=2))
    return net.heads(tasks, towers, draw(activations), shared=shared, probability=draw(st.booleans()))


@settings(derandomize=True, deadline=None, database=None, max_examples=40)
@given(networks(), st.sampled_from(ROWS), st.integers(0, 1000), st.integers(1, 4))
def test_random_networks(net: Network, rows: int, seed: int, slots: int) -> None:
    check(net, rows, seed, slots)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def template() -> Network:
    """Of everything something, with a matrix of one panel and a half."""
    net = Network(13).mlp([37, 20], "relu", norm=True).gather(4, 11, "mean", "fp16").cross_low_rank(2, 16)
    return net.mlp([48], "gelu").experts(3, 4, [33], "silu").heads(3, [16], "relu", shared=False, probability=True)


def every_way() -> Iterator[tuple[str, cpu.Precision]]:
    for kernels in ALL_KERNELS:
        with using(kernels):
            for precision in cpu.PRECISIONS:
                yield kernels, precision


@pytest.mark.parametrize("rows", [16, 26, 30, 47, 64, 97, 200])
def test_threads_change_no_bit(rows: int) -> None:
    net = template()
    for slots in (1, 3):
        batch = net.batch(rows, [net.slab(slot) for slot in range(slots)], seed=rows)
        for kernels, precision in every_way():
            with threads(1):
                alone = batch.run(precision)
            for count in (2, 3, 5):
                with threads(count):
                    assert torch.equal(batch.run(precision), alone), (kernels, precision, slots, count)


@pytest.mark.parametrize("rows", [48, 128, 192 + 8])
def test_mixed_slots_equal_a_call_for_each(rows: int) -> None:
    """Rows of many scenarios in one call, and the rows of each alone: the same bits."""
    net = template()
    slabs = [net.slab(slot) for slot in range(5)]
    batch = net.batch(rows, slabs, seed=rows)
    slots = batch.block_slot.repeat_interleave(cpu.ROW_BLOCK)[:rows]
    assert len(slots.unique()) > 1
    for kernels, precision in every_way():
        mixed = batch.run(precision)
        for slot in range(len(slabs)):
            mine = slots == slot
            of_slot = replace(
                batch,
                x=batch.x[mine],
                block_slot=cpu.block_slots(int(mine.sum()), slot),
                bag_index=batch.bag_index[mine],
            )
            assert torch.equal(of_slot.run(precision), mixed[mine]), (kernels, precision, slot)


def test_slots_have_their_own_weights_and_tables() -> None:
    """The same features give every slot another result, its own one."""
    net = template()
    batch = net.batch(16, [net.slab(0), net.slab(0), net.slab(1)])
    results = [replace(batch, block_slot=cpu.block_slots(16, slot)) for slot in range(3)]
    for _, precision in every_way():
        a, b, c = (result.run(precision) for result in results)
        assert not torch.equal(a, b)  # other table
        assert not torch.equal(a, c)  # other weights
    same_table = replace(results[1], pool_base=torch.zeros(3, dtype=torch.int64))
    for _, precision in every_way():
        assert torch.equal(
            same_table.run(precision), replace(results[0], pool_base=same_table.pool_base).run(precision)
        )


def bags(net: Network, rows: int, lengths: list[int], index: Tensor) -> Batch:
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    ids = torch.arange(int(offsets[-1])) % 3
    return replace(net.batch(rows, [net.slab(0)]), ids=ids, offsets=offsets, bag_index=index)


def close_everywhere(batch: Batch) -> None:
    expected = batch.reference()
    for kernels, precision in every_way():
        error = (batch.run(precision) - expected).abs().max()
        assert error <= batch.tolerance(precision), (kernels, precision)


@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("table", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("dim", [1, 7, 16, 20, 40])
def test_bags(dim: int, table: str, pooling: str) -> None:
    rows = 37
    net = Network(3).gather(3, dim, pooling, table)
    index = torch.arange(rows * 3).view(rows, 3)
    close_everywhere(bags(net, rows, [1] * (3 * rows), index))  # one id a bag
    close_everywhere(bags(net, rows, [0] * (3 * rows), index))  # no ids at all
    close_everywhere(bags(net, rows, [7, 0, 1], index % 3))  # an empty bag among others
    close_everywhere(bags(net, rows, [5, 2], torch.zeros(rows, 3, dtype=torch.int64)))  # all rows share one bag
    context = torch.stack([torch.zeros(rows, dtype=torch.int64), 1 + torch.arange(rows), torch.full((rows,), 1)], dim=1)
    close_everywhere(bags(net, rows, [9] + [2] * rows, context))  # context in two columns, candidates in one


def test_last_row_of_the_pool() -> None:
    net = Network(1).gather(1, 5, "sum", "int8")
    batch = net.batch(1, [net.slab(0)])
    last = len(batch.pool) - 1
    batch = replace(
        batch, ids=torch.tensor([last]), offsets=torch.tensor([0, 1]), bag_index=torch.zeros(1, 1, dtype=torch.int64)
    )
    close_everywhere(batch)


@pytest.mark.parametrize("dim", [1, 5, 16])
def test_pool_rows_hold_values_scale_and_bias(dim: int) -> None:
    q, scale, bias = quantise_rows(torch.randn(9, dim, generator=torch.Generator().manual_seed(0)))
    pool = pool_rows((q, scale, bias))
    assert pool.shape == (9, dim + 8)
    assert torch.equal(pool[:, :dim].contiguous().view(torch.int8), q)
    assert torch.equal(pool[:, dim:].contiguous().view(torch.float32), torch.stack([scale, bias], dim=1))
    assert pool_rows((q[:0], scale[:0], bias[:0])).shape == (0, dim + 8)
    with pytest.raises(ValueError, match=r"q: found torch.float32 \(9, "):
        pool_rows((q.float(), scale, bias))
    with pytest.raises(ValueError, match=r"bias: found torch.float32 \(8,\); expected torch.float32 \(9,\)"):
        pool_rows((q, scale, bias[1:]))


def test_reference_model() -> None:
    """R1: 13 dense, 26 ids × 16, bottom 256, three rank-64 cross layers, deep 512-256, 4 heads of 64."""
    net = Network(13).mlp([256, 16], "relu").gather(26, 16).cross_low_rank(3, 64).mlp([512, 256], "relu")
    check(net.heads(4, [64], "relu", shared=True, probability=True), 100, seed=0)


def test_ops_fit_what_torch_expects() -> None:
    """Schemas, shapes without data, and tracing."""
    net = template()
    batch = net.batch(20, [net.slab(0)])
    lookup = (batch.pool, batch.pool_base, batch.x, batch.ids, batch.offsets, batch.bag_index)
    values = net.program("bf16").values()
    torch.library.opcheck(torch.ops.smt.rank, (batch.arena("bf16"), batch.block_slot, *lookup, values))
    dense = Network(5).mlp([3], "relu")
    batch = dense.batch(20, [dense.slab(0)])
    values = dense.program("fp32").values()
    torch.library.opcheck(torch.ops.smt.tile_program, (batch.arena("fp32"), batch.block_slot, batch.x, values))


def test_export_keeps_the_op_and_a_dynamic_batch() -> None:
    net = Network(5).mlp([3], "relu")
    batch = net.batch(33, [net.slab(0)])
    values = net.program("fp32").values()

    class Model(torch.nn.Module):
        def forward(self, arena: Tensor, block_slot: Tensor, x: Tensor) -> Tensor:
            out: Tensor = torch.ops.smt.tile_program(arena, block_slot, x, values)
            return out

    rows, blocks = torch.export.Dim("rows", max=4096), torch.export.Dim("blocks", max=256)
    exported = torch.export.export(
        Model(), (batch.arena("fp32"), batch.block_slot, batch.x),
        dynamic_shapes={"arena": None, "block_slot": {0: blocks}, "x": {0: rows}},
    )  # fmt: skip
    other = net.batch(50, [net.slab(0)], seed=1)
    inputs = (other.arena("fp32"), other.block_slot, other.x)
    assert torch.equal(exported.module()(*inputs), other.run("fp32"))


def test_environment_variable_chooses_the_kernels() -> None:
    code = "from smt.kernels import cpu; print(cpu.current())"
    environment = {**os.environ, "SMT_KERNELS": "portable"}
    chosen = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert chosen.stdout == "portable\n"
    environment["SMT_KERNELS"] = "fast"
    refused = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "kernels 'fast' are not known; there are: " in refused.stderr
