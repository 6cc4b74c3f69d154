"""The bundled example: what it promises of its scenarios, and how a file's rows find their surfaces."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from examples.census.evaluate import FOLDER, OBJECTIVES, Scored, per_objective, scenarios, score_table, surface
from smt.training.scenario import Scenario
from smt.training.validate import validate_scenario


@pytest.fixture(scope="module")
def four() -> list[Scenario]:
    return scenarios()


def test_one_template_and_scenarios_of_at_most_40_lines(four: list[Scenario]) -> None:
    assert len(four) == 4
    assert len({scenario.template.sha256 for scenario in four}) == 1
    for scenario in four:
        assert len(scenario.path.read_text().splitlines()) <= 40


def test_scenarios_differ(four: list[Scenario]) -> None:
    assert len({len(scenario.features) for scenario in four}) >= 3
    assert len({len(scenario.tasks) for scenario in four}) >= 2


def test_no_label_is_a_feature(four: list[Scenario]) -> None:
    for scenario in four:
        assert "marital_stat" not in scenario.inputs
        assert not any(name.startswith("label_") for name in scenario.inputs)
        for task in scenario.tasks:
            assert not set(task.label.columns) & set(scenario.inputs)


def test_scenarios_fit_the_bundled_data(four: list[Scenario]) -> None:
    rates = set()
    for scenario in four:
        report = validate_scenario(scenario)
        assert not report.errors
        rates.add(str(report.to_json()))
    assert len(rates) == 4


def test_surfaces_of_an_objective_share_out_all_rows(four: list[Scenario]) -> None:
    rows = pq.read_table(Path(FOLDER) / "data" / "valid.parquet", columns=["class_of_worker"])
    by_name = {scenario.name: surface(scenario, rows) for scenario in four}
    for names in OBJECTIVES.values():
        together = np.sort(np.concatenate([by_name[name] for name in names]))
        assert np.array_equal(together, np.arange(rows.num_rows))


def test_scores_go_back_to_the_rows_of_the_file() -> None:
    def scored(name: str, rows: list[int], task: str, scores: list[float], labels: list[float]) -> Scored:
        return Scored(name, np.array(rows), {task: np.array(scores, np.float32)}, {task: np.array(labels)})

    results = [
        scored("income_workers", [0, 3], "income", [0.1, 0.9], [0.0, 1.0]),
        scored("income_others", [1, 2], "income", [0.5, 0.6], [0.0, 1.0]),
        scored("education_workers", [0, 3], "full_year", [0.25, 0.75], [0.0, 1.0]),
        scored("education_others", [1, 2], "college", [0.2, 0.3], [1.0, 0.0]),
    ]
    table = score_table(results, 4)
    assert table["income.income"].to_pylist() == pytest.approx([0.1, 0.5, 0.6, 0.9])
    assert table["education.full_year"].to_pylist() == [0.25, None, None, 0.75]
    assert table.schema.field("income.income").type == pa.float32()
    metrics = per_objective(results)
    assert metrics["income"]["income"].auc == 1.0
    assert metrics["income"]["income"].rows == 4
    assert metrics["education"]["full_year"].rows == 2
