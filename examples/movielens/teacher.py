"""A teacher for MovieLens-1M, and the training rows that it labels.

    python -m examples.movielens.teacher --data DIR --output build/movielens

A rating says more than its label, and every user's ratings say something of every film; both are lost on a network that
reads labels alone. So a Bayesian matrix factorisation (factors.py) learns from the ratings of the training rows, and
then labels rows for the networks to learn from (distillation, arXiv 1503.02531): the training rows, and pairs of users
and films that are drawn. The teacher knows training rows only, and no features but the two ids. No setting is fitted to
the validation split; it is scored once, for the figures.

Writes train.parquet (label: a probability), labels.parquet (the training rows with labels of 0 and 1, for the control),
valid.parquet (label: 0 or 1), and teacher.json, its figures.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from examples.movielens.factors import Draw, Observed, probability, sample
from examples.movielens.rows import SCENARIOS, Catalogue, Ratings, read_catalogue, read_ratings
from smt.training.metrics import task_metrics

# The value that is factorised is the rating, plus one if it is liked: that boundary is what is asked for.
_THRESHOLD = 4.0


@dataclass(frozen=True)
class Settings:
    """The chain: `burn_in` draws are thrown away, and of `draws` each `thinning`th is kept.

    drawn: pairs of a user, as active as in the training rows, and a film, as popular. Those with a rating are left out.
    hard: share of a training row's label that is its own, not the teacher's.
    """

    seed: int = 1
    rank: int = 20
    burn_in: int = 30
    draws: int = 90
    thinning: int = 3
    drawn: int = 1_500_000
    hard: float = 0.2


class Teacher:
    """P(liked) by the draws of a chain that saw the training rows."""

    def __init__(self, train: Ratings, catalogue: Catalogue, settings: Settings) -> None:
        self._ids = (catalogue.users["user_id"], catalogue.movies["movie_id"])
        users, movies = self._positions(train.users, train.movies)
        ratings = train.ratings.to_numpy().astype(np.float64)
        raised = ratings + (ratings > 3)
        mean, deviation = raised.mean(), raised.std()
        self._threshold = (_THRESHOLD - mean) / deviation
        observed = Observed(users, movies, (raised - mean) / deviation, len(self._ids[0]), len(self._ids[1]))
        chain = sample(observed, settings.rank, np.random.default_rng(settings.seed))
        self.draws: list[Draw] = list(
            islice(chain, settings.burn_in, settings.burn_in + settings.draws, settings.thinning)
        )

    def __call__(self, users: pa.ChunkedArray, movies: pa.ChunkedArray) -> NDArray[np.float32]:
        """[n] probabilities of pairs of ids."""
        return probability(self.draws, *self._positions(users, movies), self._threshold)

    def _positions(self, *ids: pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        found = [pc.index_in(column, known) for column, known in zip(ids, self._ids, strict=True)]
        users, movies = (column.to_numpy(zero_copy_only=False).astype(np.int64) for column in found)
        return users, movies


def draw_pairs(train: Ratings, count: int, rng: np.random.Generator) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """(user_id, movie_id) of `count` drawn pairs, less those that have a rating."""
    users, movies = (column.to_numpy().astype(np.int64) for column in (train.users, train.movies))
    span = int(movies.max()) + 1
    drawn = rng.choice(users, count) * span + rng.choice(movies, count)
    drawn = drawn[~np.isin(drawn, users * span + movies)]
    return pa.chunked_array([drawn // span]), pa.chunked_array([drawn % span])


def run(data: Path, output: Path, settings: Settings) -> dict[str, Any]:
    """Writes the output folder; returns the content of teacher.json.

    Raises:
        OSError, pyarrow.ArrowException, ValueError: a file cannot be read, or names a user or film that is unknown.
    """
    started = time.monotonic()
    catalogue, splits = read_catalogue(data), read_ratings(data / "ratings.parquet")
    train, valid = splits["train"], splits["valid"]
    teacher = Teacher(train, catalogue, settings)
    rng = np.random.default_rng((settings.seed, 1))
    drawn = draw_pairs(train, settings.drawn, rng)
    hard = settings.hard * train.liked.to_numpy() + (1 - settings.hard) * teacher(train.users, train.movies)
    labels = np.concatenate([hard, teacher(*drawn)]).astype(np.float32)
    pairs = [pa.chunked_array([*a.chunks, *b.chunks]) for a, b in zip((train.users, train.movies), drawn, strict=True)]
    output.mkdir(parents=True, exist_ok=True)
    table = catalogue.features(*pairs).append_column("liked", pa.array(labels))
    pq.write_table(table.take(rng.permutation(table.num_rows)), output / "train.parquet")
    for name, split in (("labels", train), ("valid", valid)):
        table = catalogue.features(split.users, split.movies).append_column("liked", split.liked)
        pq.write_table(table, output / f"{name}.parquet")
    group, scores = table["scenario"].to_numpy(), teacher(valid.users, valid.movies)
    liked = valid.liked.to_numpy()
    content = {
        "settings": asdict(settings),
        "valid": {
            "all": task_metrics(liked, scores).to_json(),
            **{name: task_metrics(liked[group == i], scores[group == i]).to_json() for i, name in enumerate(SCENARIOS)},
        },
        "rows": len(labels),
        "seconds": round(time.monotonic() - started, 1),
    }
    (output / "teacher.json").write_text(json.dumps(content, indent=1) + "\n")
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with ratings, users and movies as parquet")
    parser.add_argument("--output", type=Path, default=Path("build/movielens"), help="folder to write")
    arguments = parser.parse_args()
    try:
        content = run(arguments.data, arguments.output, Settings())
    except (OSError, pa.ArrowException, ValueError) as error:
        sys.exit(f"error: {error}")
    figures = content["valid"]["all"]
    print(f"teacher on valid: AUC {figures['auc']:.5f}, logloss {figures['logloss']:.5f}; wrote {arguments.output}")


if __name__ == "__main__":
    main()
