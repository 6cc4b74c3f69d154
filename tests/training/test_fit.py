"""Fitted values against straightforward computations over the whole column."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smt.kernels.transform import FeatureTransform
from smt.training.config import ConfigError
from smt.training.features import CategoricalFeature, DenseFeature, FeatureSpec
from smt.training.fit import fit, raw_columns
from smt.training.reading import DataError, iter_batches
from smt.training.statistics import Moments, Quantiles, first_of_each
from tests.training.support import COUNTRIES, make_scenario, synthetic, write_parquet


def by_name(spec: FeatureSpec) -> dict[str, Any]:
    return {feature.name: feature for feature in spec.features}


def test_fitted_values(tmp_path: Path) -> None:
    columns = synthetic(3000, 1)
    scenario = make_scenario(tmp_path, train=columns)
    fitted = fit(scenario)
    features = by_name(fitted.spec)
    assert fitted.rows == 3000
    assert fitted.positives[0] == sum(columns["clicked"].to_pylist())
    assert fitted.labelled[1] == 3000 - columns["bought"].null_count

    logged = np.log1p(np.array([x for x in columns["price"].to_pylist() if x is not None]))
    log, clip, normalise = features["price"].steps
    assert log.op == "log"
    assert (clip.low, clip.high) == pytest.approx((logged.min(), logged.max()), rel=1e-14)
    assert (normalise.mean, normalise.std) == pytest.approx((logged.mean(), logged.std()), rel=1e-12)

    ages = np.array([40 if x is None else x for x in columns["age"].to_pylist()], dtype=float)
    assert features["age"].steps[1].mean == pytest.approx(ages.mean(), rel=1e-12)
    assert features["age"].default == 40

    counts = Counter(columns["country"].to_pylist())
    expected = sorted(counts, key=lambda value: (-counts[value], value))
    assert features["country"].encode.values == expected
    assert set(expected) == set(COUNTRIES)
    genres = Counter(genre for row in columns["genres"].to_pylist() for genre in row[:3])
    assert features["genres"].encode.values == sorted(genres, key=lambda value: (-genres[value], value))

    present = np.array([x for x in columns["age"].to_pylist() if x is not None], dtype=float)
    buckets = np.histogram(present, [-np.inf, *features["age_bucket"].encode.boundaries, np.inf])[0]
    assert len(buckets) == 8
    assert buckets.min() > 0.8 * len(present) / 8


def test_table_ranges_and_slots_follow_the_yaml(tmp_path: Path) -> None:
    changes = {"{inputs: [country], type: string": "{inputs: [country], slot: 4, type: string"}
    spec = fit(make_scenario(tmp_path, changes)).spec
    assert [(feature.name, feature.slot) for feature in spec.features] == [
        ("price", 0),
        ("age", 1),
        ("age_bucket", 0),
        ("country", 4),
        ("user", 1),
        ("genres", 2),
    ]
    row = 0
    for feature in spec.categorical:
        assert feature.first_row == row
        row += feature.rows
    assert spec.table_rows == row
    assert FeatureSpec.model_validate(json.loads(json.dumps(spec.to_json()))) == spec


def test_transformation_of_the_training_data_is_normalised(tmp_path: Path) -> None:
    scenario = make_scenario(tmp_path)
    transform = FeatureTransform(fit(scenario).spec.to_json())
    dense = []
    for batch in iter_batches(scenario, "train"):
        columns = list(raw_columns(scenario, batch).values())
        dense.append(transform.apply(batch.rows, columns).dense)
    values = np.concatenate(dense)
    age = values[:, 1]
    assert age.mean() == pytest.approx(0, abs=1e-5)
    assert age.std() == pytest.approx(1, abs=1e-5)
    present = values[values[:, 0] != 0, 0]  # a missing price is 0 without a default
    assert present.mean() == pytest.approx(0, abs=1e-5)
    assert (values[:, 2:] == 0).all()


def test_unseen_extremes_are_clipped_to_the_training_range(tmp_path: Path) -> None:
    valid = synthetic(10, 2)
    valid["price"] = pa.array([1e300] * 10)
    scenario = make_scenario(tmp_path, valid=valid)
    spec = fit(scenario).spec
    feature = spec.features[0]
    assert isinstance(feature, DenseFeature)
    _, clip, normalise = feature.steps
    batch = next(iter_batches(scenario, "valid"))
    out = FeatureTransform(spec.to_json()).apply(10, list(raw_columns(scenario, batch).values()))
    highest = (clip.high - normalise.mean) / normalise.std  # type: ignore[union-attr]
    assert out.dense[:, 0] == pytest.approx(np.full(10, highest), rel=1e-6)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("encode: {vocabulary: {min_count: 3}}", ["a", "b"]),
        ("encode: {vocabulary: {max_size: 1}}", ["a"]),
        ("encode: {vocabulary: {min_count: 9}}", []),
        ("encode: vocabulary", ["a", "b", "", "c"]),
        ("encode: vocabulary, default: z", ["a", "b", "z", "", "c"]),
    ],
)
def test_vocabularies(tmp_path: Path, entry: str, expected: list[str]) -> None:
    columns = synthetic(12, 1)
    columns["country"] = pa.array(["b", "a", "c", "a", "b", "a", "b", "a", "", None, None, "a"])
    changes = {"{inputs: [country], type: string, encode: vocabulary}": f"{{inputs: [country], type: string, {entry}}}"}
    scenario = make_scenario(tmp_path, changes, train=columns)
    feature = by_name(fit(scenario).spec)["country"]
    assert feature.encode.values == expected
    assert feature.rows == 2 + len(expected)


def test_integers_with_gaps_and_given_settings(tmp_path: Path) -> None:
    """pandas writes integers with gaps as floats; given mean, std and boundaries are taken as they are."""
    columns = synthetic(6, 1)
    columns["user"] = pa.array([3.0, None, 5.0, 5.0, float("nan"), -7.0])
    changes = {
        "{inputs: [user], type: int, encode: {hash: 50}}": "{inputs: [user], type: int, encode: vocabulary}",
        "[log, normalise]": "[{clip: [1, 2]}, {normalise: {mean: 3, std: 2.5}}]",
        "{quantiles: 8}": "[20, 30.5]",
    }
    features = by_name(fit(make_scenario(tmp_path, changes, train=columns)).spec)
    assert features["user"].encode.values == [5, -7, 3]
    assert [step.model_dump() for step in features["price"].steps] == [
        {"op": "clip", "low": 1.0, "high": 2.0},
        {"op": "normalise", "mean": 3.0, "std": 2.5},
    ]
    assert features["age_bucket"].encode.boundaries == [20.0, 30.5]


def test_constant_and_empty_columns_warn_and_stay_usable(tmp_path: Path) -> None:
    columns = synthetic(100, 1)
    columns["price"] = pa.array(np.full(100, 0.1))
    columns["age"] = pa.nulls(100, pa.int32())
    changes = {", default: 40": ""}
    scenario = make_scenario(tmp_path, changes, train=columns)
    fitted = fit(scenario)
    assert any("'price': every value" in text and "the same" in text for text in fitted.warnings)
    assert any("'age': every value of 'age' is missing" in text for text in fitted.warnings)
    features = by_name(fitted.spec)
    assert features["price"].steps[-1].std == 1.0
    assert features["age_bucket"].encode.boundaries == []
    FeatureTransform(fitted.spec.to_json())


@pytest.mark.parametrize(
    ("column", "values", "error", "message"),
    [
        ("price", [1.0, float("inf"), 2.0], DataError, "feature 'price': found inf in the column 'price'"),
        ("user", [1.0, 2.5, 3.0], DataError, "feature 'user': found 2.5 in the column 'user'; expected integers"),
        ("clicked", [0, 1, 2], ConfigError, "found the label"),
    ],
)
def test_values_that_do_not_fit(
    tmp_path: Path, column: str, values: list[float], error: type[Exception], message: str
) -> None:
    columns = synthetic(3, 1)
    columns[column] = pa.array(values)
    label = {"label: clicked == 1": "label: clicked"} if column == "clicked" else {}
    with pytest.raises(error, match=message):
        fit(make_scenario(tmp_path, label, train=columns))


def test_a_filter_that_keeps_no_row(tmp_path: Path) -> None:
    scenario = make_scenario(tmp_path, {"valid.parquet": "valid.parquet\n  filter: age > 500"})
    with pytest.raises(ConfigError, match=r"shop\.yaml:6: data\.filter: found no training row where age > 500"):
        fit(scenario)


@pytest.mark.parametrize(
    ("column", "values", "field", "found"),
    [
        ("price", pa.array(["1"] * 5), "features[0].type", "type string"),
        ("country", pa.array([1] * 5), "features[3].type", "type int64"),
        ("user", pa.array(["u"] * 5), "features[4].type", "type string"),
        ("age", pa.array([[1]] * 5), "features[1].type", "type list"),
        ("price", pa.array([1] * 5, pa.timestamp("s")), "features[0].type", "type timestamp"),
        ("country", None, "features[3].inputs", "the unknown column 'country'"),
        ("clicked", None, "tasks[0].label", "the unknown column 'clicked'"),
    ],
)
def test_columns_that_do_not_fit(tmp_path: Path, column: str, values: pa.Array | None, field: str, found: str) -> None:
    columns = synthetic(5, 1)
    if values is None:
        columns["clicks_and_country"] = columns.pop(column)
    else:
        columns[column] = values
    scenario = make_scenario(tmp_path, train=columns)
    with pytest.raises(ConfigError) as caught:
        fit(scenario)
    problem = next(problem for problem in caught.value.problems if problem.field == field)
    assert found in problem.found
    assert problem.line > 1


def test_every_file_of_a_split_is_checked(tmp_path: Path) -> None:
    scenario = make_scenario(tmp_path, {"train: train.parquet": "train: [train.parquet, 'more-*.parquet']"}, train=50)
    with pytest.raises(ConfigError, match=r"data\.train\[1\]: found a pattern without a matching file"):
        scenario.files("train")
    columns = synthetic(30, 5)
    write_parquet(tmp_path / "more-1.parquet", columns)
    assert fit(scenario).rows == 80
    del columns["price"]
    write_parquet(tmp_path / "more-2.parquet", columns)
    with pytest.raises(ConfigError, match=r"unknown column 'price'.*more-2\.parquet"):
        fit(scenario)
    (tmp_path / "more-2.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"more-2\.parquet: found .*; expected a parquet file"):
        fit(scenario)


def test_environment_variables_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = make_scenario(
        tmp_path / "a",
        {"train: train.parquet": "train: ${SMT_TEST_DIR}/x.parquet", "valid: valid": "valid: ${SMT_TEST_NO:-.}/valid"},
    )
    monkeypatch.delenv("SMT_TEST_DIR", raising=False)
    with pytest.raises(ConfigError, match="unset environment variable SMT_TEST_DIR"):
        scenario.files("train")
    monkeypatch.setenv("SMT_TEST_DIR", str(tmp_path))
    write_parquet(tmp_path / "x.parquet", synthetic(5, 1))
    assert scenario.files("train") == [tmp_path / "x.parquet"]
    assert scenario.files("valid") == [tmp_path / "a" / "valid.parquet"]


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(-1e6, 1e6), max_size=20), max_size=6))
def test_moments_do_not_depend_on_batches(batches: list[list[float]]) -> None:
    moments = Moments()
    for batch in batches:
        moments.update(np.array(batch, dtype=np.float64))
    values = np.array([x for batch in batches for x in batch])
    assert moments.count == len(values)
    if len(values):
        assert moments.mean == pytest.approx(values.mean(), rel=1e-9, abs=1e-6)
        assert moments.std == pytest.approx(values.std(), rel=1e-6, abs=1e-3)
        assert (moments.low, moments.high) == (values.min(), values.max())


@settings(deadline=None)
@given(st.lists(st.integers(-20, 20), min_size=1, max_size=200), st.integers(2, 30))
def test_quantile_buckets(values: list[int], buckets: int) -> None:
    quantiles = Quantiles(0)
    quantiles.update(np.array(values, dtype=np.float64))
    boundaries = quantiles.boundaries(buckets)
    assert len(boundaries) <= buckets - 1
    assert all(a < b for a, b in pairwise(boundaries))
    assert set(boundaries) <= set(map(float, values))
    filled = np.histogram(values, [-np.inf, *boundaries, np.inf])[0]
    assert (filled > 0).all()
    if buckets >= len(set(values)):
        assert len(filled) == len(set(values))


def test_frequent_values_get_buckets_of_their_own() -> None:
    quantiles = Quantiles(0)
    quantiles.update(np.array([0.0] * 950 + list(range(1, 51))))
    assert quantiles.boundaries(6) == [1.0, 11.0, 21.0, 31.0, 41.0]


def test_quantiles_of_a_sample_are_close_and_repeatable() -> None:
    def sampled() -> list[float]:
        quantiles = Quantiles(3, limit=2000)
        for seed in range(40):
            quantiles.update(np.random.default_rng(seed).random(1000))
        assert quantiles.sampled
        return quantiles.boundaries(4)

    assert sampled() == sampled()
    assert sampled() == pytest.approx([0.25, 0.5, 0.75], abs=0.05)


def test_first_of_each_row() -> None:
    kept = first_of_each(np.array([0, 3, 1, 2], dtype=np.int32), 2)
    assert kept is not None
    assert kept.tolist() == [True, True, False, True, True, True]
    assert first_of_each(np.array([1, 2], dtype=np.int32), 2) is None


def test_categorical_feature_is_what_the_kernel_reads(tmp_path: Path) -> None:
    spec = fit(make_scenario(tmp_path, train=100)).spec
    assert isinstance(spec.features[2], CategoricalFeature)
    transform = FeatureTransform(spec.to_json())
    assert (transform.dense_slots, transform.categorical_slots, transform.table_rows) == (4, 6, spec.table_rows)
    assert [info.name for info in transform.inputs] == spec.inputs
