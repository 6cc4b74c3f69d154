"""The training benchmark: every trainer gets the same rows, and a model of the same shape."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from bench.training import write_rows
from bench.training_peers import Cross, Plain, Shape, plain
from smt.training.model import TemplateNet
from smt.training.scenario import load_scenario
from smt.training.trainer import train

SHAPES = [Shape("mlp", [30, 7], 4, 0, [8, 6], 64, 400), Shape("cross", [30, 7], 4, 2, [8], 64, 400)]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_trainers_get_the_same_rows_and_model(shape: Shape, tmp_path: Path) -> None:
    found = write_rows(shape, tmp_path)
    assert Shape.load(tmp_path) == found
    rows = np.load(tmp_path / "rows.npz")
    table = pq.read_table(tmp_path / "train.parquet")
    for name in [*shape.fields, "label"]:
        assert np.array_equal(rows[name], table[name].to_numpy())
    for name, size in zip(shape.fields, found.sizes, strict=True):
        assert np.array_equal(np.unique(rows[name]), np.arange(size))

    scenario = load_scenario(tmp_path / "scenario.yaml")
    result = train(scenario, tmp_path / "run", epochs=1, progress=False)
    assert result.rows["train"] == shape.rows
    tables = json.loads(result.features.read_text())["features"]
    assert [feature["rows"] - 2 for feature in tables if "rows" in feature] == found.sizes

    # Ours has one dense value more in front of the first layer, and the layer that makes it of the unused dense input.
    net = TemplateNet(scenario.template)
    width = shape.dim * len(shape.sizes)
    crossing = shape.cross * ((width + 1) * (width + 2) - width * (width + 1))
    theirs = sum(p.numel() for p in Plain(found).net.parameters())
    assert sum(p.numel() for p in net.parameters()) == theirs + crossing + shape.units[0] + 2
    assert len(plain(found, tmp_path, 2, 0)) == 2


def test_cross_layers() -> None:
    cross = Cross(3, 2)
    x = x0 = torch.randn(5, 3)
    for layer in cross.layers:
        x = x0 * (x @ layer.weight.T + layer.bias) + x  # type: ignore[operator,union-attr]
    torch.testing.assert_close(cross(x0), x)
