"""A FeatureSpec that is wrong is refused with a SpecError that names the feature and the key."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from smt.kernels.transform import FeatureTransform, InputInfo, RawColumn, SpecError

Spec = dict[str, Any]

GOOD: Spec = {
    "format": 1,
    "dense_slots": 2,
    "categorical_slots": 4,
    "table_rows": 4 + 5 + 12,
    "features": [
        {
            "name": "age",
            "input": "age",
            "type": "number",
            "required": True,
            "kind": "dense",
            "slot": 1,
            "default": None,
            "steps": [{"op": "log"}, {"op": "clip", "low": 0, "high": 9}, {"op": "normalise", "mean": 1, "std": 2}],
        },
        {
            "name": "education",
            "input": "education",
            "type": "string",
            "required": True,
            "kind": "categorical",
            "slot": 3,
            "multi_valued": False,
            "max_length": 1,
            "first_row": 0,
            "rows": 4,
            "default": None,
            "encode": {"op": "vocabulary", "values": ["a", "b"]},
        },
        {
            "name": "age_bucket",
            "input": "age",
            "type": "int",
            "required": False,
            "kind": "categorical",
            "slot": 0,
            "first_row": 4,
            "rows": 5,
            "default": -5,
            "encode": {"op": "bucketise", "boundaries": [10, 20.5]},
        },
        {
            "name": "genres",
            "input": "genres",
            "type": "string",
            "required": False,
            "kind": "categorical",
            "slot": 1,
            "multi_valued": True,
            "max_length": 20,
            "first_row": 9,
            "rows": 12,
            "encode": {"op": "hash", "size": 10, "seed": 18446744073709551615},
        },
    ],
}


def test_good_spec() -> None:
    for spec in (GOOD, json.dumps(GOOD)):
        transform = FeatureTransform(spec)
        assert (transform.dense_slots, transform.categorical_slots, transform.table_rows) == (2, 4, 21)
        # int is the strict form of number; required if any of the features requires it.
        assert transform.inputs == (
            InputInfo("age", "int", True, False),
            InputInfo("education", "string", True, False),
            InputInfo("genres", "string", False, True),
        )


def feature(i: int, **keys: Any) -> Callable[[Spec], Any]:
    return lambda spec: spec["features"][i].update(keys)


def drop(i: int, key: str) -> Callable[[Spec], Any]:
    return lambda spec: spec["features"][i].pop(key)


def encode(i: int, **keys: Any) -> Callable[[Spec], Any]:
    return lambda spec: spec["features"][i]["encode"].update(keys)


def step(**keys: Any) -> Callable[[Spec], Any]:
    return lambda spec: spec["features"][0].update(steps=[keys])


CASES: list[tuple[Callable[[Spec], Any], str]] = [
    (lambda s: s.update(format=2), "feature spec: format: found 2; expected 1"),
    (lambda s: s.pop("format"), "feature spec: format: not there; expected a value"),
    (lambda s: s.update(extra=1), "feature spec: unknown key 'extra'; expected only format, dense_slots,"),
    (lambda s: s.update(dense_slots=-1), "feature spec: dense_slots: found -1; expected an integer in 0..65536"),
    (lambda s: s.update(dense_slots=1.5), "feature spec: dense_slots: found 1.5; expected an integer in 0..65536"),
    (lambda s: s.update(categorical_slots=True), "feature spec: categorical_slots: found true; expected an integer"),
    (lambda s: s.update(table_rows=20), "feature spec: table_rows: found 20; expected 21"),
    (lambda s: s.update(features={}), "feature spec: features: found an object; expected an array"),
    (lambda s: s.update(features=[]), "feature spec: features: found none; expected at least one"),
    (lambda s: s.update(features=[3]), "features[0]: found 3; expected an object"),
    (drop(1, "name"), "features[1]: name: not there; expected a value"),
    (feature(1, name=""), "features[1]: name: found ''; expected a string that is not empty"),
    (feature(1, name="age"), "feature 'age': name: found it twice; expected one feature of each name"),
    (feature(1, input=7), "feature 'education': input: found 7; expected a string that is not empty"),
    (feature(1, type="text"), "feature 'education': type: found 'text'; expected one of number, int, string"),
    (feature(1, kind="sparse"), "feature 'education': kind: found 'sparse'; expected one of dense, categorical"),
    (feature(1, required="yes"), "feature 'education': required: found 'yes'; expected true or false"),
    (drop(1, "required"), "feature 'education': required: not there; expected a value"),
    (feature(1, step=[]), "feature 'education': unknown key 'step'; expected only name, input, type,"),
    (feature(0, encode={}), "feature 'age': unknown key 'encode'; expected only name, input, type,"),
    (
        feature(1, input="age"),
        "feature 'education': type: found 'string'; expected 'number', as another feature of input 'age' has",
    ),
    (feature(1, slot=4), "feature 'education': slot: found 4; expected an integer in 0..3"),
    (feature(1, slot=0), "feature 'age_bucket': slot: found 0, which another feature has; expected one feature per"),
    (lambda s: s.update(dense_slots=0), "feature 'age': slot: found 1; expected no such feature, the template has 0"),
    # dense
    (feature(0, type="string"), "feature 'age': type: found 'string' of a dense feature; expected number or int"),
    (feature(0, steps=None), "feature 'age': steps: found null; expected an array"),
    (feature(0, default="x"), "feature 'age': default: found 'x'; expected a finite number"),
    (feature(0, type="int", default=1.5), "feature 'age': default: found 1.5; expected an int (64 bit)"),
    (step(op="sqrt"), "feature 'age': steps[0]: op: found 'sqrt'; expected one of log, clip, normalise"),
    (step(op="log", base=2), "feature 'age': steps[0]: unknown key 'base'; expected only op"),
    (step(op="clip", low=2, high=1), "feature 'age': steps[0]: low: found 2; expected at most high"),
    (step(op="clip", low=2), "feature 'age': steps[0]: high: not there; expected a value"),
    (step(op="normalise", mean=0, std=0), "feature 'age': steps[0]: std: found 0; expected a number above 0"),
    (step(op="normalise", mean=None, std=1), "feature 'age': steps[0]: mean: found null; expected a finite number"),
    # categorical
    (feature(1, rows=5), "feature 'education': rows: found 5; expected 4"),
    (feature(1, first_row=1), "feature 'education': first_row: found 1; expected 0"),
    (feature(2, first_row=3), "feature 'age_bucket': first_row: found 3; expected 4"),
    (feature(1, max_length=2), "feature 'education': max_length: found 2; expected 1"),
    (feature(3, max_length=0), "feature 'genres': max_length: found 0; expected an integer in 1.."),
    (drop(3, "max_length"), "feature 'genres': max_length: not there; expected a value"),
    (feature(3, default="a"), "feature 'genres': default: found 'a'; expected null, a missing list is an empty one"),
    (feature(1, default=1), "feature 'education': default: found 1; expected a string, as the type of the feature"),
    (feature(2, default=1.5), "feature 'age_bucket': default: found 1.5; expected an int (64 bit)"),
    (feature(1, encode="hash"), "feature 'education': encode: found 'hash'; expected an object"),
    (encode(1, op="onehot"), "feature 'education': encode: op: found 'onehot'; expected one of vocabulary, bucketise"),
    (encode(1, size=3), "feature 'education': encode: unknown key 'size'; expected only op, values"),
    (encode(1, values=["a", 1]), "feature 'education': encode: values[1]: found 1; expected a string"),
    (encode(1, values=["a", "a"]), "feature 'education': encode: values[1]: found 'a' again; expected distinct values"),
    (
        feature(2, encode={"op": "vocabulary", "values": [1, 2, 1]}),
        "feature 'age_bucket': encode: values[2]: found 1 again; expected distinct values",
    ),
    (
        feature(2, encode={"op": "vocabulary", "values": [1, 2.0, 3]}),
        "feature 'age_bucket': encode: values[1]: found 2.0; expected an int (64 bit)",
    ),
    (
        feature(2, encode={"op": "vocabulary", "values": [1 << 63]}),
        "feature 'age_bucket': encode: values[0]: found 9223372036854775808; expected an int (64 bit)",
    ),
    (
        feature(2, type="number", encode={"op": "hash", "size": 3}),
        "feature 'age_bucket': encode: op: found 'hash' of type number; expected type int or string",
    ),
    (
        feature(1, encode={"op": "bucketise", "boundaries": [1]}),
        "feature 'education': encode: op: found 'bucketise' of strings; expected type number or int",
    ),
    (
        encode(2, boundaries=[2, 2]),
        "feature 'age_bucket': encode: boundaries[1]: found 2; expected strictly increasing",
    ),
    (
        encode(2, boundaries=[2, "3"]),
        "feature 'age_bucket': encode: boundaries[1]: found '3'; expected a finite number",
    ),
    (encode(3, size=0), "feature 'genres': encode: size: found 0; expected an integer in 1.."),
    (encode(3, seed=-1), "feature 'genres': encode: seed: found -1; expected an integer in 0..2^64-1"),
    (
        feature(1, sequence={"input": "seen", "required": True, "slot": 1, "length": 9}),
        "feature 'education': sequence: length: found 9; expected an integer in 1..4",
    ),
    (
        feature(1, sequence={"input": "seen", "required": True, "slot": 2, "length": 3}),
        "feature 'education': sequence: slot: found 2; expected an integer in 0..1",
    ),
    (
        feature(1, sequence={"input": "seen", "required": True, "slot": 2, "length": 2}),
        "feature 'education': sequence: slot: found 3, which another feature has; expected one feature per slot",
    ),
    (
        feature(1, sequence={"input": "age", "required": True, "slot": 1, "length": 1}),
        "feature 'education': sequence: type: ",
    ),
    (
        feature(1, sequence={"input": "seen", "slot": 1, "length": 1}),
        "feature 'education': sequence: required: ",
    ),
    (feature(1, sequence=[]), "feature 'education': sequence: found an array; expected an object"),
    (encode(3, size=(1 << 40)), "feature 'genres': rows: found 12; expected 1099511627778"),
]


@pytest.mark.parametrize(("change", "message"), CASES, ids=[message[:70] for _, message in CASES])
def test_bad_spec(change: Callable[[Spec], Any], message: str) -> None:
    spec = copy.deepcopy(GOOD)
    change(spec)
    with pytest.raises(SpecError) as caught:
        FeatureTransform(spec)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "feature spec: not valid JSON"),
        ("[1, 2", "feature spec: not valid JSON"),
        ("[]", "feature spec: found an array; expected an object"),
        ('{"format": 1, "format": 1}', "feature spec: key 'format' appears twice in one object; expected once"),
        ('{"format": 1e999}', "feature spec: not valid JSON"),
        ('{"format": "\\ud800"}', "feature spec: not valid JSON"),
        ('{"format": "\ud800"}', "feature spec: not valid Unicode"),
        ({"format": float("nan")}, "feature spec: cannot be written as JSON"),
        ({"format": {1, 2}}, "feature spec: cannot be written as JSON"),
        ({"format": "\ud800"}, "feature spec: not valid Unicode"),
    ],
)
def test_not_json(text: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        FeatureTransform(text)
    assert str(caught.value).startswith(message)


def test_doubles_keep_every_bit_through_json() -> None:
    boundaries = [5e-324, 0.1, 1 / 3, 1e22 + 2e6, 1.7976931348623157e308]
    spec: Spec = {
        "format": 1,
        "dense_slots": 0,
        "categorical_slots": 1,
        "table_rows": 8,
        "features": [
            {
                "name": "x",
                "input": "x",
                "type": "number",
                "required": True,
                "kind": "categorical",
                "slot": 0,
                "first_row": 0,
                "rows": 8,
                "encode": {"op": "bucketise", "boundaries": boundaries},
            }
        ],
    }
    values = np.array(boundaries)
    below = np.nextafter(values, -np.inf)
    transform = FeatureTransform(spec)
    assert transform.apply(5, [RawColumn("x", values)]).ids.tolist() == [3, 4, 5, 6, 7]
    assert transform.apply(5, [RawColumn("x", below)]).ids.tolist() == [2, 3, 4, 5, 6]


def test_spec_error_is_a_value_error() -> None:
    assert issubclass(SpecError, ValueError)
