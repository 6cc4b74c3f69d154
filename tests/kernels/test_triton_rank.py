"""The fused template in Triton: against the specifications, and compiled for the H100."""

from dataclasses import replace

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from bench.shapes import load_shape
from smt.kernels import cpu, triton_stages
from smt.kernels.backend import BackendError
from smt.kernels.rank.triton import FORMAT, Plan, rank_triton, split_slabs
from smt.kernels.triton_stages import launches
from smt.kernels.triton_support import compute_dtype, dot_rows
from smt.serving.fused import tile_program
from smt.training.model import slab_layout
from tests.kernels.cpu.networks import Batch, Network
from tests.kernels.triton_compile import SHARED_LIMIT
from tests.kernels.triton_parity import DEVICE
from tests.kernels.triton_programs import compile_programs

ROW_BLOCK = 64


def low_rank() -> Network:
    net = Network(7).mlp([20, 9], "relu").gather(5, 4).cross_low_rank(3, 6).mlp([17, 12], "gelu")
    return net.heads(3, [10], "relu", shared=True, probability=True)


def full() -> Network:
    net = Network(3).mlp([4], "silu", norm=True).gather(3, 4, "mean", "fp16").cross_full(3).mlp([8], "relu", norm=True)
    return net.heads(2, [], "relu", shared=True, probability=True)


def pairs() -> Network:
    net = Network(5).mlp([8], "relu").gather(6, 8).dot(8, True).mlp([16], "relu")
    return net.experts(3, 4, [12, 10], "relu").heads(3, [6, 5], "silu", shared=False)


def one_task() -> Network:
    net = Network(1).mlp([4], "relu").gather(1, 4).dot(4, False).mlp([3], "relu").experts(1, 1, [5], "relu")
    return net.heads(1, [], "relu", shared=False, probability=True)


NETWORKS = {"low rank": low_rank, "full": full, "pairs and experts": pairs, "one task": one_task}


def run(batch: Batch, row_block: int = ROW_BLOCK) -> Tensor:
    lookup = (batch.pool, batch.pool_base, batch.x, batch.ids, batch.offsets, batch.bag_index)
    slots = batch.block_slot[:: row_block // cpu.ROW_BLOCK].contiguous()
    arena = torch.stack(batch.slabs).to(DEVICE, compute_dtype(DEVICE))
    inputs = (tensor.to(DEVICE) for tensor in (slots, *lookup))
    return rank_triton(arena, *inputs, batch.net.program("bf16").values(), row_block).cpu()


def batch_of(net: Network, rows: int, slots: int = 3) -> Batch:
    """Blocks of 64 rows take turns with the slots."""
    batch = net.batch(rows, [net.slab(seed) for seed in range(slots)], seed=rows)
    per_block = torch.arange(-(-rows // ROW_BLOCK)).flip(0) % slots
    fine = per_block.repeat_interleave(ROW_BLOCK // cpu.ROW_BLOCK)[: len(batch.block_slot)]
    return replace(batch, block_slot=fine.int())


@pytest.mark.parametrize("how", ["one launch", "split"])
@pytest.mark.parametrize("rows", [0, 1, 5, 33, 150])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_scores(monkeypatch: pytest.MonkeyPatch, name: str, rows: int, how: str) -> None:
    if how == "split":  # as of templates wider than what runs in one launch, with several tiles of columns
        monkeypatch.setattr(triton_stages, "ONE_LAUNCH_WIDTH", 0)
        monkeypatch.setattr(triton_stages, "BLOCK_N", 16)
        monkeypatch.setattr("smt.kernels.rank.triton.BLOCK_N", 16)
    Plan.of.cache_clear()
    batch = batch_of(NETWORKS[name](), rows)
    found = run(batch)
    assert found.dtype == torch.float32
    tolerance = batch.tolerance("bf16" if DEVICE.type == "cuda" else "fp32")
    torch.testing.assert_close(found.double(), batch.reference(), rtol=0, atol=tolerance)


def test_exact_layers_lose_nothing_to_rounding() -> None:
    """With residuals the dense arch and the heads' last layer have float32 weights, the others bfloat16 ones."""
    net = Network(7).mlp([20, 9], "relu").gather(5, 4).cross_low_rank(2, 6).mlp([12], "relu")
    net = net.heads(3, [10], "relu", shared=True)
    exact = net.weights[:4] + net.weights[-2:]
    batch = batch_of(net, 70)
    arena = split_slabs(torch.stack(batch.slabs), compute_dtype(DEVICE)).nan_to_num(0.0)
    inputs = (batch.pool, batch.pool_base, batch.x, batch.ids, batch.offsets, batch.bag_index)
    program, elements = net.program("bf16").values(), net.elements
    program[4] = 8  # an exact mlp
    slots = batch.block_slot[:: ROW_BLOCK // cpu.ROW_BLOCK].contiguous()
    on_device = [tensor.to(DEVICE) for tensor in (arena, slots, *inputs)]
    errors = []
    for residual in (elements, 0):
        found = rank_triton(*on_device, program, ROW_BLOCK, residual).cpu()
        mixed = [slab.bfloat16().float() for slab in batch.slabs]
        for rounded, slab in zip(mixed, batch.slabs, strict=True):
            for weight in exact:
                weight.of(rounded).copy_(weight.of(slab))
        errors.append((found - replace(batch, slabs=mixed).reference()).abs().max().item())
    assert errors[0] < errors[1] / 2
    if DEVICE.type == "cpu":
        assert errors[0] < 1e-4
    with pytest.raises(ValueError, match="a slot of the arena has"):
        rank_triton(*on_device, program, ROW_BLOCK, elements + 64)


def test_ids_and_bags_outside_read_nothing() -> None:
    batch = batch_of(low_rank(), 5)
    ids, bags = batch.ids.clone(), batch.bag_index.clone()
    ids[::2] = torch.tensor([-1, 10**9, -(10**12)]).repeat(len(ids))[: len(ids[::2])]
    bags[0] = torch.tensor([-1, 10**9, -(10**12), 6, 0])
    found = run(replace(batch, ids=ids, bag_index=bags))
    assert torch.isfinite(found).all()
    emptied = replace(batch, bag_index=bags)
    torch.testing.assert_close(run(emptied)[1:], run(batch)[1:])


def test_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of(low_rank(), 5)
    with pytest.raises(ValueError, match=r"rank: dense is torch.float64 .* expected torch.float32 \[n, 7\]"):
        run(replace(batch, x=batch.x.double()))
    with pytest.raises(ValueError, match=r"rank: pool has 3 columns; the program has 4"):
        run(replace(batch, pool=batch.pool[:, :3].contiguous()))
    with pytest.raises(ValueError, match=r"rank: pool is torch.float16 .* expected torch.float32"):
        run(replace(batch, pool=batch.pool.half()))
    with pytest.raises(ValueError, match="a slot of the arena has"):
        run(replace(batch, slabs=[slab[:-16] for slab in batch.slabs]))
    with pytest.raises(ValueError, match="another backend for int8"):
        run(batch_of(Network(2).mlp([4], "relu").gather(2, 4, "sum", "int8").heads(1, [], "relu", shared=True), 3))
    with pytest.raises(ValueError, match="lacks its gather or its heads"):
        Plan(Network(2).mlp([4], "relu").program("bf16").values())
    with pytest.raises(ValueError, match="the gather has to follow the dense arch"):
        Plan(Network(2).gather(2, 4).heads(1, [], "relu", shared=True).program("bf16").values())
    with pytest.raises(ValueError, match="compute in bfloat16"):
        Plan(low_rank().program("int8").values())
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    meta = torch.empty(0, device="meta")
    with pytest.raises(BackendError, match="runs on CUDA tensors"):
        rank_triton(meta, meta, meta, meta, meta, meta, meta, meta, [], ROW_BLOCK)


def test_programs_are_those_of_the_cpu() -> None:
    assert cpu.FORMAT == FORMAT
    exact = cpu.TileProgram("bf16", 7)
    exact.mlp([cpu.Linear(4, 0, 32)], "relu", exact=True)
    exact.gather(2, 4, "sum", "fp32")
    exact.heads(1, [], "relu", (48, 64), shared=True, probability=True)
    plain = [1 if i == 4 else value for i, value in enumerate(exact.values())]
    assert exact.values() != plain
    assert Plan(exact.values()).stages == Plan(plain).stages


@triton.jit
def _product(x_ptr, w_ptr, y_ptr, K: tl.constexpr):
    m, n = tl.arange(0, 16).to(tl.int64), tl.arange(0, 16)
    acc = dot_rows(tl.zeros((16, 16), tl.float32), x_ptr, K, w_ptr, K, 1, m, n, 16, 16, K, 16)
    tl.store(y_ptr + m[:, None] * 16 + n[None, :], acc)


def test_dense_input_is_not_rounded_to_the_weights_precision() -> None:
    """In float16 for bfloat16, which the interpreter cannot compute in."""
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(16, 13, generator=generator) + 100, torch.randn(16, 13, generator=generator).half()
    y = torch.zeros(16, 16, device=DEVICE)
    _product[(1,)](x.to(DEVICE), w.to(DEVICE), y, 13)
    exact = x.double() @ w.double().T
    assert (y.cpu() - exact).abs().max() < 1e-3
    assert (x.half().double() @ w.double().T - exact).abs().max() > 1e-2


def test_compiled_for_hopper() -> None:
    """R1 and R3 are one launch, R2 one per stage; two registers spill at most, and every matrix goes through wgmma."""
    signature = dict.fromkeys(("arena_ptr", "s_ptr"), "*bf16")
    signature |= dict.fromkeys(("x_ptr", "y_ptr", "pool_ptr"), "*fp32")
    signature |= dict.fromkeys(("base_ptr", "ids_ptr", "offsets_ptr", "bags_ptr"), "*i64")
    signature |= {"slot_ptr": "*i32", "rows": "i32", "pool_rows": "i32", "bags": "i32"}
    programs = {}
    for name in ("R1", "R2", "R3"):
        template = load_shape(name).template
        elements = slab_layout(template).elements
        plan = Plan(tile_program(template, "bf16").values(), residual=elements)
        programs[name] = plan.stages, 2 * elements
    assert [len(launches(stages)) for stages, _ in programs.values()] == [1, len(programs["R2"][0]), 1]
    # Of R2 the gather, the heads, and one of each shape that test_triton_cross.py does not compile.
    some = {"R2": [0, 3, 10, 14]}
    compiled = compile_programs(programs, "smt.kernels.rank.triton_kernel:rank_kernel", signature, some)
    for name, kernels in compiled.items():
        for kernel, matrices in kernels:
            assert kernel.spill_bytes <= 16, (name, kernel)  # 8 in R3
            assert kernel.shared_bytes <= SHARED_LIMIT // 2, "two programs fit one SM"
            assert kernel.wgmma >= matrices, (name, kernel)
            assert kernel.mma == 0, (name, kernel)
