"""Recipes of the ecosystem's template compared, with an executor in the place of training that scores a recipe."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from examples.ecosystem.recipe import changed, combinations, compare
from smt.training.config import ConfigError
from smt.training.cycle.execute import TEMPLATE
from smt.training.cycle.record import Record
from smt.training.cycle.store import Runner, Store
from tests.training.cycle.fakes import PlantedEffects
from tests.training.cycle.support import make_cycle


def test_values_are_combined_and_read_as_json() -> None:
    found = combinations(["epochs=2,3", "dense_optimizer.lr=1e-3,0.002"])
    assert found == [{"epochs": e, "dense_optimizer.lr": lr} for e in (2, 3) for lr in (0.001, 0.002)]
    assert combinations([]) == [{}]
    for text in ("epochs", "=3", "epochs="):
        with pytest.raises(ValueError, match="expected KEY=VALUE,VALUE"):
            combinations([text])


def test_only_the_recipe_changes() -> None:
    content = json.dumps({"template": "t", "recipe": {"epochs": 3, "dense_optimizer": {"type": "adam", "lr": 0.01}}})
    data = json.loads(changed(content, {"dense_optimizer.lr": 0.002, "early_stopping.patience": 1}))
    optimizer = {"type": "adam", "lr": 0.002}
    recipe = {"epochs": 3, "dense_optimizer": optimizer, "early_stopping": {"patience": 1}}
    assert data == {"template": "t", "recipe": recipe}


class ByDropout(PlantedEffects):
    """Higher dropout is better, scatters more on the scenario `old`, and diverges from 0.5 on."""

    def _record(self, folder: Path) -> Record:
        record = super()._record(folder)
        dropout = json.loads((folder / TEMPLATE).read_text())["recipe"]["dropout"]
        if dropout >= 0.5:
            return dataclasses.replace(record, metrics={})
        factor = 1 - dropout + (0.1 * dropout * record.seed if record.scenario == "old" else 0.0)
        metrics = {
            name: dataclasses.replace(task, ne=None if task.ne is None else task.ne * factor)
            for name, task in record.metrics.items()
        }
        return dataclasses.replace(record, metrics=metrics)


def test_the_best_mean_comes_first_and_scatter_is_that_of_seeds(tmp_path: Path) -> None:
    cycle = make_cycle(tmp_path, ["ema"])
    executor = ByDropout({})
    runner = Runner(Store(tmp_path / "store"), executor)
    recipes = combinations(["dropout=0.1,0.3,0.5"])
    found = compare(cycle.template.path, list(cycle.scenarios.values()), recipes, 3, runner)
    assert [each["recipe"]["dropout"] for each in found] == [0.3, 0.1, 0.5]
    assert len(executor.executed) == 3 * 4 * 3
    assert found[0]["ne"] == pytest.approx(0.8 * (0.7 + 0.06 / 4), abs=0.002)
    assert found[0]["worst"] == "old"
    assert found[0]["worst_scatter"] == pytest.approx(0.03 / 0.76, abs=0.003)  # the deviation of 0.73, 0.76, 0.79
    assert found[0]["scatter"] == pytest.approx(0.03 / 0.76 / 4, abs=0.001)
    assert found[2]["ne"] == 1.0  # diverged: no better than the label rate
    compare(cycle.template.path, list(cycle.scenarios.values()), recipes, 3, runner)
    assert len(executor.executed) == 3 * 4 * 3
    with pytest.raises(ConfigError, match="dropout"):
        compare(cycle.template.path, list(cycle.scenarios.values()), [{"dropout": 2}], 3, runner)
