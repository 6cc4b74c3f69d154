"""The MovieLens example: its sampler against the formulas, what its teacher sees, and the way from log to server."""

import json
import os
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.result import Result
from examples.movielens import factors
from examples.movielens.evaluate import FOLDER, evaluate, figures
from examples.movielens.factors import Draw, Observed, draw_prior, probability, sample
from examples.movielens.rows import SCENARIOS, Ratings, age_group, read_catalogue, read_ratings
from examples.movielens.score import score
from examples.movielens.teacher import Settings, Teacher, draw_pairs, run
from smt.serving.client import Client
from smt.serving.compile import compile_template
from smt.serving.registry import Registry
from smt.training.metrics import task_metrics
from smt.training.scenario import load_scenario
from smt.training.template import load_template
from tests.serving.support import RunningServer, wait_for
from tests.serving.test_end_to_end import smt

USERS, MOVIES = 60, 40
SMALL = Settings(rank=2, burn_in=3, draws=6, thinning=2, drawn=2000)


def write_log(folder: Path) -> None:
    """Users who like films of one half of the catalogue or of the other; ids with gaps, as the real ones have."""
    rng = np.random.default_rng(1)
    users, movies = 10 * np.arange(1, USERS + 1), 7 * np.arange(1, MOVIES + 1)
    pairs = rng.permutation(USERS * MOVIES)[:1600]
    user, movie = np.divmod(pairs, MOVIES)
    alike = (user % 2) == (movie % 2)
    rating = np.clip(np.round(2.4 + 1.8 * alike + rng.normal(0, 0.8, len(pairs))), 1, 5)
    ages = np.array([1, 18, 25, 35, 45, 50, 56])[np.arange(USERS) % 7]
    columns = {"user_id": users[user], "movie_id": movies[movie], "rating": rating}
    types = {"user_id": pa.int16(), "movie_id": pa.int16(), "rating": pa.int8()}
    table = pa.table({name: pa.array(values).cast(types[name]) for name, values in columns.items()})
    table = table.append_column("split", pa.array((np.arange(len(pairs)) % 5 == 0).astype(np.int8)))
    pq.write_table(table, folder / "ratings.parquet")
    shuffled = rng.permutation(USERS)
    catalogue = {
        "user_id": pa.array(users, pa.int16()),
        "gender": ["F" if i % 3 else "M" for i in range(USERS)],
        "age": pa.array(ages, pa.int8()),
        "occupation": pa.array(np.arange(USERS) % 4, pa.int8()),
        "zip": [str(10_000 + i % 9) for i in range(USERS)],
    }
    pq.write_table(pa.table(catalogue).take(shuffled), folder / "users.parquet")
    genres = ["Drama|War", "Comedy", "Animation|Children's|Comedy", "War"]
    films = {"movie_id": pa.array(movies, pa.int16()), "genres": [genres[i % 4] for i in range(MOVIES)]}
    pq.write_table(pa.table({**films, "title": [f"Film {i}" for i in range(MOVIES)]}), folder / "movies.parquet")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ml")
    write_log(folder)
    return folder


@pytest.fixture(scope="module")
def rows(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    run(data, folder, SMALL)
    return folder


def test_draws_of_factors_have_the_mean_and_covariance_of_their_posterior(monkeypatch: pytest.MonkeyPatch) -> None:
    """One user's factors given three films', against the formulas of the paper, written without grouping."""
    rng = np.random.default_rng(2)
    mean, inverse, noise = np.array([0.5, -0.3, 0.2]), np.diag([2.0, 1.0, 3.0]), 1.5
    monkeypatch.setattr(factors, "draw_prior", lambda before, rng: (mean, inverse))
    films = rng.normal(size=(5, 3))
    other, values = np.array([3, 0, 4]), np.array([1.0, -0.5, 0.7])
    design = np.array([[*films[m][:2], 1.0] for m in other])
    residual = [y - films[m][2] for m, y in zip(other, values, strict=True)]
    covariance = np.linalg.inv(inverse + noise * design.T @ design)
    expected = covariance @ (inverse @ mean + noise * design.T @ residual)
    groups = [np.array([0, 1, 2])] * 40_000
    drawn = factors._draw_side(np.zeros((len(groups), 3)), films, groups, other, values, noise, rng)
    assert drawn.mean(axis=0) == pytest.approx(expected, abs=0.015)
    assert np.cov(drawn.T) == pytest.approx(covariance, abs=0.015)


def test_a_user_without_ratings_is_drawn_from_the_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    mean, inverse = np.array([1.0, 2.0]), np.array([[2.0, 0.5], [0.5, 1.0]])
    monkeypatch.setattr(factors, "draw_prior", lambda before, rng: (mean, inverse))
    nothing = np.array([], dtype=np.int64)
    before = np.zeros((40_000, 2))
    rng = np.random.default_rng(3)
    groups = [nothing] * len(before)
    drawn = factors._draw_side(before, np.zeros((1, 2)), groups, nothing, nothing.astype(float), 1.0, rng)
    assert drawn.mean(axis=0) == pytest.approx(mean, abs=0.03)
    assert np.cov(drawn.T) == pytest.approx(np.linalg.inv(inverse), abs=0.05)


def test_the_prior_follows_many_factors() -> None:
    rng = np.random.default_rng(4)
    covariance = np.array([[1.0, 0.4], [0.4, 0.5]])
    many = rng.multivariate_normal([1.0, -2.0], covariance, 20_000)
    mean, inverse = draw_prior(many, rng)
    assert mean == pytest.approx([1.0, -2.0], abs=0.05)
    assert np.linalg.inv(inverse) == pytest.approx(covariance, abs=0.05)


def test_the_chain_finds_low_rank_values() -> None:
    rng = np.random.default_rng(5)
    x, z = rng.normal(size=(80, 2)), rng.normal(size=(50, 2))
    users, movies = (index.ravel() for index in np.indices((80, 50)))
    true = (x[users] * z[movies]).sum(axis=1)
    seen = rng.random(len(true)) < 0.5
    noisy = (true + rng.normal(0, 0.3, len(true)))[seen]
    observed = Observed(users[seen], movies[seen], noisy, 80, 50)
    draws = list(islice(sample(observed, 2, rng), 40, 80))
    hidden = np.mean([draw.mean(users[~seen], movies[~seen]) for draw in draws], axis=0)
    assert np.sqrt(np.mean((hidden - true[~seen]) ** 2)) < 0.15
    assert np.mean([draw.precision for draw in draws]) == pytest.approx(1 / 0.3**2, rel=0.15)
    likely = probability(draws, users[~seen], movies[~seen], 0.0)
    assert likely.mean() == pytest.approx((true[~seen] > 0).mean(), abs=0.03)
    assert task_metrics(true[~seen] > 0, likely).auc > 0.97  # type: ignore[operator]


def test_a_probability_is_the_mean_over_draws() -> None:
    draws = [
        Draw(np.array([[1.0, 0.5]], np.float32), np.array([[2.0, 0.25]], np.float32), 4.0),
        Draw(np.array([[0.0, 0.0]], np.float32), np.array([[0.0, 1.0]], np.float32), 1.0),
    ]
    zero = np.zeros(1, dtype=np.int64)
    # Φ((2.75 - 1) 2) and Φ(0)
    assert probability(draws, zero, zero, 1.0) == pytest.approx([(0.999767 + 0.5) / 2], abs=1e-5)


def test_drawn_pairs_have_no_rating_and_are_as_popular_as_rated_ones() -> None:
    rng = np.random.default_rng(6)
    users, movies = rng.integers(1, 400, 5000), (rng.random(5000) ** 2 * 300).astype(np.int64)
    chunked = [pa.chunked_array([column]) for column in (users, movies, np.ones(5000))]
    drawn = [column.to_numpy() for column in draw_pairs(Ratings(*chunked), 20_000, rng)]
    rated = set(zip(users.tolist(), movies.tolist(), strict=True))
    assert not rated & set(zip(*(column.tolist() for column in drawn), strict=True))
    assert 0.85 * 20_000 < len(drawn[0]) < 20_000
    assert drawn[1].mean() == pytest.approx(movies.mean(), rel=0.1)
    assert movies.mean() < 120  # of 300: a uniform draw would be elsewhere


def test_features_are_of_the_row_s_user_and_film(data: Path) -> None:
    catalogue, train = read_catalogue(data), read_ratings(data / "ratings.parquet")["train"]
    table = catalogue.features(train.users, train.movies).to_pylist()
    users = {row["user_id"]: row for row in pq.read_table(data / "users.parquet").to_pylist()}
    movies = {row["movie_id"]: row for row in pq.read_table(data / "movies.parquet").to_pylist()}
    ids = zip(train.users.to_pylist(), train.movies.to_pylist(), strict=True)
    for row, (user, movie) in zip(table, ids, strict=True):
        assert (row["user_id"], row["movie_id"]) == (user, movie)
        assert {name: row[name] for name in users[user]} == users[user]
        assert row["cate_id"] == movies[movie]["genres"].split("|")[0]
        assert row["scenario"] == (0 if row["age"] < 25 else 1 if row["age"] == 25 else 2)


def test_ages_have_the_groups_of_the_benchmark() -> None:
    assert age_group(pa.chunked_array([[1, 18, 25, 35, 45, 50, 56]])).to_pylist() == [0, 0, 1, 2, 2, 2, 2]


def test_an_unknown_user_is_an_error(data: Path) -> None:
    with pytest.raises(ValueError, match="found the user_id 5, of which the catalogue knows nothing"):
        read_catalogue(data).features(pa.chunked_array([[10, 5]]), pa.chunked_array([[7, 7]]))


def test_the_teacher_sees_training_rows_alone(data: Path, rows: Path, tmp_path: Path) -> None:
    """Other ratings of the validation rows change its figures on them and nothing else."""
    table = pq.read_table(data / "ratings.parquet")
    valid = table["split"].to_numpy() == 1
    turned = np.where(valid, 6 - table["rating"].to_numpy(), table["rating"].to_numpy()).astype(np.int8)
    for name in ("users", "movies"):
        (tmp_path / f"{name}.parquet").write_bytes((data / f"{name}.parquet").read_bytes())
    pq.write_table(table.set_column(2, "rating", pa.array(turned)), tmp_path / "ratings.parquet")
    content = run(tmp_path, tmp_path / "out", SMALL)
    assert pq.read_table(tmp_path / "out" / "train.parquet").equals(pq.read_table(rows / "train.parquet"))
    before = json.loads((rows / "teacher.json").read_text())
    assert content["valid"]["all"]["auc"] < 0.3 < 0.7 < before["valid"]["all"]["auc"]


def test_labels_of_training_rows_are_partly_their_own(data: Path, rows: Path) -> None:
    catalogue, train = read_catalogue(data), read_ratings(data / "ratings.parquet")["train"]
    said = Teacher(train, catalogue, SMALL)(train.users, train.movies)
    expected = {
        (user, movie): 0.8 * p + 0.2 * liked
        for user, movie, p, liked in zip(
            *(column.to_pylist() for column in (train.users, train.movies)), said, train.liked.to_pylist(), strict=True
        )
    }
    table = pq.read_table(rows / "train.parquet")
    assert table.num_rows > len(said)
    columns = (table[name].to_pylist() for name in ("user_id", "movie_id", "liked"))
    found = {(u, m): p for u, m, p in zip(*columns, strict=True) if (u, m) in expected}
    assert found == pytest.approx(expected, abs=1e-5)


def test_figures_of_all_rows_are_not_the_mean_of_groups() -> None:
    parts = [
        (np.array([0.0, 1.0], np.float32), np.array([0.1, 0.2], np.float32)),
        (np.array([0.0, 1.0], np.float32), np.array([0.3, 0.4], np.float32)),
        (np.array([0.0, 1.0], np.float32), np.array([0.9, 0.5], np.float32)),
    ]
    found = figures(parts)
    assert [found[name].auc for name in SCENARIOS] == [1.0, 1.0, 0.0]
    assert found["all"].auc == pytest.approx(5 / 9)


def test_one_template_serves_what_was_trained(
    rows: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the teacher's rows to scores through the server, which are those of training."""
    monkeypatch.setenv("MOVIELENS_OUTPUT", str(rows))
    scenarios = [load_scenario(FOLDER / f"{name}.yaml") for name in SCENARIOS]
    assert len({scenario.template.sha256 for scenario in scenarios}) == 1
    result = Result("quality_movielens")
    evaluate(scenarios, load_scenario(FOLDER / "control.yaml"), tmp_path / "runs", [1], result)
    [row] = result.results
    assert len(result.targets) == 4
    assert result.targets[1]["value"] == pytest.approx(row["under_25_auc"] - row["control_under_25_auc"])

    registry = Registry(tmp_path / "registry")
    compile_template(load_template(FOLDER / "template.yaml"), registry)
    for name in SCENARIOS:
        smt("publish", tmp_path / "runs" / f"{name}_seed1", "--registry", registry.root)
    valid = read_ratings(data / "ratings.parquet")["valid"]
    with RunningServer(Path(registry.root), tmp_path) as server, Client(server.target, timeout=60) as client:
        wait_for(lambda: all(client.health(name) == "SERVING" for name in SCENARIOS), "the three scenarios")
        table = read_catalogue(data).features(valid.users, valid.movies)
        scores = score(client, table)
        assert len(client.server().binaries) == 1
    metrics = task_metrics(valid.liked.to_numpy(), scores)
    assert metrics.auc == pytest.approx(row["all_auc"], abs=1e-4)
    assert metrics.logloss == pytest.approx(row["all_logloss"], abs=1e-4)


@pytest.fixture
def real_data() -> Path:
    folder = Path(os.environ.get("SMT_DATA", "")) / "movielens_1m_3scenario"
    if not os.environ.get("SMT_DATA") or not (folder / "ratings.parquet").exists():
        pytest.skip("needs MovieLens-1M, which may not be redistributed: SMT_DATA, the data sets, is not set")
    return folder


def test_real_ratings_have_the_published_groups(real_data: Path) -> None:
    catalogue, splits = read_catalogue(real_data), read_ratings(real_data / "ratings.parquet")
    assert {name: len(split.users) for name, split in splits.items()} == {"train": 800_167, "valid": 100_020}
    train = splits["train"]
    assert train.liked.to_numpy().mean() == pytest.approx(0.5752, abs=0.001)
    given = pq.read_table(real_data / "ratings.parquet", columns=["scenario", "split"])
    expected = given["scenario"].to_numpy()[given["split"].to_numpy() == 0]
    assert np.array_equal(catalogue.features(train.users, train.movies)["scenario"].to_numpy(), expected)
