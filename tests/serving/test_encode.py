"""What goes on the wire for each kind of data, and that nothing is converted silently."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smt.kernels.transform import InputInfo, StringValues, columns_from_arrow
from smt.serving.encode import EncodingError, encode, encode_all, fit_types, to_columns
from smt.serving.protos import prediction_pb2 as pb

NAN = float("nan")
NOT_UTF8 = pa.array([b"\xff"]).view(pa.string())
NOT_UTF8_LONG = pa.array([b"\xff" * 200]).view(pa.string())
DICTIONARY_LISTS = pa.list_(pa.dictionary(pa.int8(), pa.string()))


def sent(values: Any, **options: Any) -> tuple[str | None, list[Any], list[int]]:
    """The kind, the values and the lengths of one column as the server would parse them."""
    feature = encode("f", to_columns({"f": values}, **options)["f"])
    return parsed(pb.Feature.FromString(feature.SerializeToString()))


def parsed(feature: pb.Feature) -> tuple[str | None, list[Any], list[int]]:
    kind = feature.WhichOneof("values")
    return kind, list(getattr(feature, kind).values) if kind else [], list(feature.lengths)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2], ("ints", [1, 2], [])),
        ([1, 2.5], ("doubles", [1.0, 2.5], [])),
        ([-(2**63), 2**63 - 1], ("ints", [-(2**63), 2**63 - 1], [])),
        ([True, False], ("ints", [1, 0], [])),
        (["a", "é", "日本", ""], ("strings", ["a", "é", "日本", ""], [])),
        (["a", None], ("strings", ["a"], [1, 0])),
        (["", "é" * 63 + "x"], ("strings", ["", "é" * 63 + "x"], [])),
        (["x" * 127, "y"], ("strings", ["x" * 127, "y"], [])),
        (["x" * 128, "é" * 3000, ""], ("strings", ["x" * 128, "é" * 3000, ""], [])),
        ([None, 1], ("ints", [1], [0, 1])),
        ([[1, 2], [], None, [3]], ("ints", [1, 2, 3], [2, 0, 0, 1])),
        ([["a"], ["b"]], ("strings", ["a", "b"], [])),
        ([["a", None], ["b"]], ("strings", ["a", "b"], [])),
        ((1.5, 2.0), ("doubles", [1.5, 2.0], [])),
        (np.array([1, 2], np.float32), ("floats", [1, 2], [])),
        (np.array([1, 2], np.float16), ("floats", [1, 2], [])),
        (np.array([1, 2], np.float64), ("doubles", [1, 2], [])),
        (np.array([1, 2], ">f8"), ("doubles", [1, 2], [])),
        (np.array([1, 2], np.uint8), ("ints", [1, 2], [])),
        (np.array([1, 2], np.uint64), ("ints", [1, 2], [])),
        (np.array([True, False]), ("ints", [1, 0], [])),
        (np.array(["a", "b"]), ("strings", ["a", "b"], [])),
        (np.array(["a", None, np.nan, pd.NA], object), ("strings", ["a"], [1, 0, 0, 0])),
        (np.array([[1, 2], [3, 4]]), ("ints", [1, 2, 3, 4], [2, 2])),
        (np.zeros((2, 0)), ("doubles", [], [0, 0])),
        (np.arange(10)[::3], ("ints", [0, 3, 6, 9], [])),
        (np.ma.array([1, 2], mask=[False, True]), ("ints", [1], [1, 0])),
        (pa.array([1.0, None, NAN]), ("doubles", [1.0], [1, 0, 0])),
        (pa.array([[1.0, NAN], None, []]), ("doubles", [1.0], [1, 0, 0])),
        (pa.array(["a", "b", "a"]).dictionary_encode(), ("strings", ["a", "b", "a"], [])),
        (pa.array([["a"], ["b", "a"]], DICTIONARY_LISTS), ("strings", ["a", "b", "a"], [1, 2])),
        (pa.array(["a", None], pa.large_string()), ("strings", ["a"], [1, 0])),
        (pa.array([[1, 2], [3, 4]], pa.list_(pa.int32(), 2)), ("ints", [1, 2, 3, 4], [2, 2])),
        (pa.array([5, 6, 7, 8]).slice(1, 2), ("ints", [6, 7], [])),
        (pa.array([[1], [2, 3], [4]]).slice(1, 1), ("ints", [2, 3], [2])),
        (pa.chunked_array([[1], [2, None]]), ("ints", [1, 2], [1, 1, 0])),
        (pd.Series([1.0, np.nan]), ("doubles", [1.0], [1, 0])),
        (pd.Series([1, None], dtype="Int64"), ("ints", [1], [1, 0])),
        (pd.Series(["a", None]), ("strings", ["a"], [1, 0])),
        (pd.Series(["a", None, "b"], dtype="category"), ("strings", ["a", "b"], [1, 0, 1])),
        (pd.Series([[1], [2, 3], None]), ("ints", [1, 2, 3], [1, 2, 0])),
    ],
)  # fmt: skip
def test_values(values: Any, expected: tuple[str, list[Any], list[int]]) -> None:
    assert sent(values) == expected


def test_numpy_nan_and_infinity_are_sent_for_the_server_to_refuse() -> None:
    kind, values, lengths = sent(np.array([1.0, NAN, np.inf]))
    assert kind == "doubles"
    assert np.isnan(values[1])
    assert np.isinf(values[2])
    assert lengths == []


def test_what_is_all_missing_takes_the_type_of_the_scenario() -> None:
    columns = to_columns({"s": [None, None], "n": [None, None], "l": [[], []]})
    features = encode_all(columns, {"s": "string", "n": "number"})
    assert [parsed(f) for f in features] == [
        ("strings", [], [0, 0]),
        ("ints", [], [0, 0]),
        ("ints", [], [0, 0]),
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5, ("ints", [5], [])),
        (2.5, ("doubles", [2.5], [])),
        (True, ("ints", [1], [])),
        ("word", ("strings", ["word"], [])),
        (np.float32(2), ("floats", [2], [])),
        (np.array(3), ("ints", [3], [])),
        ([["a", "b"]], ("strings", ["a", "b"], [2])),
    ],
)
def test_context_takes_bare_values(value: Any, expected: tuple[str, list[Any], list[int]]) -> None:
    assert sent(value, scalars=True) == expected


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([1, "a"], "expected one kind of value"),
        ([2**63], "too large"),
        (np.array([2**63], np.uint64), "64-bit signed integers"),
        (NOT_UTF8, "valid Unicode"),
        (NOT_UTF8_LONG, "valid Unicode"),
        ([b"raw"], "found binary values; expected numbers, bools or strings"),
        (["\ud800"], "surrogates"),
        ([{"a": 1}], "found struct"),
        ([[[1]]], "found list"),
        (np.array(["2020-01-01"], "datetime64[s]"), "found timestamp"),
        (pd.Series(pd.to_datetime(["2020-01-01"])), "found timestamp"),
        (np.zeros((2, 2, 2)), "1-dimensional"),
        (np.array([1j]), "expected"),
        (5, "found a single value; expected one per row"),
        ("text", "found a single value; expected one per row"),
        (None, "found a single value; expected one per row"),
        ([object()], "expected one kind of value"),
    ],
)
def test_errors_name_the_feature(values: Any, reason: str) -> None:
    with pytest.raises(EncodingError, match=rf"^feature 'f': .*{reason}"):
        sent(values)


def test_tabular_data_is_reduced_to_the_named_columns() -> None:
    frame = pd.DataFrame({"a": [1, 2], "unread": [object(), object()], "b": ["x", "y"]})
    table = pa.table({"a": [1, 2], "unread": [b"1", b"2"], "b": ["x", "y"]})
    for data in (frame, table, table.to_batches()[0]):
        assert list(to_columns(data, ["b", "a", "absent"])) == ["a", "b"]
    assert len(to_columns(frame, ["b"])["b"]) == 2


def test_a_column_twice_is_an_error() -> None:
    frame = pd.DataFrame([[1, 2]], columns=["a", "a"])
    with pytest.raises(EncodingError, match="feature 'a': found 2 columns; expected one"):
        to_columns(frame, ["a"])
    assert to_columns(frame, ["b"]) == {}


def test_data_of_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(EncodingError, match="found list; expected a dict of columns"):
        to_columns([[1, 2]])


def test_integral_floats_become_ints_in_tables_where_ints_are_wanted() -> None:
    frame = pd.DataFrame({"i": [1.0, np.nan], "f": [1.5, np.nan], "n": [1.0, 2.0]})
    columns = fit_types(to_columns(frame, ["i", "f", "n"]), {"i": "int", "f": "int", "n": "number"})
    assert [parsed(f) for f in encode_all(columns)] == [
        ("ints", [1], [1, 0]),
        ("doubles", [1.5], [1, 0]),
        ("doubles", [1.0, 2.0], []),
    ]


NUMBERS = st.one_of(st.none(), st.floats(allow_nan=False, width=32))
INTS = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))
TEXTS = st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=20))


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.tuples(st.just(pa.float32()), st.lists(NUMBERS)),
        st.tuples(st.just(pa.float64()), st.lists(NUMBERS)),
        st.tuples(st.just(pa.int64()), st.lists(INTS)),
        st.tuples(st.just(pa.string()), st.lists(TEXTS)),
        st.tuples(st.just(pa.list_(pa.int64())), st.lists(st.one_of(st.none(), st.lists(INTS, max_size=4)))),
        st.tuples(st.just(pa.list_(pa.string())), st.lists(st.one_of(st.none(), st.lists(TEXTS, max_size=4)))),
        st.tuples(st.just(pa.list_(pa.float64())), st.lists(st.one_of(st.none(), st.lists(NUMBERS, max_size=4)))),
    ),
    st.data(),
)
def test_round_trip(typed: tuple[pa.DataType, list[Any]], data: st.DataObject) -> None:
    """Decoding gives back every value in its row, also of a slice, and what training reads from the same column."""
    kind, rows = typed
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, len(rows)))
    column = pa.array(rows, kind).slice(start, stop - start)
    rows = rows[start:stop]

    kind_sent, values, lengths = sent(column)
    present = [[value for value in row if value is not None] for row in map(as_list, rows)]
    counts = [len(row) for row in present]
    assert values == [value for row in present for value in row]
    assert lengths == ([] if set(counts) <= {1} else counts)

    [trained] = columns_from_arrow(pa.table({"f": column}), ["f"], [InputInfo("f", "number", True, True)])
    if isinstance(trained.values, StringValues):
        assert kind_sent == "strings"
        assert values == [value.decode() for value in trained.values.to_bytes()]
    else:
        kinds = {np.dtype(np.float32): "floats", np.dtype(np.float64): "doubles", np.dtype(np.int64): "ints"}
        assert kind_sent == kinds[trained.values.dtype]
        assert values == trained.values.tolist()
    assert counts == (trained.lengths.tolist() if trained.lengths is not None else [1] * len(rows))


def as_list(row: Any) -> list[Any]:
    return row if isinstance(row, list) else [row]
