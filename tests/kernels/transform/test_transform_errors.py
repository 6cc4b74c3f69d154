"""Every way in which input can be wrong: an InputError names the feature, what came and what is expected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from smt.kernels.transform import FeatureTransform, InputError, RawColumn, StringValues
from smt.kernels.transform.reference import ReferenceTransform

SPEC: dict[str, Any] = {
    "format": 1,
    "dense_slots": 2,
    "categorical_slots": 3,
    "table_rows": 4 + 12 + 7,
    "features": [
        {"name": "age", "input": "age", "type": "number", "required": True, "kind": "dense", "slot": 0, "steps": []},
        {
            "name": "education",
            "input": "education",
            "type": "string",
            "required": False,
            "kind": "categorical",
            "slot": 0,
            "first_row": 0,
            "rows": 4,
            "encode": {"op": "vocabulary", "values": ["a", "b"]},
        },
        {
            "name": "user",
            "input": "user_id",
            "type": "int",
            "required": False,
            "kind": "categorical",
            "slot": 1,
            "first_row": 4,
            "rows": 12,
            "encode": {"op": "hash", "size": 10},
        },
        {
            "name": "genres",
            "input": "genres",
            "type": "string",
            "required": False,
            "kind": "categorical",
            "slot": 2,
            "multi_valued": True,
            "max_length": 2,
            "first_row": 16,
            "rows": 7,
            "encode": {"op": "hash", "size": 5},
        },
    ],
}


def floats(name: str, *values: float, lengths: list[int] | None = None) -> RawColumn:
    return RawColumn(name, np.array(values, np.float32), None if lengths is None else np.array(lengths, np.int32))


def doubles(name: str, *values: float, lengths: list[int] | None = None) -> RawColumn:
    return RawColumn(name, np.array(values, np.float64), None if lengths is None else np.array(lengths, np.int32))


def ints(name: str, *values: int, lengths: list[int] | None = None) -> RawColumn:
    return RawColumn(name, np.array(values, np.int64), None if lengths is None else np.array(lengths, np.int32))


def strings(name: str, *values: str, lengths: list[int] | None = None) -> RawColumn:
    return RawColumn(name, StringValues.from_strings(values), None if lengths is None else np.array(lengths, np.int32))


AGE = floats("age", 1, 2)
FINITE = "expected finite numbers (length 0 where missing)"

# rows, candidates, context, the whole message
CASES: list[tuple[int, list[RawColumn], list[RawColumn], str]] = [
    (0, [AGE], [], "rows: 0; expected 1..8"),
    (-3, [AGE], [], "rows: -3; expected 1..8"),
    (9, [AGE], [], "rows: 9; expected 1..8"),
    (2, [AGE, ints("age_", 1, 2)], [], "feature 'age_': unknown feature; did you mean 'age'?"),
    (2, [AGE, ints("gneres", 1, 2)], [], "feature 'gneres': unknown feature; did you mean 'genres'?"),
    (
        2,
        [AGE, ints("country", 1, 2)],
        [],
        "feature 'country': unknown feature; expected one of 'age', 'education', 'user_id', 'genres'",
    ),
    (2, [AGE, ints("\ud800 in this", 1, 2)], [], r"feature '\ud800 in this': unknown feature; expected one of"),
    # A feature's name is not an input's.
    (2, [AGE, ints("user", 1, 2)], [], "feature 'user': unknown feature; expected one of 'age', 'education'"),
    (2, [AGE, AGE], [], "feature 'age': sent twice; expected once"),
    (2, [], [floats("age", 1), floats("age", 1)], "feature 'age': sent twice; expected once"),
    (2, [AGE], [floats("age", 1)], "feature 'age': sent both as context and as candidate; expected once"),
    (2, [], [], "feature 'age': not sent; expected it, it is required (type number)"),
    (2, [strings("age", "1", "2")], [], "feature 'age': expected numbers (floats, doubles or ints), got strings"),
    (2, [AGE, floats("user_id", 1, 2)], [], "feature 'user_id': expected ints, got floats"),
    (2, [AGE, doubles("user_id", 1, 2)], [], "feature 'user_id': expected ints, got doubles"),
    (2, [AGE, strings("user_id", "1", "2")], [], "feature 'user_id': expected ints, got strings"),
    (2, [AGE, ints("education", 1, 2)], [], "feature 'education': expected strings, got ints"),
    (2, [AGE], [doubles("genres", 1)], "feature 'genres': expected strings, got doubles"),
    (2, [floats("age", 1)], [], "feature 'age': 1 value without lengths; expected 2, one per row"),
    (2, [floats("age", 1, 2, 3)], [], "feature 'age': 3 values without lengths; expected 2, one per row"),
    (2, [floats("age")], [], "feature 'age': 0 values without lengths; expected 2, one per row"),
    (
        2,
        [],
        [floats("age", 1, 2)],
        "feature 'age': 2 values without lengths; expected 1 (a context feature holds one row)",
    ),
    (2, [floats("age", 1, lengths=[1])], [], "feature 'age': 1 length; expected 2, one per row"),
    (2, [floats("age", 1, 2, lengths=[1, 1, 0])], [], "feature 'age': 3 lengths; expected 2, one per row"),
    (
        2,
        [AGE],
        [strings("genres", "a", "b", lengths=[1, 1])],
        "feature 'genres': 2 lengths; expected 1 (a context feature holds one row)",
    ),
    (2, [floats("age", 1, lengths=[1, 1])], [], "feature 'age': 1 value but lengths that sum to 2; expected the two"),
    (2, [floats("age", 1, 2, lengths=[0, 1])], [], "feature 'age': 2 values but lengths that sum to 1; expected the"),
    (2, [floats("age", 1, lengths=[2, -1])], [], "feature 'age': 2 values in row 0; expected at most 1, it is not"),
    (2, [floats("age", 1, lengths=[1, -1])], [], "feature 'age': length -1 in row 1; expected 0 or more"),
    (
        2,
        [AGE, strings("genres", "a", lengths=[-(2**31), 1])],
        [],
        "feature 'genres': length -2147483648 in row 0; expected 0 or more",
    ),
    (
        2,
        [AGE, strings("education", "a", "b", lengths=[0, 2])],
        [],
        "feature 'education': 2 values in row 1; expected at most 1, it is not multi-valued",
    ),
    (2, [AGE, strings("genres", *"abcdef", lengths=[1, 5])], [], "feature 'genres': 5 values in row 1; expected at"),
    (
        2,
        [AGE, strings("genres", "a", lengths=[2**31 - 1, 2**31 - 1])],
        [],
        "feature 'genres': 2147483647 values in row 0; expected at most 4",
    ),
    (2, [floats("age", 1, np.nan)], [], f"feature 'age': NaN in row 1; {FINITE}"),
    (2, [doubles("age", np.nan, 1)], [], f"feature 'age': NaN in row 0; {FINITE}"),
    (2, [floats("age", np.inf, 1)], [], f"feature 'age': Inf in row 0; {FINITE}"),
    (2, [doubles("age", 1, -np.inf)], [], f"feature 'age': -Inf in row 1; {FINITE}"),
    (3, [doubles("age", 1, np.nan, lengths=[1, 0, 1])], [], f"feature 'age': NaN in row 2; {FINITE}"),
    (2, [], [doubles("age", np.nan)], f"feature 'age': NaN in row 0; {FINITE}"),
]


@pytest.mark.parametrize(("rows", "candidates", "context", "message"), CASES, ids=[case[3][:60] for case in CASES])
def test_bad_input(rows: int, candidates: list[RawColumn], context: list[RawColumn], message: str) -> None:
    transform = FeatureTransform(SPEC)
    with pytest.raises(InputError) as caught:
        transform.apply(rows, candidates, context, max_rows=8, max_list=4)
    assert str(caught.value).startswith(message)
    # The same object goes on serving.
    good = transform.apply(2, [AGE], max_rows=8, max_list=4)
    assert good.dense[:, 0].tolist() == [1, 2]

    with pytest.raises(InputError) as by_reference:
        ReferenceTransform(SPEC).apply(rows, candidates, context, max_rows=8, max_list=4)
    assert str(caught.value).startswith(str(by_reference.value).replace("\ud800", r"\ud800"))


def test_limits_themselves_are_accepted() -> None:
    transform = FeatureTransform(SPEC)
    age = floats("age", *range(8))
    genres = strings("genres", *"abcd" * 8, lengths=[4] * 8)
    batch = transform.apply(8, [age, genres], max_rows=8, max_list=4)
    assert np.diff(batch.offsets)[-8:].tolist() == [2] * 8  # the spec's max_length


@pytest.mark.parametrize(
    ("values", "lengths", "message"),
    [
        ([1, 2], None, "feature 'age': values: list; expected a numpy array [n] of float32 or float64 or int64"),
        (np.zeros(2, np.int32), None, "feature 'age': values: dtype int32; expected"),
        (np.zeros(2, np.dtype(">f8")), None, "feature 'age': values: dtype >f8; expected"),
        (np.zeros((2, 1)), None, "feature 'age': values: an array of shape [2, 1]; expected"),
        (np.array(["a", "b"]), None, "feature 'age': values: dtype <U1; expected"),
        (np.zeros(2), np.ones(2, np.int64), "feature 'age': lengths: dtype int64; expected"),
        (np.zeros(2), [1, 1], "feature 'age': lengths: list; expected a numpy array [n] of int32"),
        (
            StringValues(np.zeros(3, np.uint32), np.zeros(1, np.uint8)),
            None,
            "feature 'age': string offsets: dtype uint32; expected",
        ),
        (
            StringValues(np.zeros(3, np.int32), np.zeros(1, np.int8)),
            None,
            "feature 'age': string data: dtype int8; expected",
        ),
    ],
)
def test_bad_arrays(values: Any, lengths: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        RawColumn("age", values, lengths)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([0, 2, 1], "string 1 at bytes 2..1; expected increasing offsets within the 3 bytes of the buffer"),
        ([0, 1, 4], "string 1 at bytes 1..4; expected"),
        ([-1, 1, 2], "string 0 at bytes -1..1; expected"),
        ([5, 5, 5], "string 0 at bytes 5..5; expected"),
        ([], "no string offsets; expected one more than there are values"),
    ],
)
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_offsets_cannot_lead_out_of_the_buffer(offsets: list[int], message: str, dtype: Any) -> None:
    values = StringValues(np.array(offsets, dtype), np.frombuffer(b"abc", np.uint8))
    with pytest.raises(InputError) as caught:
        FeatureTransform(SPEC).apply(2, [AGE, RawColumn("education", values)])
    assert str(caught.value).startswith(f"feature 'education': {message}")


def test_strided_and_unaligned_arrays_are_read_right() -> None:
    transform = FeatureTransform(SPEC)
    strided = np.arange(8, dtype=np.float64)[::4]
    unaligned = np.frombuffer(b"\0" + np.array([4.0, 5.0]).tobytes(), np.uint8)[1:].view(np.float64)
    assert not unaligned.flags.aligned
    read_only = np.array([6.0, 7.0])
    read_only.flags.writeable = False
    for values, expected in ((strided, [0, 4]), (unaligned, [4, 5]), (read_only, [6, 7])):
        batch = transform.apply(2, [RawColumn("age", values)])
        assert batch.dense[:, 0].tolist() == expected


def test_input_error_is_a_value_error() -> None:
    assert issubclass(InputError, ValueError)
