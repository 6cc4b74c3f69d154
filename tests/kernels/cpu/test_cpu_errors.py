"""What the ops refuse, and that nothing they are given makes them crash."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smt.kernels import cpu
from tests.kernels.cpu.networks import ALL_KERNELS, Batch, Network, using

INT64 = torch.iinfo(torch.int64)


def ranking() -> Network:
    return Network(5).mlp([7], "relu").gather(2, 4, "sum", "fp32").heads(2, [3], "relu", shared=True)


def lookup() -> Batch:
    net = ranking()
    return net.batch(20, [net.slab(0), net.slab(1)])


def call(batch: Batch, **changes: Any) -> Tensor:
    """`rank` with some arguments exchanged."""
    arguments = {
        "arena": batch.arena("fp32"), "block_slot": batch.block_slot, "pool": batch.pool, "pool_base": batch.pool_base,
        "dense": batch.x, "ids": batch.ids, "offsets": batch.offsets, "bag_index": batch.bag_index,
        "program": batch.net.program("fp32").values(),
    }  # fmt: skip
    out: Tensor = torch.ops.smt.rank(**{**arguments, **changes})
    return out


NAMES = ("arena", "block_slot", "pool", "pool_base", "dense", "ids", "offsets", "bag_index")


def argument(batch: Batch, name: str) -> Tensor:
    tensor: Tensor = batch.arena("fp32") if name == "arena" else getattr(batch, "x" if name == "dense" else name)
    return tensor


@pytest.mark.parametrize("name", NAMES)
def test_dtypes(name: str) -> None:
    batch = lookup()
    other = argument(batch, name).to(torch.float64)
    shown = "x" if name == "dense" else name
    with pytest.raises(ValueError, match=rf"{shown}: found Double .*; expected contiguous \w+ with [12] dimensions"):
        call(batch, **{name: other})


@pytest.mark.parametrize("name", NAMES)
def test_dimensions(name: str) -> None:
    batch = lookup()
    shown = "x" if name == "dense" else name
    with pytest.raises(ValueError, match=f"{shown}: found .*; expected"):
        call(batch, **{name: argument(batch, name).unsqueeze(0)})
    with pytest.raises(ValueError, match=f"{shown}: found .*; expected"):
        call(batch, **{name: argument(batch, name).sum().to(argument(batch, name).dtype)})


@pytest.mark.parametrize("name", NAMES)
def test_strides(name: str) -> None:
    batch = lookup()
    tensor = argument(batch, name)
    strided = torch.stack([tensor, tensor], dim=-1)[..., 0]
    assert not strided.is_contiguous()
    shown = "x" if name == "dense" else name
    with pytest.raises(ValueError, match=f"{shown}: found .* strided .*; expected contiguous"):
        call(batch, **{name: strided})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("arena", lambda t: t[:, :-64].contiguous(), "arena: slots of .* bytes; the program's packed weights have"),
        ("block_slot", lambda t: t[:1], "block_slot: 1 entries for 20 rows; expected one for each 16"),
        ("block_slot", lambda t: torch.cat([t, t]), "block_slot: 4 entries for 20 rows"),
        ("block_slot", lambda t: t * 0 + 2, r"block_slot\[0\]: found 2; expected 0..1, the arena's slots"),
        ("block_slot", lambda t: torch.tensor([1, -1], dtype=torch.int32), r"block_slot\[1\]: found -1"),
        ("dense", lambda t: t[:, :4].contiguous(), "x: 4 columns; the program takes 5"),
        ("dense", lambda t: t[:16], "block_slot: 2 entries for 16 rows"),
        ("dense", lambda t: t[:19], r"bag_index: found \[20, 2\]; expected \[19, 2\]"),
        ("pool", lambda t: t[:, :3].contiguous(), "pool: 3 columns; expected 4"),
        ("pool", lambda t: t.half(), "pool: found Half"),
        ("pool_base", lambda t: t[:1], "pool_base: 1 entries; the arena has 2 slots"),
        ("bag_index", lambda t: t[:, :1].contiguous(), r"bag_index: found \[20, 1\]; expected \[20, 2\]"),
        ("bag_index", lambda t: t + 21, "bag_index: holds a number outside 0..20, the bags that offsets name"),
        ("bag_index", lambda t: t - 1, "bag_index: holds a number outside"),
        ("bag_index", lambda t: t + INT64.min, "bag_index: holds a number outside"),
        ("offsets", lambda t: t[:-1], "offsets: expected non-decreasing numbers from 0 to the"),
        ("offsets", lambda t: t[:0], "offsets: expected"),
        ("offsets", lambda t: t[:1], "offsets: expected"),
        ("offsets", lambda t: t + 1, "offsets: expected"),
        ("offsets", lambda t: t.flip(0), "offsets: expected"),
        ("offsets", lambda t: torch.cat([t[:1], t[-1:] + 1, t[2:]]), "offsets: expected"),
        ("offsets", lambda t: torch.cat([t[:1], t[:1] - 1, t[2:]]), "offsets: expected"),
        ("ids", lambda t: t[:-1], "offsets: expected non-decreasing numbers from 0 to the"),
    ],
)
def test_shapes_and_values(name: str, change: Callable[[Tensor], Tensor], message: str) -> None:
    batch = lookup()
    call(batch)
    with pytest.raises(ValueError, match=message):
        call(batch, **{name: change(argument(batch, name))})


def test_an_arena_that_is_not_aligned() -> None:
    batch = lookup()
    arena = batch.arena("fp32")
    memory = torch.empty(arena.numel() + 128, dtype=torch.uint8)
    first = -memory.data_ptr() % 64
    aligned, shifted = (memory[first + s :][: arena.numel()].view(arena.shape).copy_(arena) for s in (0, 4))
    with pytest.raises(ValueError, match="arena: not aligned to 64 bytes"):
        call(batch, arena=shifted)
    assert aligned.shape == shifted.shape


@pytest.mark.parametrize("device", ["meta"])
def test_other_devices_compute_nothing(device: str) -> None:
    batch = lookup()
    inputs = {name: argument(batch, name).to(device) for name in NAMES}
    assert call(batch, **inputs).device.type == device


@pytest.mark.parametrize("kernels", ALL_KERNELS)
@pytest.mark.parametrize("table", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize(
    ("base", "id"),
    [(0, 9), (5, 4), (0, -1), (9, 0), (-1, 0), (-1, 1), (0, INT64.max), (1, INT64.max), (INT64.max, 1),
     (INT64.max, INT64.max), (INT64.min, 0), (INT64.min, INT64.max), (0, INT64.min)],
)  # fmt: skip
def test_ids_outside_the_pool(base: int, id: int, table: str, kernels: str) -> None:
    net = Network(3).gather(1, 5, "sum", table)
    batch = net.batch(2, [net.slab(0)])
    assert len(batch.pool) < 9
    one = torch.zeros(2, 1, dtype=torch.int64)
    batch = replace(
        batch, pool_base=torch.tensor([base]), ids=torch.tensor([id]), offsets=torch.tensor([0, 1]), bag_index=one
    )
    with using(kernels), pytest.raises(IndexError, match="ids: an id lies outside the scenario's table, or its table"):
        batch.run("bf16")


def test_ids_outside_the_pool_on_threads() -> None:
    batch = lookup()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for _ in range(3):
            with pytest.raises(IndexError, match="ids: an id lies outside"):
                call(batch, ids=batch.ids + 100)
            assert torch.isfinite(call(batch)).all()
    finally:
        torch.set_num_threads(before)


def test_an_empty_pool() -> None:
    batch = lookup()
    none = {"pool": batch.pool[:0], "ids": batch.ids[:0], "offsets": batch.offsets * 0}
    assert torch.isfinite(call(batch, **none)).all()
    with pytest.raises(IndexError, match="the pool of 0 rows"):
        call(batch, pool=batch.pool[:0])


def test_the_op_that_does_not_fit_the_program() -> None:
    batch = lookup()
    values = batch.net.program("fp32").values()
    with pytest.raises(ValueError, match="program: gathers table rows; call smt::rank"):
        torch.ops.smt.tile_program(batch.arena("fp32"), batch.block_slot, batch.x, values)
    dense = Network(5).mlp([3], "relu")
    with pytest.raises(ValueError, match="program: gathers nothing; call smt::tile_program"):
        call(batch, program=dense.program("fp32").values())


def test_pack_refuses() -> None:
    net = ranking()
    program = net.program("bf16")
    with pytest.raises(ValueError, match="slab: 10 elements; the program reads"):
        cpu.pack(torch.zeros(10), program)
    with pytest.raises(ValueError, match="slab: found Double"):
        cpu.pack(net.slab(0).double(), program)
    with pytest.raises(ValueError, match=r"slab: found Float .* strided"):
        cpu.pack(torch.zeros(2 * net.elements)[::2], program)


@pytest.mark.skipif("avx2" not in cpu.available(), reason="this CPU has no AVX2, whose packed weights are others")
def test_weights_packed_for_other_kernels() -> None:
    """Every slot that rows name is looked at, and no other."""
    batch = lookup()
    values = batch.net.program("bf16").values()
    kernels = ("avx2", "portable")
    arenas = []
    for name in kernels:
        with using(name):
            arenas.append(batch.arena("bf16"))
    for name, mine, other in zip(kernels, arenas, reversed(arenas), strict=True):
        arena = torch.stack([mine[0], other[1]])
        with using(name):
            assert call(batch, arena=arena, block_slot=cpu.block_slots(20, 0), program=values).isfinite().all()
            with pytest.raises(ValueError, match=rf"arena: slot 1 was packed for other kernels than '{name}'"):
                call(batch, arena=arena, block_slot=torch.tensor([0, 1], dtype=torch.int32), program=values)


def test_kernels_that_cannot_run_here() -> None:
    before = cpu.current()
    with pytest.raises(ValueError, match=r"kernels 'neon' are not known; there are: amx, avx512_bf16, .*portable"):
        cpu.use("neon")
    for name in ("amx", "avx512_bf16", "avx512", "avx2"):
        if name not in cpu.available():
            with pytest.raises(ValueError, match=f"kernels '{name}' cannot run here: the (CPU|system) "):
                cpu.use(name)
    assert cpu.current() == before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"integer 0 \(format\): the program ends here"),
        ([2, 0, 5, 1], r"integer 1 \(format\): found 2; expected 1..1"),
        ([1, 3, 5, 1], r"\(precision\): found 3; expected 0..2"),
        ([1, 0, 0, 1], r"\(inputs\): found 0; expected 1..16777216"),
        ([1, 0, 5, 2], r"\(groups of the input\): does not divide the inputs"),
        ([1, 0, 5, 1], r"integer 4 \(step\): a program has at least one"),
        ([1, 0, 5, 1, 99], r"\(step\): found 99; expected 1.."),
        ([1, 0, 5, 1, 1, 0, 1, 3, 0, 15], r"\(gain\): the program ends here"),
        ([1, 0, 5, 1, 1, 3], r"\(activation\): found 3; expected 0..2"),
        ([1, 0, 5, 1, 1, 0, 0], r"\(layers\): found 0"),
        ([1, 0, 5, 1, 1, 0, 2000], r"\(layers\): more than 1024"),
        ([1, 0, 5, 1, 1, 0, 1, 3, -1], r"\(weight\): found -1"),
        ([1, 0, 5, 1, 1, 0, 1, 1 << 25], r"\(units\): found 33554432"),
        ([1, 0, 1 << 24, 1, 1, 0, 1, 1 << 24, 0, 0, -1], r"\(units\): the matrix is too large"),
        ([1, 2, 65537, 1, 1, 0, 1, 1, 0, 65537, -1], r"\(units\): more inputs than int8 sums of 32 bits hold"),
        ([1, 0, 6, 2, 1], r"\(mlp\): takes one group of columns, not 2"),
        ([1, 0, 6, 2, 2], r"\(gather\): takes one group"),
        ([1, 0, 6, 2, 3], r"\(cross\): takes one group"),
        ([1, 0, 6, 2, 4], r"\(cross\): takes one group"),
        ([1, 0, 6, 2, 5], r"\(dot\): takes one group"),
        ([1, 0, 6, 2, 6], r"\(experts\): takes one group"),
        ([1, 0, 5, 1, 2, 1, 4, 0, 0, 0, 2], r"\(gather\): a program has at most one"),
        ([1, 0, 1, 1, 4, 1, 0, 1, 2, 1, 4, 0, 0, 0], r"\(gather\): comes first or behind mlp"),
        ([1, 0, 5, 1, 2, 1 << 24, 1 << 24, 0, 0, 0], r"\(width\): the activations of a row are too large"),
        ([1, 0, 5, 1, 5, 2, 2, 0], r"\(dot\): vectors × dim is not the width of its input"),
        ([1, 0, 5, 1, 5, 1, 5, 0], r"\(vectors\): one vector has no pairs"),
        ([1, 0, 5, 1, 7, 0, 2, 0, 0, 0], r"\(heads\): its input has another number of groups"),
        ([1, 0, 5, 1, 7, 0, 2, 1, 0, 0, 0, 10, 1], r"\(step\): heads is the last step"),
    ],
)
def test_programs_that_are_none(values: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=f"tile program, .*{message}"):
        torch.ops.smt.packed_bytes(values)


def run_whatever_it_is(values: list[int], batch: Batch) -> None:
    """A ValueError, or a result of the size that the program says."""
    try:
        size = torch.ops.smt.packed_bytes(values)
        outputs = torch.ops.smt.outputs(values)
    except ValueError:
        return
    assert size >= 0
    assert outputs >= 1
    if size > 1 << 24:
        with pytest.raises(ValueError, match=r"slab: 1000 elements; the program reads"):
            torch.ops.smt.pack(torch.zeros(1000), values)
        return
    try:
        arena = torch.ops.smt.pack(torch.full((1 << 16,), 0.1), values)[None]
    except ValueError:
        return
    zeros = torch.zeros(2, dtype=torch.int32)
    for x in (batch.x, torch.ones(20, values[2]) if values[2] < 1000 else batch.x):
        for kernels in (cpu.current(), "emulated_amx"):
            with using(kernels):
                with suppress(ValueError):
                    assert torch.ops.smt.tile_program(arena, zeros, x, values).shape == (20, outputs)
                with suppress(ValueError):
                    changes = {"arena": arena, "block_slot": zeros, "pool_base": zeros[:1].long(), "dense": x}
                    assert call(batch, program=values, **changes).shape == (20, outputs)


integers = (
    st.integers(-2, 40)
    | st.integers(0, 8)
    | st.sampled_from([1 << 12, 1 << 16, 1 << 20, 1 << 24, (1 << 24) + 1, (1 << 31) - 1, 1 << 31, 1 << 48, 1 << 62])
    | st.sampled_from([INT64.min, INT64.max])
)
fuzzing = settings(derandomize=True, deadline=None, database=None, max_examples=400)


@fuzzing
@given(st.integers(0, 2), st.integers(1, 20), st.lists(st.integers(1, 7) | integers, max_size=40))
def test_random_integers(precision: int, inputs: int, values: list[int]) -> None:
    run_whatever_it_is([1, precision, inputs, 1, *values], lookup())


@st.composite
def mutations(draw: st.DrawFn) -> list[int]:
    precision = draw(st.sampled_from(cpu.PRECISIONS))
    nets = [
        ranking(),
        Network(5).mlp([7, 6], "silu", norm=True).gather(2, 4).cross_low_rank(2, 3).cross_full(2).mlp([9], "relu")
        .experts(2, 3, [5], "gelu").heads(2, [3], "relu", shared=False, probability=True),
        Network(5).mlp([4], "relu").gather(2, 4).dot(4, dense_first=True).heads(2, [], "relu", shared=True),
        Network(5).experts(3, 2, [4, 5], "relu"),
    ]  # fmt: skip
    values = draw(st.sampled_from(nets)).program(precision).values()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(values) - 1)) if values else 0
        kind = draw(st.sampled_from(["change", "change", "change", "insert", "delete", "cut"]))
        if kind == "change" and values:
            values[at] = draw(integers)
        elif kind == "insert":
            values.insert(at, draw(integers))
        elif kind == "delete":
            del values[at : at + 1]
        else:
            values = values[: at + 1]
    return values


@fuzzing
@given(mutations())
def test_programs_with_mistakes(values: list[int]) -> None:
    run_whatever_it_is(values, lookup())


def test_a_forked_process_computes_too() -> None:
    """It has none of the threads that its parent had; it must not wait for them."""
    net = Network(5).mlp([3], "relu")
    batch = net.batch(64, [net.slab(0)])
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = batch.run("fp32")
        child = os.fork()
        if child == 0:
            os._exit(0 if torch.equal(batch.run("fp32"), expected) else 1)
    finally:
        torch.set_num_threads(before)
    deadline = time.monotonic() + 20
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if ended == (0, 0):
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert ended == (child, 0)
