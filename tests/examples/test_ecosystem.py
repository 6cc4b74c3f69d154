"""The ecosystem of real data: its surfaces, how rows are cut and split, and a short training of every scenario."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from examples.ecosystem import prepare as preparation
from examples.ecosystem.prepare import cut, prepare
from examples.ecosystem.sources import SOURCES, movielens
from examples.ecosystem.surfaces import FOLDER, SURFACES, Surface, scenarios
from smt.training.expressions import Expression
from smt.training.reading import pieces
from smt.training.trainer import train

SPLITS = ("train", "valid", "test")


def test_every_surface_has_a_scenario_of_the_one_template() -> None:
    found = scenarios()
    assert len(found) >= 12
    assert [scenario.name for scenario in found] == [surface.name for surface in SURFACES]
    assert {path.stem for path in FOLDER.glob("*_*.yaml")} == {surface.name for surface in SURFACES}
    assert len({scenario.template.sha256 for scenario in found}) == 1
    assert len({tuple(task.name for task in scenario.tasks) for scenario in found}) >= 5
    assert all(len(scenario.path.read_text().splitlines()) <= 40 for scenario in found)


def test_no_label_is_a_feature() -> None:
    for scenario in scenarios():
        assert not {"marital_stat", "rating", "label"} & set(scenario.inputs)
        assert not [name for name in scenario.inputs if name.startswith("label_")]


def surface(rows: str) -> Surface:
    return Surface("some", "census", Expression.parse(rows))


def numbered(start: int, rows: int, units: int = 1) -> pa.Table:
    row = np.arange(start, start + rows)
    return pa.table({"row": row, "odd": row % 2, "unit": row % units})


def test_cut_takes_the_surface_and_parts_train_from_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    source = {"train": numbered(0, 1000), "test": numbered(5000, 100)}
    splits = cut(surface("odd == 1"), source)
    rows = {name: splits[name]["row"].to_numpy() for name in SPLITS}
    assert all((values % 2 == 1).all() for values in rows.values())
    assert np.array_equal(np.sort(np.concatenate([rows["train"], rows["valid"]])), np.arange(1, 1000, 2))
    assert len(rows["valid"]) == 100
    assert np.array_equal(rows["test"], np.arange(5001, 5100, 2))

    monkeypatch.setitem(preparation.MOST_ROWS, "train", 30)
    fewer = cut(surface("odd == 1"), source)["train"]["row"].to_numpy()
    assert len(fewer) == 30
    assert set(fewer) < set(rows["train"])
    assert fewer.max() > 500  # of all rows, not of the first ones
    assert np.array_equal(fewer, cut(surface("odd == 1"), source)["train"]["row"].to_numpy())


def test_cut_leaves_out_whole_units_and_the_same_ones_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(preparation.MOST_ROWS, "train", 300)
    source = {"train": numbered(0, 1000, units=50), "test": numbered(5000, 200, units=50)}
    by_user = dataclasses.replace(surface("row >= 0"), unit="unit")
    splits = cut(by_user, source)
    units = {name: set(splits[name]["unit"].to_pylist()) for name in SPLITS}
    assert units["train"] == units["test"] >= units["valid"]
    # 20 rows of each unit, of which a fifth is in valid.
    assert 10 <= len(units["train"]) <= 25
    assert splits["train"].num_rows <= 300
    for name, rows in splits.items():
        whole = source["test"] if name == "test" else source["train"]
        kept = whole.filter(pc.is_in(whole["unit"], pa.array(units["train"])))
        parts = [splits["train"], splits["valid"]] if name != "test" else [rows]
        assert sum(part.num_rows for part in parts) == kept.num_rows
    monkeypatch.setitem(preparation.MOST_ROWS, "train", 5)
    assert len(set(cut(by_user, source)["train"]["unit"].to_pylist())) == 1  # one at least, of which some rows


def test_cut_keeps_the_valid_split_that_a_source_has() -> None:
    source = {"train": numbered(0, 50), "valid": numbered(100, 20), "test": numbered(200, 20)}
    splits = cut(surface("odd == 0"), source)
    assert splits["train"]["row"].to_pylist() == list(range(0, 50, 2))
    assert splits["valid"]["row"].to_pylist() == list(range(100, 120, 2))


def test_cut_of_no_row_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"surface some: found no row of census with odd == 7"):
        cut(surface("odd == 7"), {"train": numbered(0, 50), "test": numbered(200, 20)})


def test_movielens_rows_carry_their_user_and_movie(tmp_path: Path) -> None:
    folder = tmp_path / "movielens_1m_3scenario"
    folder.mkdir()
    tables: dict[str, dict[str, list[object]]] = {
        "users": {"user_id": [7, 3], "gender": ["F", "M"], "age": [1, 56], "occupation": [4, 5], "zip": ["a", "b"]},
        "movies": {
            "movie_id": [20, 10, 30],
            "title": ["Heat (1995)", "M (Eine Stadt) (1931)", "Untitled"],
            "genres": ["Action|Drama", "Drama", "Melodrama"],
        },
        "ratings": {
            "user_id": [3, 7, 3],
            "movie_id": [10, 20, 30],
            "rating": [5, 2, 4],
            "scenario": [2, 0, 2],
            "split": [0, 0, 1],
        },
    }
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    splits = movielens(tmp_path)
    assert splits["train"].to_pylist() == [
        {"user_id": 3, "movie_id": 10, "rating": 5, "gender": "M", "age": 56, "occupation": 5, "zip": "b",
         "genres": ["Drama"], "year": 1931, "is_drama": True},
        {"user_id": 7, "movie_id": 20, "rating": 2, "gender": "F", "age": 1, "occupation": 4, "zip": "a",
         "genres": ["Action", "Drama"], "year": 1995, "is_drama": True},
    ]  # fmt: skip
    (other,) = splits["test"].to_pylist()
    assert (other["is_drama"], other["year"]) == (False, None)


@pytest.mark.parametrize("source", SOURCES)
def test_every_scenario_trains_on_real_rows(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.environ.get("SMT_DATA")
    if source != "census" and not data:
        pytest.skip(f"needs the rows of {source}, which may not be redistributed: SMT_DATA, their folder, is not set")
    for split in SPLITS:
        monkeypatch.setitem(preparation.MOST_ROWS, split, 1500)
    written = prepare(Path(data or ""), tmp_path / "data", [source])
    assert list(written) == [each.name for each in SURFACES if each.source == source]
    for rows in written.values():
        assert 0 < min(rows.values()) <= max(rows.values()) <= 1500
    monkeypatch.setenv("ECOSYSTEM_DATA", str(tmp_path / "data"))
    for scenario in scenarios():
        if scenario.name in written:
            result = train(scenario, tmp_path / "runs" / scenario.name, epochs=1, progress=False)
            assert result.rows == {split: written[scenario.name][split] for split in ("train", "valid")}
            assert sum(piece.rows for piece in pieces(scenario, "test")) == written[scenario.name]["test"]
            for metrics in result.metrics.values():
                assert 0 < metrics.positives < metrics.rows
                assert metrics.logloss is not None
                assert metrics.logloss < 0.75  # that of guessing is 0.69
