"""Validation against the data, and scaffolding that passes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from smt.training.config import ConfigError
from smt.training.reading import DataError
from smt.training.scaffold import new_scenario
from smt.training.scenario import load_scenario
from smt.training.validate import ValidationReport, validate_scenario
from tests.training.support import make_scenario, synthetic, write_parquet


def without_errors(report: ValidationReport) -> ValidationReport:
    assert report.errors == []
    assert report.ok
    return report


def test_a_sound_scenario(tmp_path: Path) -> None:
    valid = synthetic(1000, 2)
    report = without_errors(validate_scenario(make_scenario(tmp_path, valid=valid)))
    assert report.rows == {"train": {"read": 3000, "kept": 3000}, "valid": {"read": 1000, "kept": 1000}}
    assert report.slots == {
        "dense": {"used": 2, "free": 2},
        "categorical": {"used": 4, "free": 2},
        "heads": {"used": 2, "free": 1},
    }
    click, buy = report.tasks
    assert click.label_rate["valid"] == pytest.approx(np.mean(valid["clicked"].to_pylist()))
    assert buy.labelled["valid"] == 1000 - valid["bought"].null_count
    assert buy.strongest_input == "age"
    assert 0.9 < (buy.strongest_input_auc or 0) < 0.999
    features = {feature.name: feature for feature in report.features}
    assert features["price"].missing == valid["price"].null_count
    assert features["country"].values == 5
    assert features["country"].unknown == 0
    assert features["genres"].missing == sum(not row for row in valid["genres"].to_pylist())
    assert report.leak_sample_rows == 3000
    json.dumps(report.to_json(), allow_nan=False)


def test_values_that_training_has_not_seen(tmp_path: Path) -> None:
    valid = synthetic(100, 2)
    valid["country"] = pa.array(["NL"] * 50 + ["XX"] * 40 + [None] * 10)
    valid["price"] = pa.nulls(100, pa.float64())
    report = without_errors(validate_scenario(make_scenario(tmp_path, valid=valid)))
    country = next(feature for feature in report.features if feature.name == "country")
    assert (country.unknown, country.missing) == (40, 10)
    assert "feature 'country': 44% of the values in data.valid are unknown" in report.warnings
    assert "feature 'price': missing in 100% of data.valid" in report.warnings


def test_errors_name_the_line(tmp_path: Path) -> None:
    columns = synthetic(100, 1)
    columns["clicked"] = pa.array(np.zeros(100, dtype=np.int8))
    scenario = make_scenario(tmp_path, train=columns, valid=100)
    report = validate_scenario(scenario)
    assert not report.ok
    (error,) = report.errors
    assert error.startswith(f"{scenario.path}:14: tasks[0].label: found only labels of 0 in data.train; allowed: both")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"valid.parquet": "valid.parquet\n  filter: age > 500"}, "data.filter: found no training row"),
        ({"valid.parquet": "valid.parquet\n  filter: age > 'x'"}, "data.filter: found a number compared with a string"),
        ({"valid.parquet": "none.parquet"}, "data.valid[0]: found no such file"),
        ({"valid.parquet": "valid.parquet\n  test: none.parquet"}, "data.test[0]: found no such file"),
        ({"[price]": "[prize]"}, "found the unknown column 'prize' (did you mean 'price'?)"),
        ({"label: clicked == 1": "label: row"}, "found the label"),
        ({"label: clicked == 1": "label: row > 5000"}, "tasks[0].label: found only labels of 0 in data.train"),
        ({"label: clicked == 1": "label: row == row"}, "tasks[0].label: found only labels of 1 in data.train"),
        ({"label: clicked == 1": "label: row == -1 and row is None"}, "tasks[0].label: found only labels of 0"),
        ({"label: clicked == 1": "label: row / 0 * 0 > 1"}, "tasks[0].label: found no labelled row"),
    ],
)
def test_mistakes(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    report = validate_scenario(make_scenario(tmp_path, changes, train=200, valid=100))
    assert any(message in error for error in report.errors), report.errors


def test_a_mistake_that_many_files_show_is_one(tmp_path: Path) -> None:
    """Files with other columns show another one."""
    changes = {"[price]": "[prize]", "train: train.parquet": "train: [train.parquet, more.parquet, other.parquet]"}
    for name in ("more", "other"):
        columns = synthetic(20, 3)
        columns[name] = columns["age"]
        write_parquet(tmp_path / f"{name}.parquet", columns if name == "other" else synthetic(20, 3))
    report = validate_scenario(make_scenario(tmp_path, changes, train=20, valid=20))
    assert len(report.errors) == 2, report.errors
    assert "/train.parquet" in report.errors[0]
    assert "/other.parquet" in report.errors[1]


def test_valid_rows_that_cannot_be_served_are_errors(tmp_path: Path) -> None:
    valid = synthetic(10, 2)
    valid["price"] = pa.array([1.0] * 9 + [float("inf")])
    report = validate_scenario(make_scenario(tmp_path, valid=valid))
    assert any("feature 'price'" in error for error in report.errors)


def test_the_same_file_twice_is_a_warning(tmp_path: Path) -> None:
    changes = {"valid.parquet": "train.parquet\n  test: [train.parquet, valid.parquet]"}
    report = without_errors(validate_scenario(make_scenario(tmp_path, changes)))
    for pair in ("data.train and data.valid", "data.train and data.test", "data.valid and data.test"):
        assert any(f"the same file is in {pair}" in warning for warning in report.warnings), pair


def leaky(rows: int, kind: str) -> dict[str, Any]:
    columns = synthetic(rows, 1)
    clicked = np.array(columns["clicked"].to_pylist())
    rng = np.random.default_rng(0)
    columns["country"] = {
        "category": pa.array([f"{'x' if y else 'z'}{rng.integers(4)}" for y in clicked]),
        "missing": pa.array(["a" if y else None for y in clicked]),
        "noisy": pa.array([f"{'x' if y ^ (rng.random() < 0.1) else 'z'}" for y in clicked]),
        "unique": pa.array([f"row {i}" for i in range(rows)]),
    }.get(kind, columns["country"])
    if kind == "number":
        columns["price"] = pa.array(np.where(clicked == 1, rng.uniform(10, 20, rows), rng.uniform(20.1, 30, rows)))
    if kind == "hole":  # not monotonic: between 10 and 20 lies one class, around it the other
        far = np.where(rng.random(rows) < 0.5, rng.uniform(0, 9.9, rows), rng.uniform(20.1, 30, rows))
        columns["price"] = pa.array(np.where(clicked == 1, rng.uniform(10, 20, rows), far))
    if kind == "list":
        columns["genres"] = pa.array([["clicked"] if y else ["drama"] for y in clicked])
    return columns


@pytest.mark.parametrize(
    ("kind", "column"),
    [
        ("category", "country"),
        ("missing", "country"),
        ("number", "price"),
        ("hole", "price"),
        ("list", "genres"),
        ("noisy", None),
        ("unique", None),
    ],
)
def test_leaks(tmp_path: Path, kind: str, column: str | None) -> None:
    report = validate_scenario(make_scenario(tmp_path, train=leaky(2000, kind)))
    if column is None:
        assert report.errors == []
    else:
        (error,) = report.errors
        assert f"a label leak: {column!r} alone predicts 'click' with AUC" in error
        assert "on a sample of 2000 training rows" in error


def test_a_teachers_probabilities_are_sound_training_labels(tmp_path: Path) -> None:
    train = synthetic(3000, 1)
    train["clicked"] = pa.array([0.1 + 0.8 * clicked for clicked in train["clicked"].to_pylist()])
    changes = {"label: clicked == 1": "label: clicked"}
    report = without_errors(validate_scenario(make_scenario(tmp_path, changes, train=train)))
    (click, _) = report.tasks
    hard = sum(synthetic(3000, 1)["clicked"].to_pylist())
    assert click.positives["train"] == round(0.1 * 3000 + 0.8 * hard)


# --- scaffolding ---


def scaffolded(folder: Path, columns: dict[str, Any], template: dict[str, str] | None = None) -> Path:
    make_scenario(folder, template=template, train=columns, valid=columns)
    return new_scenario("fresh", folder / "template.yaml", folder / "train.parquet", folder / "out" / "fresh.yaml")


def test_a_scaffold_passes_validation_and_leaves_leaks_out(tmp_path: Path) -> None:
    columns = synthetic(2000, 1)
    rng = np.random.default_rng(1)
    columns["when"] = pa.array(range(2000), pa.timestamp("ms"))
    columns["constant"] = pa.array(["x"] * 2000)
    columns["visit"] = pa.array([f"s{i}" for i in range(2000)])
    columns["click_kind"] = pa.array(["mouse" if y else "none" for y in columns["clicked"].to_pylist()])
    columns["odd name: #1"] = pa.array(rng.integers(0, 5, 2000))
    columns["label_return"] = pa.array(rng.integers(0, 2, 2000))
    wide = {"dense: 4": "dense: 8", "categorical: 6": "categorical: 16"}
    path = scaffolded(tmp_path, columns, wide)
    text = path.read_text()
    scenario = load_scenario(path)
    report = without_errors(validate_scenario(scenario))
    inputs = set(scenario.inputs)
    assert inputs >= {"price", "age", "country", "user", "genres", "odd name: #1"}
    assert not inputs & {"when", "constant", "visit", "click_kind", "clicked", "label_return"}
    assert {task.name for task in scenario.tasks} == {"clicked", "bought", "return"}
    assert "click_kind (string): alone it predicts 'clicked' with AUC 1.00000: a label leak" in text
    assert "when (timestamp[ms]): its type is timestamp[ms]" in text
    assert "constant (string): it has one value in every row" in text
    assert "visit (string): nearly every row has another value" in text
    assert report.tasks[0].labelled["train"] == 2000
    assert text.count("#") > 10
    genres = next(feature for feature in scenario.features if feature.input == "genres")
    assert genres.multi_valued
    assert genres.max_length == 3


def test_a_scaffold_stays_within_the_slots(tmp_path: Path) -> None:
    columns = synthetic(500, 1) | {f"c{i}": pa.array(np.arange(500) % (i + 2)) for i in range(12)}
    path = scaffolded(tmp_path, columns)
    scenario = load_scenario(path)
    without_errors(validate_scenario(scenario))
    assert sum(feature.kind == "categorical" for feature in scenario.features) == 6
    assert "the template has no categorical slot left" in path.read_text()


def test_a_scaffold_without_a_label_says_what_to_fill_in(tmp_path: Path) -> None:
    columns = synthetic(300, 1)
    for name in ("clicked", "bought"):
        del columns[name]
    write_parquet(tmp_path / "rows.parquet", columns)
    make_scenario(tmp_path / "t", train=10, valid=10)
    path = new_scenario("fresh", tmp_path / "t" / "template.yaml", tmp_path / "rows.parquet", tmp_path / "fresh.yaml")
    text = path.read_text()
    assert "FILL IN the label" in text
    assert "CHANGE: no rows for validation were found" in text
    report = validate_scenario(load_scenario(path))
    assert any("unknown column 'FILL_IN'" in error for error in report.errors)
    path.write_text(text.replace("FILL_IN == 1", "row < 150").replace(", row", ""))
    without_errors(validate_scenario(load_scenario(path)))


def test_a_folder_with_both_splits(tmp_path: Path) -> None:
    make_scenario(tmp_path, train=300, valid=200)
    path = new_scenario("fresh", tmp_path / "template.yaml", tmp_path, tmp_path / "fresh.yaml")
    scenario = load_scenario(path)
    assert [file.name for file in scenario.files("train")] == ["train.parquet"]
    assert [file.name for file in scenario.files("valid")] == ["valid.parquet"]


def test_what_cannot_be_scaffolded(tmp_path: Path) -> None:
    make_scenario(tmp_path, train=10, valid=10)
    template, data = tmp_path / "template.yaml", tmp_path / "train.parquet"
    with pytest.raises(ConfigError, match="scenario: found 'A b'"):
        new_scenario("A b", template, data, tmp_path / "x.yaml")
    with pytest.raises(DataError, match="no such file"):
        new_scenario("a", template, tmp_path / "none.parquet", tmp_path / "x.yaml")
    with pytest.raises(DataError, match="expected a parquet file"):
        new_scenario("a", template, template, tmp_path / "x.yaml")
    with pytest.raises(FileExistsError, match="exists already"):
        new_scenario("a", template, data, tmp_path / "shop.yaml")
    assert not (tmp_path / "x.yaml").exists()
