"""columns_from_arrow: every Arrow type that can carry a feature, and a clear refusal of those that cannot."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from smt.kernels.transform import InputError, InputInfo, RawColumn, StringValues, columns_from_arrow

INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
STRINGS = [pa.string(), pa.large_string()]


def read(array: pa.Array | pa.ChunkedArray, wanted: str | None = None) -> RawColumn:
    inputs = [] if wanted is None else [InputInfo("x", wanted, True, False)]
    (column,) = columns_from_arrow(pa.table({"x": array}), ["x"], inputs)
    return column


def contents(column: RawColumn) -> tuple[list[Any], list[int] | None]:
    values = column.values
    listed = [v.decode() for v in values.to_bytes()] if isinstance(values, StringValues) else values.tolist()
    return listed, None if column.lengths is None else column.lengths.tolist()


@pytest.mark.parametrize("kind", INTEGERS, ids=str)
def test_integers(kind: pa.DataType) -> None:
    column = read(pa.array([1, 2, 100], kind))
    assert column.values.dtype == np.int64  # type: ignore[union-attr]
    assert contents(column) == ([1, 2, 100], None)
    assert contents(read(pa.array([1, None, 100], kind))) == ([1, 100], [1, 0, 1])
    assert contents(read(pa.array([[1, None], None, [], [3]], pa.list_(kind)))) == ([1, 3], [1, 0, 0, 1])


def test_integers_at_the_limits() -> None:
    extremes = [-(2**63), 2**63 - 1, 2**53 + 1]
    assert contents(read(pa.array([*extremes, None], pa.int64()))) == (extremes, [1, 1, 1, 0])
    with pytest.raises(InputError, match=r"feature 'x': .*9223372036854775808.*expected values within int64"):
        read(pa.array([2**63], pa.uint64()))


@pytest.mark.parametrize(
    ("kind", "dtype"), [(pa.float16(), np.float32), (pa.float32(), np.float32), (pa.float64(), np.float64)], ids=str
)
def test_floats(kind: pa.DataType, dtype: type) -> None:
    values = np.array([1.5, np.nan, -2.0, np.inf], kind.to_pandas_dtype())
    column = read(pa.array(values))
    assert column.values.dtype == dtype  # type: ignore[union-attr]
    # NaN is a missing value; infinity is not, and apply() will refuse it.
    assert contents(column) == ([1.5, -2.0, np.inf], [1, 0, 1, 1])
    masked = pa.array(values, mask=np.array([True, False, False, False]))
    assert contents(read(masked)) == ([-2.0, np.inf], [0, 0, 1, 1])
    lists = pa.ListArray.from_arrays([0, 2, 2, 4], masked)
    assert contents(read(lists)) == ([-2.0, np.inf], [0, 0, 2])
    assert contents(read(pa.array(np.array([1.5, 2.0], kind.to_pandas_dtype())))) == ([1.5, 2.0], None)


def test_bool() -> None:
    assert contents(read(pa.array([True, None, False]))) == ([1, 0], [1, 0, 1])
    assert contents(read(pa.array([[True], [False, True]]))) == ([1, 0, 1], [1, 2])


WORDS = ["a", "", "é", "👩\u200d👧", "\0", None, "zz"]
THERE = [w for w in WORDS if w is not None]
LENGTHS = [1, 1, 1, 1, 1, 0, 1]


@pytest.mark.parametrize("kind", STRINGS, ids=str)
def test_strings(kind: pa.DataType) -> None:
    assert contents(read(pa.array(THERE, kind))) == (THERE, None)
    assert contents(read(pa.array(WORDS, kind))) == (THERE, LENGTHS)
    assert contents(read(pa.array(WORDS, kind).slice(2, 4))) == (["é", "👩\u200d👧", "\0"], [1, 1, 1, 0])
    assert contents(read(pa.array([WORDS, None, [], [None]], pa.list_(kind)))) == (THERE, [6, 0, 0, 0])
    assert contents(read(pa.array([], kind))) == ([], None)
    assert contents(read(pa.array([None, None], kind))) == ([], [0, 0])


@pytest.mark.parametrize("kind", STRINGS, ids=str)
@pytest.mark.parametrize("index", [pa.int8(), pa.int32()], ids=str)
def test_dictionaries(kind: pa.DataType, index: pa.DataType) -> None:
    coded = pa.array(WORDS, kind).dictionary_encode().cast(pa.dictionary(index, kind))
    assert contents(read(coded)) == (THERE, LENGTHS)
    assert contents(read(coded.slice(1, 2))) == (["", "é"], None)
    # A null may be in the dictionary as well as in the indices.
    nulls = pa.DictionaryArray.from_arrays(pa.array([0, 1, None], index), pa.array(["a", None], kind))
    assert contents(read(nulls)) == (["a"], [1, 0, 0])
    assert contents(read(pa.array([5, 7, 5]).dictionary_encode())) == ([5, 7, 5], None)
    assert contents(read(pa.array([1.0, np.nan]).dictionary_encode())) == ([1.0], [1, 0])
    lists = pa.ListArray.from_arrays([0, 1, 3], nulls)
    assert contents(read(lists)) == (["a"], [1, 0])


@pytest.mark.parametrize("make", [pa.list_, pa.large_list, lambda kind: pa.list_(kind, 2)], ids=["list", "large", "2"])
def test_lists(make: Any) -> None:
    array = pa.array([[1, 2], None, [None, 3], [4, 5]], make(pa.int32()))
    assert contents(read(array)) == ([1, 2, 3, 4, 5], [2, 0, 1, 2])
    assert contents(read(array.slice(1, 2))) == ([3], [0, 1])
    assert contents(read(array.slice(3))) == ([4, 5], [2])


def test_values_hidden_under_a_null_list_are_not_used() -> None:
    lists = pa.ListArray.from_arrays(pa.array([0, 2, 4]), pa.array([1, 2, 3, 4]), mask=pa.array([True, False]))
    assert contents(read(lists)) == ([3, 4], [0, 2])


def test_chunks() -> None:
    columns: list[list[list[Any]]] = [
        [["a", None], [], ["b"]],
        [[1, None], [], [2]],
        [[["a"], None], [], [["b", "c"]]],
    ]
    for parts in columns:
        kind = pa.array(parts[0]).type
        whole = pa.array([v for part in parts for v in part], kind)
        chunked = pa.chunked_array([pa.array(part, kind) for part in parts])
        assert contents(read(chunked)) == contents(read(whole))
    assert contents(read(pa.chunked_array([], pa.string()))) == ([], None)
    assert contents(read(pa.chunked_array([], pa.list_(pa.int64())))) == ([], [])
    unlike = [pa.array(["a", "b"]).dictionary_encode(), pa.array(["c", "a"]).dictionary_encode()]
    assert contents(read(pa.chunked_array(unlike))) == (["a", "b", "c", "a"], None)


def test_nothing_is_copied_where_the_types_allow_it() -> None:
    numbers = pa.array(np.arange(5.0))
    assert read(numbers).values.ctypes.data == numbers.buffers()[1].address  # type: ignore[union-attr]
    words = pa.array(["a", "b"])
    values = read(words).values
    assert isinstance(values, StringValues)
    assert values.data.ctypes.data == words.buffers()[2].address


def test_names() -> None:
    table = pa.table({"a": [1], "b": ["x"], "c": [2.0]})
    assert [c.name for c in columns_from_arrow(table, ["c", "nowhere", "a"])] == ["c", "a"]
    assert [c.name for c in columns_from_arrow(table.to_batches()[0], ["b"])] == ["b"]
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"])
    with pytest.raises(InputError, match="feature 'a': 2 columns of this name; expected one"):
        columns_from_arrow(twice, ["a"])


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (pa.array([datetime.date(2024, 1, 1)]), "date32"),
        (pa.array([datetime.datetime(2024, 1, 1)]), "timestamp"),
        (pa.array([decimal.Decimal("1.5")]), "decimal128"),
        (pa.array([b"abc"]), "binary"),
        (pa.array([{"a": 1}]), "struct"),
        (pa.array([[[1]]]), "list<item: list<item: int64>>"),
        (pa.array([[datetime.date(2024, 1, 1)]]), "list<item: date32"),
        (pa.array([datetime.date(2024, 1, 1)]).dictionary_encode(), "dictionary"),
    ],
)
def test_other_types_are_refused(array: pa.Array, kind: str) -> None:
    with pytest.raises(InputError) as caught:
        read(array)
    assert str(caught.value).startswith(f"feature 'x': a column of Arrow type {kind}")
    assert "expected bool, integers, floats, string" in str(caught.value)


def test_null_type_takes_the_type_that_is_wanted() -> None:
    assert contents(read(pa.nulls(2), "string")) == ([], [0, 0])
    assert contents(read(pa.nulls(2), "int")) == ([], [0, 0])
    assert isinstance(read(pa.nulls(2), "string").values, StringValues)
    assert contents(read(pa.array([[], [None], None]), "string")) == ([], [0, 0, 0])
    with pytest.raises(InputError, match="feature 'x': a column of Arrow type null"):
        read(pa.nulls(2))


def test_floats_become_ints_only_where_nothing_is_lost() -> None:
    gaps = pa.array([1.0, np.nan, -3.0])
    assert contents(read(gaps)) == ([1.0, -3.0], [1, 0, 1])
    column = read(gaps, "int")
    assert column.values.dtype == np.int64  # type: ignore[union-attr]
    assert contents(column) == ([1, -3], [1, 0, 1])
    for value in (0.5, np.inf, 2.0**60):
        assert read(pa.array([value]), "int").values.dtype == np.float64  # type: ignore[union-attr]
    assert read(gaps, "number").values.dtype == np.float64  # type: ignore[union-attr]
