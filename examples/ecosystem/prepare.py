"""Cuts the scenarios' rows out of the three data sets, and writes them as parquet files.

    python -m examples.ecosystem.prepare --data DIR --output build/ecosystem
    python -m examples.ecosystem.prepare --sources census     # needs no DIR: its rows are in this repository

Each surface gets a folder with train.parquet, valid.parquet and test.parquet: train and valid for training and for all
choices, test for the figures of what was chosen. Where a data set has no third split, valid is a random part of the
training rows. The same data gives the same files.
"""

import argparse
import os
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from examples.ecosystem.sources import SOURCES, Splits, shares
from examples.ecosystem.surfaces import SURFACES, Surface

SEED = 2026
VALID_SHARE = 0.2
# Most rows of a split. One run of a scenario stays within seconds, so that many of them can be made.
MOST_ROWS = {"train": 12_000, "valid": 6_000, "test": 12_000}


def cut(surface: Surface, source: Splits) -> Splits:
    """The surface's rows of every split, with a valid split if the source has none, at most MOST_ROWS of each.

    Raises:
        ValueError: a split without a row.
    """
    rng = np.random.default_rng([SEED, zlib.crc32(surface.name.encode())])
    splits = {name: rows.filter(surface.rows.mask(rows)) for name, rows in source.items()}
    if "valid" not in splits:
        valid, train = shares(splits["train"].num_rows, VALID_SHARE, rng)
        splits |= {"valid": splits["train"].take(valid), "train": splits["train"].take(train)}
    if surface.unit is not None:
        splits = by_unit(splits, surface.unit, rng)
    result = {}
    for name, most in MOST_ROWS.items():
        rows = splits[name]
        if not rows.num_rows:
            raise ValueError(f"surface {surface.name}: found no row of {surface.source} with {surface.rows.source}")
        result[name] = rows.take(shares(rows.num_rows, min(1.0, most / rows.num_rows), rng)[0])
    return result


def by_unit(splits: Splits, unit: str, rng: np.random.Generator) -> Splits:
    """The rows of as many units, drawn at random, as MOST_ROWS has room for in training; in each split the same."""
    found = splits["train"][unit].value_counts()
    drawn = found.take(pa.array(rng.permutation(len(found))))
    rows = np.cumsum(drawn.field("counts").to_numpy())
    kept = drawn.field("values")[: max(int(np.searchsorted(rows, MOST_ROWS["train"], side="right")), 1)]
    return {name: table.filter(pc.is_in(table[unit], kept)) for name, table in splits.items()}


def prepare(data: Path, output: Path, sources: Sequence[str]) -> dict[str, dict[str, int]]:
    """Writes the surfaces of the sources; returns the rows of each by surface and split.

    Args:
        data: the folder of the data sets that are not in this repository.

    Raises:
        OSError: a file is missing. ValueError: a data set is not as it has to be.
    """
    written: dict[str, dict[str, int]] = {}
    for name in sources:
        splits = SOURCES[name](data)
        for surface in SURFACES:
            if surface.source != name:
                continue
            folder = output / surface.name
            folder.mkdir(parents=True, exist_ok=True)
            rows = cut(surface, splits)
            for split, table in rows.items():
                pq.write_table(table, folder / f"{split}.parquet", compression="zstd")
            written[surface.name] = {split: table.num_rows for split, table in rows.items()}
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("SMT_DATA")
    parser.add_argument("--data", type=Path, default=default, help="folder with movielens_1m_3scenario/ and frappe_x1/")
    parser.add_argument("--output", type=Path, default=Path("build/ecosystem"))
    parser.add_argument("--sources", nargs="+", choices=list(SOURCES), default=list(SOURCES))
    arguments = parser.parse_args()
    if arguments.data is None and arguments.sources != ["census"]:
        sys.exit("error: found neither --data nor SMT_DATA; expected a folder of data sets, or --sources census")
    try:
        written = prepare(arguments.data or Path(), arguments.output, arguments.sources)
    except (OSError, ValueError, pa.ArrowException) as error:
        sys.exit(f"error: {error}")
    for name, rows in written.items():
        print(f"{name:22}" + "".join(f"{split} {count:>7,}   " for split, count in rows.items()))


if __name__ == "__main__":
    main()
