"""The C++ transformation against its specification, value by value, over random specs and random columns."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smt.kernels.transform import FeatureTransform, InputError, RawColumn, StringValues, TransformedBatch
from smt.kernels.transform.reference import ReferenceTransform, dense_value, local_row

INT64 = np.iinfo(np.int64)

# Composed and decomposed é, a family emoji joined by ZWJ, a flag, right-to-left, NUL first and last.
STRINGS = [
    "",
    "a",
    "b",
    "A",
    " a",
    "\0",
    "a\0",
    "\0a",
    "é",
    "e\u0301",
    "👩\u200d👩\u200d👧",
    "🇩🇪",
    "שלום",
    "x" * 300,
    "NIU",
]
INTS = [0, 1, -1, 2, 52, INT64.min, INT64.max, INT64.min + 1, 1 << 53, (1 << 53) + 1, -(1 << 53) - 1, 1 << 32]
FLOATS = [0.0, -0.0, 1.0, -1.0, 1e308, -1e308, 5e-324, -5e-324, 2.2e-308, 1e-3, 1e6, 1e6 + 1, 10.0, 20.0, math.pi]

strings = st.sampled_from(STRINGS) | st.text(max_size=6)
ints = st.sampled_from(INTS) | st.integers(INT64.min, INT64.max) | st.integers(-5, 5)
floats = st.sampled_from(FLOATS) | st.floats(allow_nan=False, allow_infinity=False)
finite = st.floats(-1e9, 1e9) | st.sampled_from([1e308, -1e308, 5e-324])
VALUES: dict[str, st.SearchStrategy[Any]] = {"string": strings, "int": ints, "number": floats}


@st.composite
def step(draw: st.DrawFn) -> dict[str, Any]:
    op = draw(st.sampled_from(["log", "clip", "normalise"]))
    if op == "log":
        return {"op": op}
    if op == "clip":
        low, high = sorted([draw(finite), draw(finite)])
        return {"op": op, "low": low, "high": high}
    std = draw(st.floats(1e-6, 1e6) | st.sampled_from([5e-324, 1e308, 1]))
    return {"op": op, "mean": draw(finite), "std": std}


@st.composite
def encoder(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    ops = {"string": ["vocabulary", "hash"], "int": ["vocabulary", "hash", "bucketise"], "number": ["bucketise"]}
    op = draw(st.sampled_from(ops[kind]))
    if op == "vocabulary":
        return {"op": op, "values": draw(st.lists(VALUES[kind], unique=True, max_size=8))}
    if op == "hash":
        seed = draw(st.sampled_from([0, 1, (1 << 64) - 1]) | st.integers(0, (1 << 64) - 1))
        return {"op": op, "size": draw(st.sampled_from([1, 2, 7, 100_000, 1 << 33])), "seed": seed}
    return {"op": op, "boundaries": sorted({b + 0.0 for b in draw(st.lists(floats | finite, max_size=6))})}


def encoder_rows(encode: dict[str, Any]) -> int:
    if encode["op"] == "hash":
        return 2 + int(encode["size"])
    return 2 + (len(encode["values"]) if encode["op"] == "vocabulary" else len(encode["boundaries"]) + 1)


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """A valid FeatureSpec of one to four inputs, each read by one to three features."""
    features: list[dict[str, Any]] = []
    for i in range(draw(st.integers(1, 4))):
        base = draw(st.sampled_from(["string", "int", "number"]))
        lists = base != "number" and draw(st.booleans())
        for _ in range(draw(st.integers(1, 3))):
            kind = "number" if base == "int" and draw(st.booleans()) else base
            feature: dict[str, Any] = {"name": f"f{len(features)}", "input": f"in{i}", "type": kind}
            feature["required"] = draw(st.booleans())
            default = draw(st.none() | VALUES[kind])
            if base != "string" and not lists and draw(st.booleans()):
                steps = draw(st.lists(step(), max_size=4))
                feature |= {"kind": "dense", "default": default, "steps": steps}
            else:
                multi = lists or (kind != "number" and draw(st.booleans()))
                feature |= {
                    "kind": "categorical",
                    "multi_valued": multi,
                    "max_length": draw(st.integers(1, 4)) if multi else 1,
                    "default": None if multi else default,
                    "encode": draw(encoder(kind)),
                }
            features.append(feature)
    with_slots = sequences(draw, features)
    spec: dict[str, Any] = {"format": 1, "table_rows": 0, "features": features}
    for kind, key in (("dense", "dense_slots"), ("categorical", "categorical_slots")):
        mine = [f for f in features if f["kind"] == kind]
        spec[key] = len(mine) + draw(st.integers(0, 3))
        for feature, slot in zip(mine, draw(st.permutations(range(spec[key]))), strict=False):
            feature["slot"] = slot
    for sequence in with_slots:  # behind the features' slots
        sequence["slot"] = spec["categorical_slots"]
        spec["categorical_slots"] += sequence["length"]
    for feature in features:
        if feature["kind"] == "categorical":
            feature["first_row"] = spec["table_rows"]
            feature["rows"] = encoder_rows(feature["encode"])
            spec["table_rows"] += feature["rows"]
    return spec


def sequences(draw: st.DrawFn, features: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Gives some features a sequence, of an input of its own or of one that a feature of the type reads."""
    made = []
    for feature in features:
        if feature["kind"] != "categorical" or not draw(st.booleans()):
            continue
        others = [f["input"] for f in features if (f["type"] == "string") == (feature["type"] == "string")]
        sequence = {"input": draw(st.sampled_from([f"s{feature['name']}", *others])), "required": draw(st.booleans())}
        feature["sequence"] = sequence | {"length": draw(st.integers(1, 4))}
        made.append(feature["sequence"])
    return made


@st.composite
def columns(draw: st.DrawFn, spec: dict[str, Any], rows: int) -> tuple[list[RawColumn], list[RawColumn]]:
    """Candidate and context columns that fit the spec."""
    candidates: list[RawColumn] = []
    context: list[RawColumn] = []
    infos = list(ReferenceTransform(spec).inputs)
    for info in draw(st.permutations(infos)):
        where = draw(st.sampled_from(["candidate", "candidate", "context"] + ([] if info.required else ["absent"])))
        if where == "absent":
            continue
        count = 1 if where == "context" else rows
        lengths = None
        if draw(st.booleans()):
            most = 6 if info.multi_valued else 1
            lengths = np.array(draw(st.lists(st.integers(0, most), min_size=count, max_size=count)), np.int32)
        n = count if lengths is None else int(lengths.sum())
        column = RawColumn(info.name, draw(column_values(spec, info.name, info.type, n)), lengths)
        (context if where == "context" else candidates).append(column)
    return candidates, context


@st.composite
def column_values(draw: st.DrawFn, spec: dict[str, Any], name: str, kind: str, n: int) -> Any:
    pool = VALUES[kind]
    # Values that the spec knows, and those next to its boundaries, must come up often.
    known: list[Any] = []
    for feature in spec["features"]:
        reads = name in (feature["input"], feature.get("sequence", {}).get("input"))
        encode = feature.get("encode", {}) if reads else {}
        known += list(encode.get("values", []))
        for boundary in encode.get("boundaries", []):
            if kind == "number":
                known += [boundary, math.nextafter(boundary, math.inf), math.nextafter(boundary, -math.inf)]
    known = [v for v in known if not isinstance(v, float) or math.isfinite(v)]
    if known:
        pool = st.sampled_from(known) | pool
    values = draw(st.lists(pool, min_size=n, max_size=n))
    if kind == "string":
        packed = StringValues.from_strings(values)
        if draw(st.booleans()):  # int32 offsets that do not start at 0, as in a sliced Arrow array
            data = np.concatenate([np.frombuffer(b"\xff\xfe", np.uint8), packed.data])
            return StringValues((packed.offsets + 2).astype(np.int32), data)
        return packed
    if kind == "int":
        return np.array(values, np.int64)
    dtype = draw(st.sampled_from([np.float64, np.float32, np.int64]))
    if dtype is np.float32:
        limit = float(np.finfo(np.float32).max)
        return np.array([min(max(v, -limit), limit) for v in values], np.float32)
    if dtype is np.int64:
        return np.array(draw(st.lists(ints, min_size=n, max_size=n)), np.int64)
    return np.array(values, np.float64)


def assert_same(actual: TransformedBatch, expected: TransformedBatch) -> None:
    """Equal to the bit, dense values too: both sides call the C library's log1p and round once to float32."""
    assert actual.rows == expected.rows
    for key, dtype in (("ids", np.int64), ("offsets", np.int64), ("bag_index", np.int64), ("dense", np.float32)):
        ours, theirs = getattr(actual, key), getattr(expected, key)
        assert ours.dtype == theirs.dtype == dtype
        assert ours.shape == theirs.shape, key
        assert ours.tobytes() == theirs.tobytes(), key


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_equals_reference(data: st.DataObject) -> None:
    spec = data.draw(specs())
    rows = data.draw(st.integers(1, 9) | st.sampled_from([31, 33]))
    candidates, context = data.draw(columns(spec, rows))
    local_ids = data.draw(st.booleans())
    transform, reference = FeatureTransform(spec), ReferenceTransform(spec)
    assert transform.inputs == reference.inputs
    assert transform.table_rows == spec["table_rows"]

    actual = transform.apply(rows, candidates, context, local_ids=local_ids)
    expected = reference.apply(rows, candidates, context, local_ids=local_ids)
    assert_same(actual, expected)

    # What the template binary relies on.
    assert actual.offsets[0] == actual.offsets[1] == 0
    assert actual.offsets[-1] == len(actual.ids)
    assert len(actual.offsets) >= 3
    assert (np.diff(actual.offsets) >= 0).all()
    assert ((actual.bag_index >= 0) & (actual.bag_index < len(actual.offsets) - 1)).all()
    if not local_ids:
        assert ((actual.ids >= 0) & (actual.ids < max(spec["table_rows"], 1))).all()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_refuses_what_the_reference_refuses(data: st.DataObject) -> None:
    """Random damage to a good request: both refuse it with the same words, or both accept it with the same result."""
    spec = data.draw(specs())
    rows = data.draw(st.integers(1, 5))
    candidates, context = data.draw(columns(spec, rows))
    everything = [*candidates, *context]
    if everything:
        victim = data.draw(st.sampled_from(everything))
        damaged = data.draw(damage(victim))
        candidates = [damaged if c is victim else c for c in candidates]
        context = [damaged if c is victim else c for c in context]
        if data.draw(st.integers(0, 4)) == 0:
            (candidates if data.draw(st.booleans()) else context).append(victim)
        if data.draw(st.integers(0, 4)) == 0:
            candidates = [c for c in candidates if c is not damaged]
    rows += data.draw(st.sampled_from([0, 0, 0, 1, -1]))
    assert outcome(FeatureTransform(spec), rows, candidates, context) == outcome(
        ReferenceTransform(spec), rows, candidates, context
    )


@st.composite
def damage(draw: st.DrawFn, column: RawColumn) -> RawColumn:
    name, lengths = column.name, column.lengths
    values: Any = column.values
    what = draw(st.sampled_from(["name", "type", "values", "lengths", "negative", "long", "nan", "none"]))
    if what == "name":
        name = draw(st.sampled_from(["in", "in00", "unknown", "", "in1 ", "IN0"]))
    elif what == "type":
        wrong = [np.ones(len(values), np.float32), np.ones(len(values), np.int64)]
        values = draw(st.sampled_from([*wrong, StringValues.from_strings(["1"] * len(values))]))
    elif what == "values" and not isinstance(values, StringValues):
        values = draw(st.sampled_from([values[:-1], np.repeat(values, 2), values[:0]]))
    elif what == "lengths" and lengths is not None:
        lengths = draw(st.sampled_from([lengths[:-1], np.append(lengths, np.int32(0)), lengths + np.int32(1)]))
    elif what in ("negative", "long") and lengths is not None and len(lengths):
        lengths = lengths.copy()
        bad = st.integers(-(1 << 31), -1) if what == "negative" else st.integers(7, (1 << 31) - 1)
        lengths[draw(st.integers(0, len(lengths) - 1))] = draw(bad)
    elif what == "nan" and not isinstance(values, StringValues) and values.dtype.kind == "f" and len(values):
        values = values.copy()
        values[draw(st.integers(0, len(values) - 1))] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    return RawColumn(name, values, lengths)


def outcome(
    transform: FeatureTransform | ReferenceTransform, rows: int, candidates: list[RawColumn], context: list[RawColumn]
) -> object:
    try:
        batch = transform.apply(rows, candidates, context, max_rows=5, max_list=100)
    except InputError as error:
        message = str(error)
        end = message.find("unknown feature; ")
        return message if end < 0 else message[:end]  # hints follow, which the reference does not give
    return batch.rows, batch.ids.tolist(), batch.offsets.tolist(), batch.bag_index.tolist(), batch.dense.shape


def spec_of(*features: dict[str, Any]) -> dict[str, Any]:
    """A spec whose features read the inputs x0, x1, ...; slots and rows filled in."""
    dense = categorical = rows = 0
    out = []
    for i, given_keys in enumerate(features):
        feature: dict[str, Any] = {"name": f"x{i}", "input": f"x{i}", "required": True, **given_keys}
        if "encode" in feature:
            size = encoder_rows(feature["encode"])
            feature |= {"kind": "categorical", "slot": categorical, "first_row": rows, "rows": size}
            categorical, rows = categorical + 1, rows + size
        else:
            feature |= {"kind": "dense", "slot": dense}
            dense += 1
        out.append(feature)
    return {"format": 1, "dense_slots": dense, "categorical_slots": categorical, "table_rows": rows, "features": out}


@pytest.mark.parametrize(
    ("steps", "raw", "expected"),
    [
        ([], 1.5, 1.5),
        ([], 1e308, 1e6),
        ([], -1e308, -1e6),
        ([], 5e-324, 0.0),
        ([{"op": "log"}], 0.0, 0.0),
        ([{"op": "log"}], math.e - 1, 1.0),
        ([{"op": "log"}], -(math.e - 1), -1.0),
        ([{"op": "log"}], 1e308, 709.1962),
        ([{"op": "log"}, {"op": "log"}], math.exp(math.e - 1) - 1, 1.0),
        ([{"op": "clip", "low": 0, "high": 9}], 10, 9),
        ([{"op": "clip", "low": 0, "high": 9}], -10, 0),
        ([{"op": "normalise", "mean": 1, "std": 2}], 4, 1.5),
        ([{"op": "clip", "low": 0, "high": 3}, {"op": "normalise", "mean": 1, "std": 2}], 1e300, 1.0),
        ([{"op": "normalise", "mean": 1, "std": 2}, {"op": "clip", "low": 0, "high": 3}], 1e300, 3.0),
        ([{"op": "normalise", "mean": 0, "std": 5e-324}], 1.0, 1e6),
    ],
)
def test_dense_values_by_hand(steps: list[dict[str, Any]], raw: float, expected: float) -> None:
    spec = spec_of({"type": "number", "steps": steps})
    batch = FeatureTransform(spec).apply(1, [RawColumn("x0", np.array([raw]))])
    np.testing.assert_allclose(batch.dense, [[expected]], rtol=1e-6)
    np.testing.assert_allclose(dense_value(steps, raw), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("encode", "value", "expected"),
    [
        ({"op": "vocabulary", "values": ["a", "b"]}, "b", 3),
        ({"op": "vocabulary", "values": ["a", "b"]}, "c", 1),
        ({"op": "vocabulary", "values": ["a", "b"]}, "", 1),
        ({"op": "vocabulary", "values": ["", "\0"]}, "", 2),
        ({"op": "vocabulary", "values": ["", "\0"]}, "\0", 3),
        ({"op": "vocabulary", "values": ["é"]}, "e\u0301", 1),
        ({"op": "vocabulary", "values": []}, "a", 1),
        ({"op": "vocabulary", "values": [7, -7]}, -7, 3),
        ({"op": "vocabulary", "values": [INT64.min]}, INT64.min, 2),
        ({"op": "bucketise", "boundaries": [10.0, 20.0]}, 9.999, 2),
        ({"op": "bucketise", "boundaries": [10.0, 20.0]}, 10.0, 3),
        ({"op": "bucketise", "boundaries": [10.0, 20.0]}, 1e308, 4),
        ({"op": "bucketise", "boundaries": []}, -3.0, 2),
        # XXH3_64bits of "" and of b"a" with seed 0, from the algorithm's published test vectors.
        ({"op": "hash", "size": 1 << 39}, "", 2 + 0x2D06800538D394C2 % (1 << 39)),
        ({"op": "hash", "size": 1 << 39}, "a", 2 + 0xE6C632B61E964E1F % (1 << 39)),
        ({"op": "hash", "size": 1}, "anything", 2),
    ],
)
def test_rows_by_hand(encode: dict[str, Any], value: str | int | float, expected: int) -> None:
    kind = {str: "string", int: "int", float: "number"}[type(value)]
    raw = StringValues.from_strings([value]) if isinstance(value, str) else np.array([value])
    batch = FeatureTransform(spec_of({"type": kind, "encode": encode})).apply(1, [RawColumn("x0", raw)])
    assert batch.ids.tolist() == [expected]
    assert local_row(encode, value.encode() if isinstance(value, str) else value) == expected


def test_missing_values_and_defaults() -> None:
    vocabulary = {"op": "vocabulary", "values": ["a", "b"]}
    spec = spec_of(
        {"type": "number", "steps": [{"op": "log"}]},
        {"type": "number", "steps": [{"op": "log"}], "default": math.e - 1},
        {"type": "string", "encode": vocabulary},
        {"type": "string", "encode": vocabulary, "default": "b"},
        {"type": "string", "encode": vocabulary, "default": "not there"},
        {"type": "string", "encode": vocabulary, "multi_valued": True, "max_length": 2},
    )
    none = np.zeros(1, np.int32)
    sent = [RawColumn(f"x{i}", np.empty(0), none) for i in range(2)]
    sent += [RawColumn(f"x{i}", StringValues.from_strings([]), none) for i in range(2, 6)]
    for feature in spec["features"]:
        feature["required"] = False
    transform = FeatureTransform(spec)
    for candidates, context in ((sent, []), ([], sent), ([], [])):
        batch = transform.apply(1, candidates, context)
        np.testing.assert_allclose(batch.dense, [[0, 1]], rtol=1e-6)
        assert batch.ids.tolist() == [0, 4 + 3, 8 + 1]
        assert batch.offsets.tolist() == [0, 0, 1, 2, 3, 3]
        assert batch.bag_index.tolist() == [[1, 2, 3, 4]]


def test_lists_are_cut_at_max_length() -> None:
    encode = {"op": "vocabulary", "values": ["a", "b", "c"]}
    spec = spec_of({"type": "string", "encode": encode, "multi_valued": True, "max_length": 2})
    values = StringValues.from_strings(["a", "b", "c", "c"])
    batch = FeatureTransform(spec).apply(3, [RawColumn("x0", values, np.array([3, 0, 1], np.int32))])
    assert batch.ids.tolist() == [2, 3, 4]
    assert batch.offsets.tolist() == [0, 0, 2, 2, 3]


def test_one_object_serves_many_threads() -> None:
    """The GIL is released, so this runs in parallel; each call owns its arrays."""
    spec = spec_of({"type": "string", "encode": {"op": "hash", "size": 1000, "seed": 3}})
    transform, reference = FeatureTransform(spec), ReferenceTransform(spec)

    def call(i: int) -> TransformedBatch:
        column = RawColumn("x0", StringValues.from_strings([f"{i}-{j}" for j in range(200)]))
        return transform.apply(200, [column])

    with ThreadPoolExecutor(4) as pool:
        batches = list(pool.map(call, range(32)))
    for i, batch in enumerate(batches):
        column = RawColumn("x0", StringValues.from_strings([f"{i}-{j}" for j in range(200)]))
        assert batch.ids.tolist() == reference.apply(200, [column]).ids.tolist()
