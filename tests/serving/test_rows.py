"""Files of rows are read with the types that the scenario wants, or refused with file, column and reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from smt.serving.protos import prediction_pb2 as pb
from smt.serving.rows import RowsError, read_rows, write_scores


def inputs(**types: str) -> list[Any]:
    return [
        pb.InputMetadata(name=name, type=kind.removesuffix("*"), multi_valued=kind.endswith("*"))
        for name, kind in types.items()
    ]


INPUTS = inputs(price="number", code="string", user="int")


def read(path: Path, text: str, wanted: list[Any] = INPUTS) -> Any:
    path.write_text(text)
    return read_rows(path, wanted)


def test_csv(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.csv", 'code,price,user,more\n07,1,3,x\n"",,,y\n,2.5,-9223372036854775808,z\n')
    assert rows.to_pydict() == {
        "price": [1.0, None, 2.5],
        "code": ["07", "", None],
        "user": [3, None, -(2**63)],
    }


def test_json_lines(tmp_path: Path) -> None:
    text = '{"price": 1, "code": "07", "user": 2}\n{"code": null, "more": [1], "price": 2.5}\n'
    rows = read(tmp_path / "a.jsonl", text)
    assert rows.to_pydict() == {"price": [1.0, 2.5], "code": ["07", None], "user": [2, None]}
    dates = read(tmp_path / "b.jsonl", '{"code": "2020-01-01"}\n')
    assert dates.to_pydict() == {"code": ["2020-01-01"]}
    lists = read(tmp_path / "c.jsonl", '{"tags": ["a", "b"]}\n{"tags": []}\n', inputs(tags="string*"))
    assert lists.to_pydict() == {"tags": [["a", "b"], []]}


def test_booleans_are_ones_and_zeros(tmp_path: Path) -> None:
    """As in Parquet and in training, whichever type the scenario reads."""
    wanted = inputs(price="number", user="int", code="string", flags="int*")
    expected = {"price": [1.0, None, 0.0], "user": [None, 1, 0], "code": ["true", None, "x"]}
    rows = read(tmp_path / "a.csv", "user,code,price\n,true,True\nTRUE,,\nfalse,x, FALSE\n", wanted)
    assert rows.select(list(expected)).to_pydict() == expected
    types = {"price": pa.float64(), "user": pa.int64(), "code": pa.string()}
    assert dict(zip(rows.schema.names, rows.schema.types, strict=True)) == types
    lines = [
        {"price": True, "user": None, "code": "true", "flags": [True, False]},
        {"price": None, "user": True, "code": None, "flags": []},
        {"price": False, "user": False, "code": "x"},
    ]
    rows = read(tmp_path / "a.jsonl", "".join(json.dumps(line) + "\n" for line in lines), wanted)
    assert rows.to_pydict() == expected | {"flags": [[1, 0], [], None]}
    assert rows.schema.field("user").type == pa.int64()


def test_the_first_wrong_value_of_a_long_column_is_named(tmp_path: Path) -> None:
    values = ["1"] * 5000
    values[3210], values[4000] = "x", "y"
    with pytest.raises(RowsError, match=r"column 'user', row 3211: found 'x'; expected a 64-bit integer"):
        read(tmp_path / "a.csv", "\n".join(["user", *values]) + "\n")


def test_a_column_that_no_row_has_is_absent_not_missing(tmp_path: Path) -> None:
    assert read(tmp_path / "a.jsonl", '{"price": 1}\n').column_names == ["price"]
    assert read(tmp_path / "b.jsonl", '{"price": 1, "code": null}\n').column_names == ["price", "code"]
    assert read(tmp_path / "c.csv", "price\n1\n").column_names == ["price"]
    for name in ("d.jsonl", "e.csv"):
        text = '{"other": 1}\n{"other": 2}\n' if name.endswith("jsonl") else "other\n1\n2\n"
        rows = read(tmp_path / name, text)
        assert rows.num_rows == 2
        assert not {"price", "code", "user"} & set(rows.column_names)


def test_parquet(tmp_path: Path) -> None:
    table = pa.table({"price": [1.0, None], "more": ["x", "y"], "tags": [["a"], None]})
    pq.write_table(table, tmp_path / "a.parquet")
    rows = read_rows(tmp_path / "a.parquet", [*INPUTS, *inputs(tags="string*")])
    assert rows.to_pydict() == {"price": [1.0, None], "tags": [["a"], None]}
    assert read_rows(tmp_path / "a.parquet", inputs(user="int")).num_rows == 2


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "price\nabc\n", "column 'price', row 1: found 'abc'; expected a number"),
        ("a.csv", "user,code\n1,a\n1.5,b\n", "column 'user', row 2: found '1.5'; expected a 64-bit integer"),
        ("a.csv", "user\ntrue\n1\n", "column 'user', row 1: found 'true'; expected .* or true and false in every"),
        ("a.csv", "price,user\n1\n", "Expected 2 columns, got 1"),
        ("a.csv", "price,price\n1,2\n", "found 2 columns 'price'; expected one"),
        ("a.csv", "", "Empty CSV file"),
        ("a.csv", "tags\na\n", "column 'tags' holds lists, which CSV has not"),
        ("a.jsonl", '{"price": "x"}\n', "column 'price', line 1: found \"x\"; expected a number"),
        ("a.jsonl", '{"user": 1}\n{"user": 1.5}\n', "column 'user', line 2: found 1.5; expected a 64-bit integer"),
        ("a.jsonl", '{"user": true}\n{"user": 2}\n', "column 'user', line 2: found 2; .* true and false in every row"),
        ("a.jsonl", '{"code": 7}\n', "column 'code', line 1: found 7; expected a string"),
        ("a.jsonl", '{"code": true}\n', "column 'code', line 1: found true; expected a string"),
        ("a.jsonl", '{"tags": "a"}\n', "column 'tags', line 1: found \"a\"; expected a list, each a string"),
        ("a.jsonl", '{"price": ', "JSON"),
        ("a.jsonl", "[1]\n", "JSON"),
        ("a.jsonl", "", "the file is empty"),
        ("a.parquet", "no parquet", "Parquet"),
        ("a.txt", "x", r"found the ending '\.txt'; expected \.parquet, \.csv, \.jsonl"),
        ("a", "x", "found the ending 'nothing'"),
    ],
)
def test_errors_name_the_file(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(RowsError, match=message) as failure:
        read(tmp_path / name, text, [*INPUTS, *inputs(tags="string*")])
    assert str(failure.value).startswith(str(tmp_path / name))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RowsError, match=r"a\.csv: no such file"):
        read_rows(tmp_path / "a.csv", INPUTS)


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "a.jsonl"])
def test_scores(tmp_path: Path, name: str) -> None:
    scores = {"click": np.array([0.25, 0.1], np.float32), "like": np.array([1e-9, 1.0], np.float32)}
    path = tmp_path / name
    write_scores(path, scores)
    if name == "a.parquet":
        found = pq.read_table(path).to_pydict()
    elif name == "a.csv":
        found = pa.csv.read_csv(path).to_pydict()
    else:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        found = {task: [line[task] for line in lines] for task in scores}
    assert list(found) == ["click", "like"]
    for task, values in scores.items():
        np.testing.assert_array_equal(np.array(found[task], np.float32), values)
