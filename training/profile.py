"""Looks at a parquet file's columns, to propose what each could be in a scenario."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SAMPLE_ROWS = 100_000
VOCABULARY_LIMIT = 50_000
RARE = 1000  # vocabularies larger than this leave out values seen less than five times
FEW_INTEGERS = 12
_LABEL = re.compile(
    r"^(label|target|y|click|clicked|conversion|converted|purchase|purchased|buy|bought|like|liked|install|installed"
    r"|response|outcome|churn|default)s?($|_)|_(label|target)$",
    re.IGNORECASE,
)
_ID = re.compile(
    r"(^|_)(id|code|key|zip|hash|user|item|movie|product|ad|campaign|city|country|region|category|brand|device|shop)s?$",
    re.IGNORECASE,
)

Kind = Literal["dense", "vocabulary", "hash", "unused"]


@dataclass(frozen=True)
class ColumnProfile:
    """What a sample of a column looks like, and what is proposed for it."""

    name: str
    arrow_type: str
    distinct: int
    missing: float  # share of rows
    kind: Kind
    type: Literal["number", "int", "string"]
    reason: str = ""  # why it is unused
    log: bool = False
    multi_valued: bool = False
    max_length: int = 1
    is_label: bool = False  # looks like one: a suitable name and only 0 and 1
    is_binary: bool = False


def profile(path: Path) -> tuple[list[ColumnProfile], int]:
    """Profiles the columns of a parquet file from its first rows; also returns the number of sampled rows."""
    parts: list[pa.RecordBatch] = []
    rows = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=16_384):
            parts.append(batch)
            rows += batch.num_rows
            if rows >= SAMPLE_ROWS:
                break
        table = pa.Table.from_batches(parts, file.schema_arrow)
    return [_profile(name, table.column(i)) for i, name in enumerate(table.column_names)], table.num_rows


def _profile(name: str, column: pa.ChunkedArray) -> ColumnProfile:
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    rows = len(column)
    missing = column.null_count / rows if rows else 0.0
    values = pc.list_flatten(column) if is_list else column
    if pa.types.is_dictionary(values.type):
        values = pc.cast(values, values.type.value_type)
    value_type = values.type

    def unused(reason: str, distinct: int = 0) -> ColumnProfile:
        return ColumnProfile(name, str(kind), distinct, missing, "unused", "string", reason)

    is_text = pa.types.is_string(value_type) or pa.types.is_large_string(value_type)
    is_int = pa.types.is_integer(value_type) or pa.types.is_boolean(value_type)
    if not (is_text or is_int or pa.types.is_floating(value_type)):
        return unused(f"its type is {kind}")
    values = values.drop_null()
    distinct = len(values.unique())
    if distinct < 2:
        return unused("it has no value" if not distinct else "it has one value in every row", distinct)
    binary = not is_text and not is_list and set(values.unique().to_pylist()) <= {0, 1}
    lengths = pc.list_value_length(column).drop_null().to_numpy() if is_list else np.ones(1)
    common: dict[str, Any] = {
        "name": name,
        "arrow_type": str(kind),
        "distinct": distinct,
        "missing": missing,
        "multi_valued": is_list,
        "max_length": max(1, int(np.quantile(lengths, 0.99, method="higher"))) if len(lengths) else 1,
        "is_label": binary and bool(_LABEL.search(name)),
        "is_binary": binary,
    }
    table_kind: Kind = "vocabulary" if distinct <= VOCABULARY_LIMIT else "hash"
    if is_text:
        if not is_list and distinct > 0.9 * len(values) and distinct > RARE:
            return unused("nearly every row has another value", distinct)
        return ColumnProfile(kind=table_kind, type="string", **common)
    if is_int and not is_list and _ID.search(name) and distinct > 0.9 * len(values) and distinct > RARE:
        return unused("nearly every row has another value", distinct)
    if is_list and not is_int:
        return unused("lists of floats have no encoding", distinct)
    if is_int and (is_list or binary or distinct <= FEW_INTEGERS or _ID.search(name)):
        return ColumnProfile(kind=table_kind, type="int", **common)
    numbers = values.to_numpy().astype(np.float64)
    numbers = numbers[np.isfinite(numbers)]
    spread = np.abs(numbers).max(initial=0.0) > 20 * max(float(np.abs(numbers).mean()), 1e-12)
    return ColumnProfile(kind="dense", type="number", log=bool(spread), **common)


def hash_size(distinct: int) -> int:
    """A power of two with about two rows per value seen."""
    return int(2 ** np.ceil(np.log2(2 * max(distinct, 1))))


def labels_of(columns: Sequence[ColumnProfile]) -> list[ColumnProfile]:
    """Columns that look like labels; else the last binary one; else none."""
    named = [column for column in columns if column.is_label]
    binary = [column for column in columns if column.is_binary]
    return named or binary[-1:]
