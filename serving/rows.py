"""Files of rows for `smt predict`: Parquet, CSV and JSON lines in; Parquet, CSV and JSON lines of scores out.

Parquet has types. CSV and JSON lines are read with the types that the scenario wants, so that a code such as 07 stays
text where the scenario reads text. An empty CSV cell without quotes is a missing value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

FORMATS = (".parquet", ".csv", ".jsonl")

_TYPES = {"number": pa.float64(), "int": pa.int64(), "string": pa.string()}


class RowsError(ValueError):
    """A file that cannot be read or written as rows; the message names file and reason."""


def format_of(path: Path) -> str:
    """The format that a file's name says. Raises RowsError for another one."""
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise RowsError(f"{path}: found the ending {suffix or 'nothing'!r}; expected {', '.join(FORMATS)}")
    return suffix


def read_rows(path: Path, inputs: list[Any]) -> Any:
    """The columns of a file that a scenario reads, as a pyarrow Table.

    Args:
        inputs: the scenario's inputs, as the server describes them (InputMetadata); other columns are left out.
    """
    suffix = format_of(path)
    if not path.is_file():
        raise RowsError(f"{path}: no such file")
    try:
        if suffix == ".parquet":
            return _read_parquet(path, inputs)
        if suffix == ".csv":
            return _read_csv(path, inputs)
        return _read_json_lines(path, inputs)
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise RowsError(f"{path}: {error}") from error


def write_scores(path: Path, scores: Mapping[str, Any]) -> None:
    """One column per task (float32), rows in the order of the input. Raises RowsError, or OSError as open() does."""
    columns = pa.table({task: pa.array(values) for task, values in scores.items()})
    suffix = format_of(path)
    if suffix == ".parquet":
        pyarrow.parquet.write_table(columns, path)
    elif suffix == ".csv":
        pyarrow.csv.write_csv(columns, path)
    else:
        with path.open("w") as file:
            for row in columns.to_pylist():
                file.write(json.dumps(row) + "\n")


def _read_parquet(path: Path, inputs: list[Any]) -> Any:
    file = pyarrow.parquet.ParquetFile(path)
    present = set(file.schema_arrow.names)
    return _rows(file.read([i.name for i in inputs if i.name in present]), file.metadata.num_rows)


def _read_csv(path: Path, inputs: list[Any]) -> Any:
    with pyarrow.csv.open_csv(path) as reader:  # of a bad header it says what is wrong
        present = reader.schema.names
    for name in present:
        if present.count(name) > 1:
            raise RowsError(f"{path}: found {present.count(name)} columns {name!r}; expected one")
    for feature in inputs:
        if feature.multi_valued and feature.name in present:
            raise RowsError(
                f"{path}: column {feature.name!r} holds lists, which CSV has not; use Parquet or JSON lines"
            )
    read = [i for i in inputs if i.name in present]
    options = pyarrow.csv.ConvertOptions(
        column_types={i.name: _TYPES[i.type] for i in read},
        # A file may hold none of the inputs; its rows are counted by what it has.
        include_columns=[i.name for i in read] or present[:1],
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    return pyarrow.csv.read_csv(path, convert_options=options)


def _read_json_lines(path: Path, inputs: list[Any]) -> Any:
    types = {i.name: pa.list_(_TYPES[i.type]) if i.multi_valued else _TYPES[i.type] for i in inputs}
    options = pyarrow.json.ParseOptions(
        explicit_schema=pa.schema(list(types.items())), unexpected_field_behavior="ignore"
    )
    if path.stat().st_size == 0:
        raise RowsError(f"{path}: the file is empty")
    rows = pyarrow.json.read_json(path, parse_options=options)
    # A column that no row has is absent, which is another thing than missing in every row.
    empty = [name for name in rows.column_names if rows.column(name).null_count == rows.num_rows]
    if empty:
        with path.open() as file:
            named = set().union(*(json.loads(line) for line in file if line.strip()))
        kept = [name for name in rows.column_names if name not in empty or name in named]
        rows = _rows(rows.select(kept), rows.num_rows)
    return rows


def _rows(columns: Any, rows: int) -> Any:
    """A table without columns has no rows in Arrow; keep the number of rows in one that no scenario reads."""
    return columns if columns.num_columns else pa.table({"": pa.nulls(rows)})
