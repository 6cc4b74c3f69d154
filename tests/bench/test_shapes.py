"""The shapes of the kernel benchmark are those that were asked for, and their inputs are what they claim to be."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bench.shapes import (
    MEAN_LOGIT,
    TABLE_ROWS,
    blocks_of,
    load_shape,
    random_arena,
    random_batch,
    random_table,
    reference,
    split_rows,
)
from smt.kernels import cpu
from smt.kernels.cpu import ROW_BLOCK
from smt.serving.compile import MAX_DIFFERENCE, example_inputs
from smt.serving.fused import FusedFunction, tile_program
from smt.training.model import serving_function
from tests.bench.support import tiny_shape

# Multiply-adds per row, layer by layer.
DENSE_PART = {
    "R1": 13 * 256 + 256 * 16 + 3 * 2 * 432 * 64 + 432 * 512 + 512 * 256 + 4 * (256 * 64 + 64),
    "R2": 13 * 512 + 512 * 256 + 256 * 128 + 3 * 2 * 3456 * 512
    + 3456 * 1024 + 1024 * 1024 + 1024 * 512 + 512 * 256 + 256,
    "R3": 13 * 64 + 64 * 32 + 2 * 2 * 800 * 64 + 800 * 256
    + 8 * 256 * 128 + 8 * 8 * 256 + 8 * (128 * 64 + 64),
}  # fmt: skip


@pytest.mark.parametrize(("name", "mflop"), [("R1", 1.18), ("R2", 32.06), ("R3", 1.51)])
def test_floating_point_operations_of_a_row(name: str, mflop: float) -> None:
    shape = load_shape(name)
    assert shape.flops_per_row == 2 * DENSE_PART[name]
    assert round(shape.flops_per_row / 1e6, 2) == mflop


def test_every_shape_has_tables() -> None:
    for name, rows in TABLE_ROWS.items():
        shape = load_shape(name)
        assert shape.name == name
        assert shape.table_rows == rows


def test_batch_is_the_same_as_rows_and_as_bags(tmp_path: Path) -> None:
    shape = tiny_shape(tmp_path)
    batch = random_batch(shape, 33, np.random.default_rng(0))
    assert torch.equal(batch.ids[batch.bag_index], batch.rows)
    assert torch.equal(batch.rows32.long(), batch.rows)
    assert torch.equal(batch.offsets, torch.arange(33 * 3 + 1))
    assert len(batch.block_slot) == 3
    first = torch.arange(3) * shape.table_rows
    assert (batch.rows >= first).all()
    assert (batch.rows < first + shape.table_rows).all()


def test_few_rows_of_a_table_are_read_most() -> None:
    shape = load_shape("R1")
    batch = random_batch(shape, 1000, np.random.default_rng(0))
    local = batch.rows - torch.arange(26) * shape.table_rows
    assert 0.45 < (local < shape.table_rows / 16).double().mean() < 0.55


def test_batches_are_fresh(tmp_path: Path) -> None:
    shape, rng = tiny_shape(tmp_path), np.random.default_rng(0)
    first, second = random_batch(shape, 40, rng), random_batch(shape, 40, rng)
    assert not torch.equal(first.rows, second.rows)
    assert not torch.equal(first.dense, second.dense)


@pytest.mark.parametrize("kind", ["mmoe", "shared"])
def test_scores_of_random_weights_are_spread(tmp_path: Path, kind: str) -> None:
    shape = tiny_shape(tmp_path, kind)
    batch = random_batch(shape, 2000, np.random.default_rng(1))
    scores = reference(shape, random_arena(shape, 1), random_table(shape), batch)
    logits = np.log(scores / (1 - scores))
    assert (np.abs(logits.mean(axis=0) - MEAN_LOGIT) < 0.4).all()
    assert ((logits.std(axis=0) > 0.6) & (logits.std(axis=0) < 1.6)).all()


def test_reference_is_the_serving_function_of_each_rows_scenario(tmp_path: Path) -> None:
    shape = tiny_shape(tmp_path)
    arena, table = random_arena(shape, 3), random_table(shape)
    slots = np.array([2, 0, 0], np.int32)
    batch = random_batch(shape, 3 * ROW_BLOCK - 5, np.random.default_rng(0), slots)
    found = reference(shape, arena, table, batch)
    function = serving_function(shape.template).eval()
    with torch.no_grad():
        each = [function(slab, table, batch.dense, batch.ids, batch.offsets, batch.bag_index) for slab in arena]
    np.testing.assert_allclose(found[:ROW_BLOCK], each[2][:ROW_BLOCK].numpy(), atol=1e-5)
    np.testing.assert_allclose(found[ROW_BLOCK:], each[0][ROW_BLOCK:].numpy(), atol=1e-5)
    assert (each[0] - each[2]).abs().max() > 0.01


@pytest.mark.parametrize("scenarios", [1, 4, 32])
def test_rows_of_scenarios_are_padded_to_blocks(scenarios: int) -> None:
    counts = split_rows(1024, scenarios, np.random.default_rng(0))
    assert len(counts) == scenarios
    assert sum(counts) == 1024
    assert min(counts) >= 1
    slots = blocks_of(counts)
    for scenario, count in enumerate(counts):
        blocks = int((slots == scenario).sum())
        assert (blocks - 1) * ROW_BLOCK < count <= blocks * ROW_BLOCK


@pytest.mark.parametrize("name", ["R1", "R3"])
def test_the_compiler_takes_a_template_in_bf16(name: str) -> None:
    """Its check feeds random weights, on which bf16 must not be taken for a fault."""
    template = load_shape(name).template
    function, program = serving_function(template).eval(), tile_program(template, "bf16")
    inputs = example_inputs(template, 200, 1000, 900, 333, seed=4)
    slab, table, *features = inputs
    fused = FusedFunction(program)(
        cpu.pack(slab, program)[None], cpu.block_slots(200), table, torch.zeros(1, dtype=torch.int64), *features
    )
    with torch.no_grad():
        expected = function(*inputs)
    assert (fused - expected).abs().max() <= MAX_DIFFERENCE["bf16"] / 2
    assert expected.std(dim=0).min() > 0.05
