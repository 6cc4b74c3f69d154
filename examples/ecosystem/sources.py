"""The three data sets as rows with a split, each prepared for the scenarios' features."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import examples.census
from examples.frappe import rows as frappe_rows

# train and test; valid as well where the data set comes with three splits.
Splits = dict[str, pa.Table]


def census(_: Path) -> Splits:
    """Census-Income (KDD), which is in this repository: the official training rows, and half of the test rows."""
    folder = Path(examples.census.__file__).parent / "data"
    return {"train": pq.read_table(folder / "train.parquet"), "test": pq.read_table(folder / "valid.parquet")}


def movielens(data: Path) -> Splits:
    """MovieLens-1M, of the folder movielens_1m_3scenario: ratings with their user's and their movie's columns.

    Genres are lists, `year` is that in brackets at the end of the title, and `is_drama` says whether Drama is a genre.
    """
    folder = data / "movielens_1m_3scenario"
    ratings, users, movies = (pq.read_table(folder / f"{name}.parquet") for name in ("ratings", "users", "movies"))
    year = pc.extract_regex(movies["title"], r"\((?P<year>\d{4})\)$")
    genres = pc.split_pattern(movies["genres"], "|")
    columns = {
        "movie_id": movies["movie_id"],
        "genres": genres,
        "year": pc.cast(pc.struct_field(year, "year"), pa.int16()),
        "is_drama": pc.match_substring_regex(movies["genres"], r"(^|\|)Drama($|\|)"),
    }
    rows = ratings.drop_columns(["scenario"])
    for key, other in (("user_id", users), ("movie_id", pa.table(columns))):
        # A join of Arrow's takes no lists along, and promises no order.
        found = pc.index_in(rows[key], other[key].combine_chunks())
        if found.null_count:
            raise ValueError(f"{folder}: found a rating whose {key} is in no row; expected each user and movie once")
        for name in other.column_names:
            if name != key:
                rows = rows.append_column(name, other[name].take(found))
    kept = rows.drop_columns(["split"])
    return {name: kept.filter(pc.equal(rows["split"], split)) for name, split in (("train", 0), ("test", 1))}


def frappe(data: Path) -> Splits:
    """Frappe_x1, of the folder frappe_x1, with the benchmark's three splits and its ids."""
    folder = data / "frappe_x1"
    return {split: pq.read_table(folder / file) for split, file in frappe_rows.FILES.items()}


SOURCES: dict[str, Callable[[Path], Splits]] = {"census": census, "movielens": movielens, "frappe": frappe}


def shares(rows: int, first: float, rng: np.random.Generator) -> tuple[pa.Array, pa.Array]:
    """Positions of a random share of the rows, and of the others, both in the order of the rows."""
    order = rng.permutation(rows)
    cut = round(rows * first)
    return pa.array(np.sort(order[:cut])), pa.array(np.sort(order[cut:]))
