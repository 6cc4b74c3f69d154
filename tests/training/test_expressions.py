"""Expressions against Python's own evaluation, row by row, with SQL's treatment of missing values."""

from __future__ import annotations

import ast
import contextlib
import operator
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smt.training.expressions import Expression, ExpressionError

TABLE = pa.table(
    {
        "n": pa.array([1, 2, None, -3], pa.int16()),
        "x": pa.array([0.5, float("nan"), None, 4.0], pa.float32()),
        "s": pa.array(["a", "b", None, "日本"]),
        "d": pa.array(["a", "b", None, "a"]).dictionary_encode(),
        "t": pa.array([True, False, None, True]),
        "col name": pa.array([1, 2, 3, 4], pa.uint8()),
        "when": pa.array([1, 2, 3, 4], pa.timestamp("s")),
        "empty": pa.nulls(4),
    }
)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("n == 1", [True, False, None, False]),
        ("n != 1", [False, True, None, True]),
        ("0 < n <= 2", [True, True, None, False]),
        ("x > 0", [True, None, None, True]),
        ("x is None", [False, True, True, False]),
        ("x is not None", [True, False, False, True]),
        ("n in [1, -3]", [True, False, None, True]),
        ("n not in [1, 1.5]", [False, True, None, True]),
        ("s in ('a', '日本')", [True, False, None, True]),
        ("s not in {'a'}", [False, True, None, True]),
        ("d == 'a'", [True, False, None, True]),
        ("s < 'b'", [True, False, None, False]),
        ("t", [True, False, None, True]),
        ("not t", [False, True, None, False]),
        ("t == True", [True, False, None, True]),
        ("t and n is None", [False, False, None, False]),
        ("t or n is None", [True, False, True, True]),
        ("n is None or x is None", [False, True, True, False]),
        ("n + 1", [2, 3, None, -2]),
        ("-n * 2 - 1", [-3, -5, None, 5]),
        ("n / 2", [0.5, 1.0, None, -1.5]),
        ("n / 0 > 5", [True, True, None, False]),
        ("(n - n) / 0 is None", [True, True, True, True]),
        ("n + x", [1.5, None, None, 1.0]),
        ('col("col name") >= 3', [False, False, True, True]),
        ("1 == 1", [True] * 4),
        ("n ==\n 1", [True, False, None, False]),
        ("n == 1 # comment", [True, False, None, False]),
    ],
)
def test_values(source: str, expected: list[Any]) -> None:
    for data in (TABLE, TABLE.to_batches()[0], pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)])):
        assert Expression.parse(source).evaluate(data).to_pylist() == expected


def test_mask_is_false_where_the_condition_is_missing() -> None:
    assert Expression.parse("x > 0").mask(TABLE).to_pylist() == [True, False, False, True]


def test_columns_are_listed_once_in_order() -> None:
    assert Expression.parse("b > a and col('c d') in [1] and b is None").columns == ("b", "a", "c d")


@pytest.mark.parametrize(
    ("source", "position", "found"),
    [
        ("", 1, "a syntax error"),
        ("n ==", 5, "a syntax error"),
        ("n = 1", 3, "did you mean == ?"),
        ("n > 0; 1", 6, "a syntax error"),
        ("import os", 1, "a syntax error"),
        ("n > 0 and abs(n) > 1", 11, "call syntax"),
        ("__import__('os').system('ls')", 1, "call syntax"),
        ("n.real > 0", 1, "attribute syntax"),
        ("n[0] > 0", 1, "subscript syntax"),
        ("lambda: 1", 1, "lambda syntax"),
        ("[n for n in s]", 1, "listcomp syntax"),
        ("n if t else x", 1, "ifexp syntax"),
        ("(n := 1)", 2, "namedexpr syntax"),
        ("f'{n}' == 'a'", 1, "joinedstr syntax"),
        ("n ** 2 > 1", 1, "the operator Pow"),
        ("n % 2 == 1", 1, "the operator Mod"),
        ("~n", 1, "the operator Invert"),
        ("n == None", 6, "None in a comparison"),
        ("None", 1, "None outside"),
        ("b'x' == s", 1, "the literal"),
        ("1j == n", 1, "the literal"),
        ("n is 1", 6, "something else after `is`"),
        ("n in s", 6, "something else after `in`"),
        ("n in []", 6, "something else after `in`"),
        ("n in [x]", 6, "a list of other things"),
        ("n in [None]", 6, "a list of other things"),
        ("col(n) > 0", 1, "col() without"),
        ("n > 9223372036854775808", 5, "the integer"),
        ("n > 1e999", 5, "the number inf"),
        ("s == '日本' and abs(n)", 15, "call syntax"),
        ("not " * 900 + "t", 1, "nested too deeply"),
        ("n " + "- n" * 200, 1, "nested too deeply"),
        ("n > 1 or " * 600 + "t", 1, "5401 characters"),
    ],
)
def test_what_cannot_be_parsed(source: str, position: int, found: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        Expression.parse(source)
    assert found in caught.value.found
    assert f"at column {position} of" in caught.value.found
    assert caught.value.allowed


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("n == 'a'", "a number compared with a string at column 6"),
        ("s in [1]", "a string compared with a number at column 7"),
        ("t == 1", "a truth value compared with a number"),
        ("n in [1, 'a']", "a number compared with a string at column 10"),
        ("s + 1", "a string in arithmetic at column 1"),
        ("n and t", "a number as a condition at column 1"),
        ("not s", "a string as a condition at column 5"),
        ("when > 1", "the column 'when' of type timestamp[s]"),
        ("empty == 1", "the column 'empty' that has no value"),
        ("n * 9223372036854775807 > 0", "an operation that fails (overflow)"),
        ("nn > 1", "the unknown column 'nn' (did you mean 'n'?)"),
    ],
)
def test_what_does_not_fit_the_data(source: str, found: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        Expression.parse(source).evaluate(TABLE)
    assert found in caught.value.found
    assert caught.value.allowed


def test_unknown_columns_list_what_there_is() -> None:
    with pytest.raises(ExpressionError, match="one of n, x, s, d, t, col name"):
        Expression.parse("zzz > 1").evaluate(TABLE)


def test_a_filter_must_be_a_condition() -> None:
    with pytest.raises(ExpressionError, match="a value of type int64"):
        Expression.parse("n + 1").mask(TABLE)


# --- any expression against Python ---

_OPERATORS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


def reference(node: ast.AST, row: dict[str, Any]) -> Any:
    """One row at a time; None is missing."""
    match node:
        case ast.Name():
            return row[node.id]
        case ast.Constant():
            return node.value
        case ast.UnaryOp(op=ast.Not()):
            value = reference(node.operand, row)
            return None if value is None else not value
        case ast.UnaryOp():
            value = reference(node.operand, row)
            return None if value is None else -value
        case ast.BinOp():
            a, b = reference(node.left, row), reference(node.right, row)
            return None if a is None or b is None else _OPERATORS[type(node.op)](a, b)
        case ast.BoolOp():
            values = [reference(value, row) for value in node.values]
            decisive = isinstance(node.op, ast.Or)
            return decisive if decisive in values else None if None in values else not decisive
        case ast.Compare():
            a, (op,), (b,) = reference(node.left, row), node.ops, node.comparators
            if isinstance(op, ast.Is | ast.IsNot):
                return (a is None) is isinstance(op, ast.Is)
            if isinstance(op, ast.In | ast.NotIn):
                inside = a in [reference(item, row) for item in b.elts]  # type: ignore[attr-defined]
                return None if a is None else inside is isinstance(op, ast.In)
            other = reference(b, row)
            return None if a is None or other is None else _OPERATORS[type(op)](a, other)
    raise AssertionError(ast.dump(node))


numbers = st.recursive(
    st.one_of(st.sampled_from(["i", "f"]), st.integers(-20, 20).map(str), st.sampled_from(["0.5", "-1.25"])),
    lambda inner: st.builds("({} {} {})".format, inner, st.sampled_from("+-*"), inner),
    max_leaves=4,
)
texts = st.sampled_from(["s", "'a'", "'b c'", "'é'"])
conditions = st.recursive(
    st.one_of(
        st.builds("{} {} {}".format, numbers, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), numbers),
        st.builds("{} {} {}".format, texts, st.sampled_from(["==", "!=", "<", ">"]), texts),
        st.builds("i {} [{}, {}]".format, st.sampled_from(["in", "not in"]), st.integers(-3, 3), st.integers(-3, 3)),
        st.builds("s {} ['a', {}]".format, st.sampled_from(["in", "not in"]), texts.filter(lambda text: text != "s")),
        st.builds("{} {} None".format, st.sampled_from(["i", "f", "s", "b"]), st.sampled_from(["is", "is not"])),
        st.just("b"),
    ),
    lambda inner: st.one_of(
        st.builds("({} and {})".format, inner, inner),
        st.builds("({} or {})".format, inner, inner),
        st.builds("(not {})".format, inner.map("({})".format)),
    ),
    max_leaves=6,
)
rows = st.lists(
    st.fixed_dictionaries(
        {
            "i": st.none() | st.integers(-3, 3),
            "f": st.none() | st.sampled_from([-1.25, 0.0, 0.5, 3.0]),
            "s": st.none() | st.sampled_from(["a", "b c", "é", ""]),
            "b": st.none() | st.booleans(),
        }
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=300, deadline=None)
@given(source=conditions, data=rows)
def test_any_condition_agrees_with_python(source: str, data: list[dict[str, Any]]) -> None:
    schema = pa.schema({"i": pa.int8(), "f": pa.float64(), "s": pa.string(), "b": pa.bool_()})
    table = pa.Table.from_pylist(data, schema)
    tree = ast.parse(source, mode="eval").body
    assert Expression.parse(source).evaluate(table).to_pylist() == [reference(tree, row) for row in data]


@settings(max_examples=200, deadline=None)
@given(source=st.text(st.sampled_from("nxst '\"()[]<>=!+-*/.,0123456789andornotiscol#:@\\\n日"), max_size=40))
def test_any_text_is_parsed_or_refused(source: str) -> None:
    # Any other exception than the one for users fails the test.
    with contextlib.suppress(ExpressionError):
        assert len(Expression.parse(source).evaluate(TABLE)) == TABLE.num_rows
