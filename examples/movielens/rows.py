"""Ratings of MovieLens-1M with what is known of user and film, as rows of features.

Data: Harper and Konstan 2015, doi 10.1145/2827872. For research only, and not to be redistributed: it is read where it
lies, and what is made of it is written under build/. Task, features and scenarios are those of Scenario-Wise Rec
(arXiv 2412.17374): liked = rating > 3; scenarios are age groups.
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SCENARIOS = ("under_25", "from_25_to_34", "from_35")  # by the value of the column `scenario`
FILES = ("ratings.parquet", "users.parquet", "movies.parquet")
_TRAIN, _VALID = 0, 1  # values of the column `split`


@dataclass(frozen=True)
class Catalogue:
    """Users (user_id, gender, occupation, zip, age, scenario) and films (movie_id, cate_id: the first genre)."""

    users: pa.Table
    movies: pa.Table

    def features(self, user_ids: pa.ChunkedArray, movie_ids: pa.ChunkedArray) -> pa.Table:
        """One row per pair, in their order.

        Raises:
            ValueError: a user or film that is not in the catalogue.
        """
        columns: dict[str, pa.ChunkedArray] = {}
        user_ids, movie_ids = (ids.cast(pa.int64()) for ids in (user_ids, movie_ids))
        for known, ids in ((self.users, user_ids), (self.movies, movie_ids)):
            key = known.column_names[0]
            found = pc.index_in(ids, known[key])
            if found.null_count:
                first = ids.filter(pc.is_null(found))[0]
                raise ValueError(f"found the {key} {first}, of which the catalogue knows nothing; expected one of it")
            columns |= {name: known[name].take(found) for name in known.column_names}
        return pa.table(columns)


def read_catalogue(folder: Path) -> Catalogue:
    """Reads users.parquet and movies.parquet. Raises OSError and pyarrow.ArrowException where that is impossible."""
    users = pq.read_table(folder / "users.parquet", columns=["user_id", "gender", "occupation", "zip", "age"])
    users = _as_int64(users).append_column("scenario", age_group(users["age"]))
    movies = pq.read_table(folder / "movies.parquet", columns=["movie_id", "genres"])
    genres = pc.list_element(pc.split_pattern(movies["genres"], "|"), 0)
    return Catalogue(users, _as_int64(pa.table({"movie_id": movies["movie_id"], "cate_id": genres})))


def _as_int64(table: pa.Table) -> pa.Table:
    """Integers of any width as int64, so that ids of several files can be compared."""
    kinds = [pa.int64() if pa.types.is_integer(field.type) else field.type for field in table.schema]
    return table.cast(pa.schema(list(zip(table.column_names, kinds, strict=True))))


def age_group(age: pa.ChunkedArray) -> pa.ChunkedArray:
    """Position in SCENARIOS, int64: 0 for the ages 1 (under 18) and 18, 1 for 25, 2 for the others."""
    return pc.add(pc.cast(pc.greater_equal(age, 25), pa.int64()), pc.cast(pc.greater_equal(age, 35), pa.int64()))


@dataclass(frozen=True)
class Ratings:
    """Rows of one split: [n] user_id, movie_id and rating."""

    users: pa.ChunkedArray
    movies: pa.ChunkedArray
    ratings: pa.ChunkedArray

    @property
    def liked(self) -> pa.ChunkedArray:
        """[n] int8: rating > 3."""
        return pc.cast(pc.greater(self.ratings, 3), pa.int8())


def read_ratings(file: Path) -> dict[str, Ratings]:
    """The training and the validation rows of a ratings file, by its column `split`."""
    table = pq.read_table(file, columns=["user_id", "movie_id", "rating", "split"])
    splits = {"train": _TRAIN, "valid": _VALID}
    return {name: ratings_of(table.filter(pc.equal(table["split"], value))) for name, value in splits.items()}


def ratings_of(table: pa.Table) -> Ratings:
    """All rows of a table with the columns user_id, movie_id and rating."""
    table = _as_int64(table)
    return Ratings(*(table[name] for name in ("user_id", "movie_id", "rating")))
