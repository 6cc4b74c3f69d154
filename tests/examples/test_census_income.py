"""The Census-Income benchmark: swapped rows and target means against loops, what its teacher sees, a short run."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.result import Result
from examples.census_income import means
from examples.census_income.evaluate import FOLDER, evaluate
from examples.census_income.means import SMOOTHING, Means, combinations, out_of_fold
from examples.census_income.rows import DATA, NUMERIC, TASKS, Encoder, labels, read, swapped, words
from examples.census_income.teacher import Settings, run
from smt.training.scenario import load_scenario
from smt.training.validate import validate_scenario

SMALL = Settings(folds=3, max_trees=25, repeats=2, drawn=700, most=0.3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first rows of the bundled data."""
    folder = tmp_path_factory.mktemp("census")
    for split, rows in (("train", 4000), ("valid", 1500)):
        pq.write_table(pq.read_table(DATA / f"{split}.parquet").slice(0, rows), folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="module")
def taught(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taught")
    run(data, folder, SMALL)
    return folder


def test_features_leave_the_labels_out(data: Path) -> None:
    train = read(data / "train.parquet")
    assert len(words(train)) == 31
    encoder = Encoder(train)
    assert len(encoder.names) == 38
    assert not {"marital_stat", *TASKS.values()} & set(encoder.names)


def test_ids_tell_values_apart_and_unknown_words_are_zero(data: Path) -> None:
    train, valid = (read(data / f"{split}.parquet") for split in ("train", "valid"))
    encoder = Encoder(train)
    rows = encoder(train)
    for column, (name, size) in enumerate(zip(encoder.names, encoder.sizes, strict=True)):
        ids = rows.ids[:, column]
        assert 0 <= ids.min() <= ids.max() < size, name
        pairs = set(zip(train[name].to_pylist(), ids.tolist(), strict=True))
        if name in words(train):
            assert len(pairs) == len(set(train[name].to_pylist())), name
            assert ids.min() >= 1
    known = set(train["country_of_birth_self"].to_pylist())
    column = encoder.names.index("country_of_birth_self")
    for word, id in zip(
        valid["country_of_birth_self"].to_pylist(), encoder(valid).ids[:, column].tolist(), strict=True
    ):
        assert (id == 0) == (word not in known)
    assert np.array_equal(rows.numbers[:, NUMERIC.index("age")], train["age"].to_numpy())


def test_bins_are_ordered_and_zero_has_its_own(data: Path) -> None:
    train = read(data / "train.parquet")
    encoder = Encoder(train)
    for name in ("dividends_from_stocks", "capital_gains"):
        ids, values = encoder(train).ids[:, encoder.names.index(name)], train[name].to_numpy()
        order = np.argsort(values, kind="stable")
        assert (np.diff(ids[order]) >= 0).all()
        assert set(ids[values == 0]) == {0}
        assert ids[values > 0].min() == 1


def test_swapped_rows_are_made_of_two_rows(data: Path) -> None:
    """Each row here is one number in every column, so that its parents can be read off."""
    table = pa.table({name: np.arange(300) for name in read(data / "train.parquet").column_names})
    drawn = swapped(table, 500, 0.4, np.random.default_rng(1))
    assert not set(TASKS.values()) & set(drawn.column_names)
    parents = [set(row.values()) for row in drawn.to_pylist()]
    assert all(1 <= len(each) <= 2 for each in parents)
    fewer = [min(list(row.values()).count(parent) for parent in set(row.values())) for row in drawn.to_pylist()]
    share = np.mean([n if len(each) == 2 else 0 for n, each in zip(fewer, parents, strict=True)]) / len(table.columns)
    assert share == pytest.approx(0.2, abs=0.03)


def test_means_are_smoothed_towards_the_base_rate() -> None:
    rng = np.random.default_rng(2)
    ids = np.stack([rng.integers(0, 4, 200), rng.integers(0, 3, 200)], axis=1)
    y = (rng.random(200) < 0.3).astype(np.float64)
    found = Means(ids[:150], y[:150], [5, 4], [(0,), (0, 1)])(ids[150:])
    base = y[:150].mean()
    for row, (one, two) in zip(ids[150:], found, strict=True):
        for mine, mean in ((ids[:150, 0] == row[0], one), ((ids[:150] == row).all(axis=1), two)):
            assert mean == pytest.approx((y[:150][mine].sum() + SMOOTHING * base) / (mine.sum() + SMOOTHING), rel=1e-5)
    assert Means(ids, y, [5, 4], [(1,)])(np.array([[0, 3]])) == pytest.approx(y.mean())


def test_out_of_fold_means_leave_a_row_s_label_out() -> None:
    """A feature that names the row: its own mean would be its label, the others' is the base rate."""
    ids, y = np.arange(60)[:, None], (np.arange(60) % 3 == 0).astype(np.float64)
    own = Means(ids, y, [60], [(0,)])(ids)[:, 0]
    assert (own[y == 1] > own[y == 0].max()).all()
    unseen = out_of_fold(ids, y, [60], [(0,)], 5, np.random.default_rng(0))[:, 0]
    assert len(set(unseen.tolist())) <= 5
    assert np.abs(unseen - y.mean()).max() < 0.1


def test_combinations_are_of_features_that_there_are(data: Path) -> None:
    encoder = Encoder(read(data / "train.parquet"))
    groups = combinations(encoder.names)
    named = {tuple(encoder.names[feature] for feature in group) for group in groups}
    assert len(named) == len(means.PAIRED) * (len(means.PAIRED) - 1) // 2 + len(means.TRIPLES)
    assert ("age", "sex") in named


def test_the_teacher_labels_training_rows_and_others(data: Path, taught: Path) -> None:
    train, table = pq.read_table(data / "train.parquet"), pq.read_table(taught / "train.parquet")
    assert table.num_rows == 2 * 4000 + 700
    assert "marital_stat" not in table.column_names
    features = [name for name in table.column_names if name not in TASKS.values()]
    assert table.slice(0, 4000).equals(table.slice(4000, 4000))
    assert table.select(features).slice(0, 4000).equals(train.select(features))
    for task, column in TASKS.items():
        said, true = table[column].to_numpy()[:4000], train[column].to_numpy()
        assert 0 < said.min() < said.max() < 1
        assert said[true == 1].mean() > said[true == 0].mean() + 0.1
        figures = json.loads((taught / "teacher.json").read_text())["valid"][task]
        assert figures["auc"] > 0.85
    assert np.array_equal(labels(pq.read_table(taught / "valid.parquet")), labels(read(data / "valid.parquet")))


def test_the_teacher_learns_nothing_from_validation_labels(data: Path, taught: Path, tmp_path: Path) -> None:
    """But how many trees it has; here as many as it may, however the validation rows are labelled."""
    valid = pq.read_table(data / "valid.parquet")
    for column in TASKS.values():
        turned = pa.array(np.roll(valid[column].to_numpy(), 1))
        valid = valid.set_column(valid.column_names.index(column), column, turned)
    pq.write_table(valid, tmp_path / "valid.parquet")
    (tmp_path / "train.parquet").write_bytes((data / "train.parquet").read_bytes())
    before = json.loads((taught / "teacher.json").read_text())
    content = run(tmp_path, tmp_path / "out", SMALL)
    told = pq.read_table(tmp_path / "out" / "train.parquet")
    same = [task for task in TASKS if content["trees"][task] == before["trees"][task]]
    for task in same:
        assert told[TASKS[task]].equals(pq.read_table(taught / "train.parquet")[TASKS[task]])
    assert content["valid"]["never_married"]["auc"] < before["valid"]["never_married"]["auc"] - 0.2


def test_the_scenario_fits_the_taught_rows(taught: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CENSUS_INCOME_OUTPUT", str(taught))
    scenario = load_scenario(FOLDER / "people.yaml")
    assert not {"marital_stat", *TASKS.values()} & set(scenario.inputs)
    assert not validate_scenario(scenario).errors


def test_a_run_is_reported_and_taken_up_again(taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CENSUS_INCOME_OUTPUT", str(taught))
    scenario = load_scenario(FOLDER / "people.yaml")
    result, again = Result("quality_census"), Result("quality_census")
    evaluate(scenario, tmp_path / "runs", [1], result)
    [row] = result.results
    values = {target["id"]: target["value"] for target in result.targets}
    assert values["census-income-auc"] == row["income_auc"]
    assert values["census-never-married-ne"] == row["never_married_ne"]
    assert values["census-flops"] == 1.0
    evaluate(scenario, tmp_path / "runs", [1], again, resume=True)
    assert again.results == [row]
