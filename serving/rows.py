"""Files of rows for `smt predict`: Parquet, CSV and JSON lines in; Parquet, CSV and JSON lines of scores out.

Parquet has types. CSV and JSON lines are read with the types that the scenario wants, so that a code such as 07 stays
text where the scenario reads text. An empty CSV cell without quotes is a missing value; true and false are 1 and 0, as
everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

FORMATS = (".parquet", ".csv", ".jsonl")

_TYPES = {"number": pa.float64(), "int": pa.int64(), "string": pa.string()}
_WORDS = {"number": "a number", "int": "a 64-bit integer", "string": "a string"}


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


def check_output(path: Path) -> None:
    """Raises RowsError if `write_scores` could not write there, before anything is scored."""
    format_of(path)
    if not path.parent.is_dir():
        raise RowsError(f"{path}: no folder {path.parent}; create it first")
    if path.is_dir():
        raise RowsError(f"{path}: found a folder; expected the name of a file")


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
        # Numbers are made of the text below, where it is known which column they are of.
        column_types={i.name: pa.string() for i in read},
        # A file may hold none of the inputs; its rows are counted by what it has.
        include_columns=[i.name for i in read] or present[:1],
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    rows = pyarrow.csv.read_csv(path, convert_options=options)
    for number, feature in enumerate(read):
        if feature.type != "string":
            rows = rows.set_column(number, feature.name, _numbers(path, rows.column(feature.name), feature))
    return rows


def _numbers(path: Path, text: Any, feature: Any) -> Any:
    """A CSV column of numbers, or of true and false, as the type that the scenario reads."""
    text = pc.utf8_trim_whitespace(text)
    kind = _TYPES[feature.type]
    try:
        return text.cast(kind)
    except pa.ArrowInvalid:
        words = pc.utf8_lower(text)
        if pc.all(pc.is_in(words.drop_null(), pa.array(["true", "false"]))).as_py():
            return pc.equal(words, "true").cast(kind)
    wrong = _first_wrong(text, kind)
    raise RowsError(
        f"{path}: column {feature.name!r}, row {wrong + 1}: found {text[wrong].as_py()!r}; "
        f"expected {_WORDS[feature.type]}, or true and false in every row"
    )


def _first_wrong(text: Any, kind: Any) -> int:
    """Index of the first value that is none of the type, where there is one: by halves, which are cast at once."""
    start, stop = 0, len(text)
    while stop - start > 1:
        middle = (start + stop) // 2
        try:
            text.slice(start, middle - start).cast(kind)
            start = middle
        except pa.ArrowInvalid:
            stop = middle
    return start


def _read_json_lines(path: Path, inputs: list[Any]) -> Any:
    if path.stat().st_size == 0:
        raise RowsError(f"{path}: the file is empty")
    types = {i.name: _TYPES[i.type] for i in inputs}
    try:
        rows = _parse_json_lines(path, inputs, types)
    except pa.ArrowInvalid:
        booleans = _json_booleans(path, inputs)
        if not booleans:
            raise
        rows = _parse_json_lines(path, inputs, types | dict.fromkeys(booleans, pa.bool_()))
        for name in booleans:
            kind = pa.list_(types[name]) if pa.types.is_list(rows.schema.field(name).type) else types[name]
            rows = rows.set_column(rows.column_names.index(name), name, rows.column(name).cast(kind))
    # A column that no row has is absent, which is another thing than missing in every row.
    empty = [name for name in rows.column_names if rows.column(name).null_count == rows.num_rows]
    if empty:
        with path.open() as file:
            named = set().union(*(json.loads(line) for line in file if line.strip()))
        kept = [name for name in rows.column_names if name not in empty or name in named]
        rows = _rows(rows.select(kept), rows.num_rows)
    return rows


def _parse_json_lines(path: Path, inputs: list[Any], types: Mapping[str, Any]) -> Any:
    """The inputs as columns of the given types, or of lists of them."""
    columns = [(i.name, pa.list_(types[i.name]) if i.multi_valued else types[i.name]) for i in inputs]
    options = pyarrow.json.ParseOptions(explicit_schema=pa.schema(columns), unexpected_field_behavior="ignore")
    return pyarrow.json.read_json(path, parse_options=options)


def _json_booleans(path: Path, inputs: list[Any]) -> list[str]:
    """Inputs that hold true and false where the scenario reads numbers, in a file that Arrow refused with its types.

    Raises RowsError for the value that was refused, if it is one; a line that is no JSON is left for Arrow to name.
    """
    kinds: dict[str, set[bool]] = {}
    with path.open() as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line) if line.strip() else {}
            except json.JSONDecodeError:
                return []
            if not isinstance(row, dict):
                return []
            for feature in inputs:
                found = row.get(feature.name)
                values = found if isinstance(found, list) else [found]
                held = kinds.setdefault(feature.name, set())
                held |= {isinstance(value, bool) for value in values if value is not None}
                shaped = found is None or isinstance(found, list) == feature.multi_valued
                if not shaped or len(held) > 1 or not all(_fits(value, feature.type) for value in values):
                    expected = f"a list, each {_WORDS[feature.type]}" if feature.multi_valued else _WORDS[feature.type]
                    raise RowsError(
                        f"{path}: column {feature.name!r}, line {number}: found {json.dumps(found, ensure_ascii=False)}"
                        f"; expected {expected}" + (", or true and false in every row" if len(held) > 1 else "")
                    )
    return [name for name, held in kinds.items() if held == {True}]


def _fits(value: Any, kind: str) -> bool:
    if value is None:
        return True
    if kind == "string":
        return isinstance(value, str)
    if kind == "int" and not isinstance(value, bool):
        return isinstance(value, int) and -(2**63) <= value < 2**63
    return isinstance(value, bool | int | float)


def _rows(columns: Any, rows: int) -> Any:
    """A table without columns has no rows in Arrow; keep the number of rows in one that no scenario reads."""
    return columns if columns.num_columns else pa.table({"": pa.nulls(rows)})
