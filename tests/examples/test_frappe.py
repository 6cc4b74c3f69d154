"""The Frappe example: its statistics against loops over the log, what its teacher may not see, and real rows."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from bench.result import Result
from examples.frappe.candidates import likely_apps, unused_apps
from examples.frappe.evaluate import FOLDER, evaluate
from examples.frappe.rows import FIELDS, FILES, ITEM, SIZES, USER, Labelled, Rows, read, write
from examples.frappe.statistics import NAMES, Statistics, out_of_fold
from examples.frappe.teacher import Settings, fit_teacher, labelled_rows
from smt.training.scenario import load_scenario

USERS, ITEMS = 12, 15


@pytest.fixture(autouse=True)
def _small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer users and items, so that loops over all of them are quick; real data has its own sizes."""
    if "real" not in request.node.name:
        monkeypatch.setitem(SIZES, "user", USERS)
        monkeypatch.setitem(SIZES, "item", ITEMS)


def log(rows: int, seed: int) -> Rows:
    """Random uses: user 0 has none, item 0 is nobody's, popular ones are used again and again."""
    rng = np.random.default_rng(seed)
    columns = [rng.integers(0, size, rows) for size in SIZES.values()]
    columns[USER] = rng.integers(1, USERS, rows)
    columns[ITEM] = 1 + (rng.random(rows) ** 2 * (ITEMS - 1)).astype(np.int64)
    return np.stack(columns, axis=1).astype(np.int64)


def column(statistics: Statistics, rows: Rows, name: str) -> list[float]:
    return [float(value) for value in statistics.features(rows)[:, NAMES.index(name)]]


def everywhere() -> Rows:
    """Every user with every item, in random contexts."""
    rows = log(USERS * ITEMS, 9)
    rows[:, USER], rows[:, ITEM] = np.divmod(np.arange(USERS * ITEMS), ITEMS)
    return rows


@pytest.fixture
def positives() -> Rows:
    return log(60, 1)


def apps_of(positives: Rows) -> list[set[int]]:
    return [{int(row[ITEM]) for row in positives if row[USER] == user} for user in range(USERS)]


def users_of(positives: Rows) -> list[set[int]]:
    return [{int(row[USER]) for row in positives if row[ITEM] == item} for item in range(ITEMS)]


def cosine(sets: list[set[int]], a: int, b: int) -> float:
    if a == b:
        return 0.0
    return len(sets[a] & sets[b]) / math.sqrt((len(sets[a]) + 1) * (len(sets[b]) + 1))


def test_neighbours_of_users_and_of_apps(positives: Rows) -> None:
    apps, users = apps_of(positives), users_of(positives)
    statistics, rows = Statistics(positives), everywhere()
    expected: dict[str, list[float]] = {name: [] for name in ("cosine", "nearest", "lift", "neighbours")}
    for row in rows:
        user, item = int(row[USER]), int(row[ITEM])
        near = [cosine(users, app, item) for app in apps[user]]
        expected["cosine"].append(sum(near))
        expected["nearest"].append(max(near, default=0.0))
        given = [len(users[app] & users[item]) / (len(users[app]) + 5) for app in apps[user] if app != item]
        expected["lift"].append(sum(given) / max(len(apps[user]), 1))
        expected["neighbours"].append(sum(cosine(apps, user, other) for other in users[item]))
    for name, values in expected.items():
        assert column(statistics, rows, name) == pytest.approx(values, abs=1e-5), name


def test_counts(positives: Rows) -> None:
    statistics, rows = Statistics(positives), np.concatenate([everywhere(), positives])
    used = [[int(p[USER]) == row[USER] and int(p[ITEM]) == row[ITEM] for p in positives] for row in rows]
    assert column(statistics, rows, "uses") == [sum(matches) for matches in used]
    for field, name in ((USER, "user_uses"), (ITEM, "item_uses")):
        assert column(statistics, rows, name) == [int((positives[:, field] == row[field]).sum()) for row in rows]
    weather = FIELDS.index("weather")
    both = [int(((positives[:, ITEM] == r[ITEM]) & (positives[:, weather] == r[weather])).sum()) for r in rows]
    alone = [int((positives[:, weather] == row[weather]).sum()) for row in rows]
    assert column(statistics, rows, "count_weather") == both
    assert column(statistics, rows, "share_weather") == pytest.approx(
        [b / (a + 1) for b, a in zip(both, alone, strict=True)]
    )
    fields = [FIELDS.index(name) for name in ("user", "item", "daytime", "weekday")]
    alike = [int((positives[:, fields] == row[fields]).all(axis=1).sum()) for row in rows]
    assert column(statistics, rows, "total_use_time") == alike
    assert sum(alike) >= len(positives)


def test_full_rank_gives_back_the_normalised_uses(positives: Rows) -> None:
    statistics = Statistics(positives)
    used = statistics.uses > 0
    scale = np.sqrt(np.outer(used.sum(axis=1) + 1, used.sum(axis=0) + 1))
    assert statistics.pairs["rank_32"] == pytest.approx(used / scale, abs=1e-5)
    assert not np.allclose(statistics.pairs["rank_8"], used / scale, atol=1e-3)


def test_nothing_is_known_of_an_empty_user_and_an_unused_app(positives: Rows) -> None:
    statistics, rows = Statistics(positives), everywhere()
    features = statistics.features(rows)
    assert np.isfinite(features).all()
    pairs = [NAMES.index(name) for name in statistics.pairs]
    assert np.abs(features[rows[:, USER] == 0][:, pairs]).max() < 1e-6
    assert np.abs(features[rows[:, ITEM] == 0][:, pairs]).max() < 1e-6


def test_rows_out_of_fold_do_not_see_themselves() -> None:
    """Each row of a log without repetitions: in its own statistics it would count itself."""
    positives = np.unique(log(100, 3)[:, [USER, ITEM]], axis=0)
    rows = log(len(positives), 4)
    rows[:, [USER, ITEM]] = positives
    uses = NAMES.index("uses")
    assert (Statistics(rows).features(rows)[:, uses] == 1).all()
    parts = list(out_of_fold(rows, rows, 5, np.random.default_rng(0)))
    assert sum(len(positive) for positive, _ in parts) == sum(len(negative) for _, negative in parts) == len(rows)
    for positive, _ in parts:
        assert (positive[:, uses] == 0).all()
    # The other list is a split of its own: most of its rows are in the statistics that they are looked up in.
    assert sum(negative[:, uses].sum() for _, negative in parts) > len(rows) / 2


@pytest.mark.parametrize("seed", range(5))
def test_drawn_apps_are_never_a_positive_of_the_user(seed: int) -> None:
    positives = log(80, seed)
    apps = apps_of(positives)
    rng = np.random.default_rng(seed)
    for rows in (unused_apps(positives, 6, rng), likely_apps(Statistics(positives), 6, rng)):
        assert len(rows) == 6 * len(positives)
        assert not [row for row in rows if int(row[ITEM]) in apps[int(row[USER])]]
        others = [field for field in range(len(FIELDS)) if field != ITEM]
        assert np.array_equal(rows[:, others], np.repeat(positives, 6, axis=0)[:, others])


def test_likely_apps_are_likelier_than_others() -> None:
    statistics = Statistics(log(60, 2))
    rng = np.random.default_rng(1)
    lift = statistics.pairs["lift"]
    unused, likely = unused_apps(statistics.positives, 40, rng), likely_apps(statistics, 40, rng)
    assert lift[likely[:, USER], likely[:, ITEM]].mean() > 1.2 * lift[unused[:, USER], unused[:, ITEM]].mean()


def test_a_user_of_every_app_is_an_error() -> None:
    rows = log(ITEMS, 1)
    rows[:, USER], rows[:, ITEM] = 3, np.arange(ITEMS)
    with pytest.raises(ValueError, match="found user 3 with a use of every app"):
        unused_apps(rows, 1, np.random.default_rng(0))


def test_rows_are_written_with_the_ids_that_were_read(tmp_path: Path) -> None:
    data = Labelled(log(20, 1), np.linspace(0, 1, 20).astype(np.float32))
    write(tmp_path / "out" / "rows.parquet", data)
    again = read(tmp_path / "out" / "rows.parquet")
    assert np.array_equal(again.rows, data.rows)
    assert np.array_equal(again.labels, data.labels)


def test_ids_of_another_field_are_refused(tmp_path: Path) -> None:
    rows = log(20, 1)
    rows[3, FIELDS.index("city")] += SIZES["city"]
    write(tmp_path / "rows.parquet", Labelled(rows, np.zeros(20, dtype=np.float32)))
    with pytest.raises(ValueError, match=r"found city from .* expected ids from"):
        read(tmp_path / "rows.parquet")


def test_the_test_split_is_scored_as_training_scores_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows as both splits, so that two ways of scoring them can be compared; two seeds, two models."""
    labels = (log(600, 5)[:, ITEM] < ITEMS // 3).astype(np.float32)
    for name in ("valid", "test"):
        write(tmp_path / f"{name}.parquet", Labelled(log(600, 5), labels))
    write(tmp_path / "train.parquet", Labelled(log(600, 5), 0.1 + 0.8 * labels))
    (tmp_path / "teacher.json").write_text(json.dumps({"settings": {}, "valid": {}}))
    monkeypatch.setenv("FRAPPE_OUTPUT", str(tmp_path))
    result = Result("quality_frappe")
    evaluate(load_scenario(FOLDER / "app_usage.yaml"), tmp_path, tmp_path / "runs", [1, 2], result)
    for row in result.results:
        for figure in ("auc", "logloss", "ne"):
            assert row[f"test_{figure}"] == pytest.approx(row[f"valid_{figure}"], rel=1e-5)
    losses = [row["test_logloss"] for row in result.results]
    assert losses[0] != losses[1]
    assert result.extra["mean"]["test_logloss"] == pytest.approx(np.mean(losses))
    assert [target["value"] for target in result.targets] == [
        result.extra["mean"][f"test_{f}"] for f in ("auc", "logloss")
    ]
    assert "re-drawn" in result.extra["statement"]


@pytest.fixture
def real_data() -> Path:
    folder = Path(os.environ.get("SMT_DATA", "")) / "frappe_x1"
    if not os.environ.get("SMT_DATA") or not (folder / FILES["train"]).exists():
        pytest.skip("needs Frappe_x1, which may not be redistributed: SMT_DATA, the folder with frappe_x1/, is not set")
    return folder


def test_real_rows_teach_a_small_teacher(real_data: Path) -> None:
    """A share of the real rows, and few trees: still far better than chance, and labels that are probabilities."""
    train, valid = (read(real_data / FILES[name]) for name in ("train", "valid"))
    train = Labelled(train.rows[::20], train.labels[::20].copy())
    valid = Labelled(valid.rows[::10], valid.labels[::10].copy())
    settings = Settings(folds=2, models=1, max_trees=10, repeats=3, unused=1, likely=1)
    teacher = fit_teacher(train, valid, settings)
    scores = teacher(valid.rows)
    assert scores[valid.labels == 1].mean() > scores[valid.labels == 0].mean() + 0.05
    labelled = labelled_rows(teacher, train, settings)
    assert len(labelled.rows) == 3 * len(train.rows) + 2 * len(train.positives)
    assert 0 <= labelled.labels.min() < 0.3 < 0.4 < labelled.labels.max() <= 1
