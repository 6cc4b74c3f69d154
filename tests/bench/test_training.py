"""The training benchmark: every trainer gets the same rows, and a model of the same shape."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from bench.training import OURS, SHAPES, write_rows
from bench.training_limit import flops_per_row, products_per_second
from bench.training_peers import Cross, Plain, Shape, plain
from smt.training.model import TemplateNet
from smt.training.scenario import load_scenario
from smt.training.trainer import train

SMALL = [Shape("mlp", 3, [32, 9], 4, 0, [8, 6], 0.1, 64, 400), Shape("cross", 3, [32, 9], 4, 2, [8], 0.1, 64, 400)]


@pytest.mark.parametrize("shape", SMALL, ids=lambda shape: shape.name)
def test_trainers_get_the_same_rows_and_model(shape: Shape, tmp_path: Path) -> None:
    write_rows(shape, tmp_path)
    assert Shape.load(tmp_path) == shape
    rows = np.load(tmp_path / "rows.npz")
    table = pq.read_table(tmp_path / "train.parquet")
    assert np.array_equal(rows["label"], table["label"].to_numpy())
    for name, size in zip(shape.fields, shape.sizes, strict=True):
        assert rows[name].min() >= 2  # neither missing nor unknown
        assert rows[name].max() < size
        # The same values are the same rows of the table.
        assert len(set(zip(rows[name], table[name].to_numpy(), strict=True))) == len(np.unique(table[name].to_numpy()))
    for name in shape.numbers:
        assert np.corrcoef(rows[name], np.log1p(table[name].to_numpy()))[0, 1] > 0.999

    scenario = load_scenario(tmp_path / "scenario_0.yaml")
    result = train(scenario, tmp_path / "run", epochs=1, progress=False)
    assert result.rows["train"] == shape.rows
    tables = json.loads(result.features.read_text())["features"]
    assert [feature["rows"] for feature in tables if "rows" in feature] == shape.sizes

    # Ours makes vectors of the numbers by a layer with a matrix, theirs by a vector for each.
    vectors = shape.numeric * shape.dim
    theirs = Plain(shape)
    assert sum(p.numel() for p in theirs.net.parameters()) + (shape.numeric + 1) * vectors == sum(
        p.numel() for p in TemplateNet(scenario.template).parameters()
    )
    matrices = [p for p in theirs.net.parameters() if p.dim() == 2]
    assert [(p.shape[1], p.shape[0]) for p in matrices] == shape.matrices
    assert flops_per_row(shape) == 6 * sum(p.numel() for p in matrices)
    assert products_per_second(shape, 1) > 0
    assert len(plain(shape, tmp_path, 2, 0)) == 2


def test_every_variant_of_ours_trains(tmp_path: Path) -> None:
    write_rows(SMALL[0], tmp_path)
    for variant, (tables, techniques) in enumerate(OURS.values()):
        scenario = load_scenario(tmp_path / f"scenario_{variant}.yaml")
        assert scenario.template.recipe.embedding_optimizer.type in tables
        assert bool(scenario.template.techniques) == ("name" in techniques)
        train(scenario, tmp_path / "run", epochs=1, progress=False)


def test_shapes_are_those_published() -> None:
    for shape in SHAPES:
        assert sum(shape.sizes) == 2_086_303  # (20,863,160 parameters - 13 vectors of 10) / 10
        assert (shape.numeric, len(shape.sizes), shape.batch) == (13, 26, 4096)


def test_cross_layers() -> None:
    cross = Cross(3, 2)
    x = x0 = torch.randn(5, 3)
    for layer in cross.layers:
        x = x0 * (x @ layer.weight.T + layer.bias) + x  # type: ignore[operator,union-attr]
    torch.testing.assert_close(cross(x0), x)
