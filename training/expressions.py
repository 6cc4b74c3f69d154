"""Row filters and labels: a safe subset of Python's expression syntax over columns, run by Arrow.

    Expression.parse("age >= 18 and class_of_worker not in ['NIU', 'Never worked']").evaluate(table)

Columns are names, or `col("any text")` where a name is not an identifier. There are comparisons (also chained),
`in` and `not in` a list of literals, `is None`, `and`/`or`/`not`, `+ - * /`, numbers, strings, True and False.

Missing values (null, and NaN in a float column) follow SQL: an operation on one is missing, `and`/`or` are
Kleene's, and only `is None` tells. A filter drops rows where it is missing; a label is absent there.
"""

import ast
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from smt.training.config import did_you_mean

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: pc.add_checked,
    ast.Sub: pc.subtract_checked,
    ast.Mult: pc.multiply_checked,
    ast.Div: pc.divide,
}
ALLOWED = "columns, literals, == != < <= > >=, in / not in [literals], is None, and / or / not, + - * /"
MAX_LENGTH = 4096
MAX_DEPTH = 100


class ExpressionError(ValueError):
    """An expression that cannot be read, or that does not fit the data. The message names expression and position."""

    def __init__(self, source: str, position: int, found: str, allowed: str) -> None:
        self.found = f"{found} at column {position + 1} of {source!r}"
        self.allowed = allowed
        super().__init__(f"found {self.found}; allowed: {allowed}")


@dataclass(frozen=True)
class Expression:
    """A parsed expression; `columns` are the columns it reads, in order of appearance."""

    source: str
    columns: tuple[str, ...]
    _tree: ast.expr

    @staticmethod
    def parse(source: str) -> "Expression":
        """Raises: ExpressionError."""
        source = source.strip().replace("\n", " ")
        if len(source) > MAX_LENGTH:
            raise ExpressionError(source[:40] + "...", 0, f"{len(source)} characters", f"at most {MAX_LENGTH}")
        try:
            tree = ast.parse(source, mode="eval").body
            checker = _Checker(source)
            checker.check(tree, MAX_DEPTH)
        except SyntaxError as error:
            position = (error.offset or len(source) + 1) - 1  # 0 for what ends too early
            hint = ", did you mean == ?" if re.search(r"(?<![=!<>])=(?!=)", source) else ""
            raise ExpressionError(source, position, f"a syntax error ({error.msg}{hint})", ALLOWED) from error
        except (RecursionError, MemoryError) as error:
            raise ExpressionError(source[:40] + "...", 0, "an expression nested too deeply", ALLOWED) from error
        return Expression(source, tuple(dict.fromkeys(checker.columns)), tree)

    def check_columns(self, schema: pa.Schema) -> None:
        """Raises: ExpressionError for a column that the data lacks; near matches are listed."""
        for name in self.columns:
            if name not in schema.names:
                position = max(self.source.find(name), 0)
                near = did_you_mean(name, schema.names)
                allowed = f"one of {', '.join(schema.names)}"
                raise ExpressionError(self.source, position, f"the unknown column {name!r}{near}", allowed)

    def evaluate(self, batch: pa.RecordBatch | pa.Table) -> pa.Array:
        """The value in every row, with nulls where it is missing.

        Raises:
            ExpressionError: an unknown column, or a column whose type does not fit the operation.
        """
        self.check_columns(batch.schema)
        value = _Evaluator(self.source, batch).value(self._tree)
        if isinstance(value, pa.Scalar):
            value = pa.repeat(value, batch.num_rows)
        return value.combine_chunks() if isinstance(value, pa.ChunkedArray) else value

    def mask(self, batch: pa.RecordBatch | pa.Table) -> pa.BooleanArray:
        """The expression as a filter: true or false in every row, false where it is missing.

        Raises:
            ExpressionError: as `evaluate`, and if the value is not a truth value.
        """
        value = self.evaluate(batch)
        if not pa.types.is_boolean(value.type):
            found = f"a value of type {value.type}"
            raise ExpressionError(self.source, 0, found, "a condition, as in `age >= 18`")
        return pc.fill_null(value, False)


class _Checker:
    """Walks a tree once: refuses what is outside the subset, collects the columns."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.columns: list[str] = []

    def fail(self, node: ast.AST, found: str, allowed: str = ALLOWED) -> ExpressionError:
        return ExpressionError(self.source, _position(self.source, node), found, allowed)

    def check(self, node: ast.expr, depth: int) -> None:
        if not depth:
            raise RecursionError
        depth -= 1
        match node:
            case ast.Name():
                self.columns.append(node.id)
            case ast.Call(func=ast.Name(id="col"), args=[ast.Constant(value=str(name))], keywords=[]):
                self.columns.append(name)
            case ast.Constant(value=bool() | int() | float() | str()):
                if isinstance(node.value, int) and abs(node.value) >= 1 << 63:
                    raise self.fail(node, f"the integer {node.value}", "integers of 64 bits")
                if isinstance(node.value, float) and not math.isfinite(node.value):
                    raise self.fail(node, f"the number {node.value}", "finite numbers")
            case ast.BoolOp(values=values):
                for value in values:
                    self.check(value, depth)
            case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
                self.check(operand, depth)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                self.check(left, depth)
                self.check(right, depth)
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                self.check(left, depth)
                for comparison, right in zip(ops, comparators, strict=True):
                    self._check_comparison(comparison, right, depth)
            case _:
                raise self.fail(node, f"{_name_of(node)}")

    def _check_comparison(self, op: ast.cmpop, right: ast.expr, depth: int) -> None:
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(right, ast.List | ast.Tuple | ast.Set) or not right.elts:
                raise self.fail(right, "something else after `in`", "a list of literals, as in `x in ['a', 'b']`")
            if any(_literal(item) is None for item in right.elts):
                raise self.fail(right, "a list of other things than literals", "numbers or strings in the list")
        elif isinstance(op, ast.Is | ast.IsNot):
            if not (isinstance(right, ast.Constant) and right.value is None):
                raise self.fail(right, "something else after `is`", "`is None` and `is not None`")
        elif isinstance(right, ast.Constant) and right.value is None:
            raise self.fail(right, "None in a comparison", "`is None` and `is not None`")
        else:
            self.check(right, depth)


def _position(source: str, node: ast.AST) -> int:
    # ast counts UTF-8 bytes, a person counts characters.
    return len(source.encode()[: getattr(node, "col_offset", 0)].decode(errors="ignore"))


def _name_of(node: ast.expr) -> str:
    match node:
        case ast.Call(func=ast.Name(id="col")):
            return "col() without one column name in quotes"
        case ast.Constant(value=None):
            return "None outside of `is None`"
        case ast.Constant():
            return f"the literal {node.value!r}"
        case ast.BinOp():
            return f"the operator {type(node.op).__name__}"
        case ast.UnaryOp():
            return f"the operator {type(node.op).__name__}"
        case _:
            return f"{type(node).__name__.lower()} syntax"


def _literal(node: ast.expr) -> bool | int | float | str | None:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float())):
            return -node.operand.value  # type: ignore[attr-defined,no-any-return]
    return None


class _Evaluator:
    """Computes a checked tree over one batch. Kinds of values: boolean, number, string."""

    def __init__(self, source: str, batch: pa.RecordBatch | pa.Table) -> None:
        self.source = source
        self.batch = batch

    def fail(self, node: ast.AST, found: str, allowed: str) -> ExpressionError:
        return ExpressionError(self.source, _position(self.source, node), found, allowed)

    def value(self, node: ast.expr) -> Any:
        try:
            return self._value(node)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            raise self.fail(node, f"an operation that fails ({str(error).splitlines()[0]})", ALLOWED) from error

    def _value(self, node: ast.expr) -> Any:
        match node:
            case ast.Name():
                return self._column(node, node.id)
            case ast.Call(args=[ast.Constant(value=str(name))]):
                return self._column(node, name)
            case ast.Constant(value=literal):
                return _scalar(literal)
            case ast.BoolOp(op=op, values=values):
                combine = pc.and_kleene if isinstance(op, ast.And) else pc.or_kleene
                result = self._condition(values[0])
                for value in values[1:]:
                    result = combine(result, self._condition(value))
                return result
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return pc.invert(self._condition(operand))
            case ast.UnaryOp(operand=operand):
                return pc.negate_checked(self._number(operand))
            case ast.BinOp(left=left, op=op, right=right):
                a, b = self._number(left), self._number(right)
                if isinstance(op, ast.Div):
                    a, b = pc.cast(a, pa.float64()), pc.cast(b, pa.float64())
                return _nan_to_null(_ARITHMETIC[type(op)](a, b))
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                result = None
                for a, comparison, b in zip([left, *comparators], ops, comparators, strict=False):
                    part = self._compare(a, comparison, b)
                    result = part if result is None else pc.and_kleene(result, part)
                return result
        raise AssertionError(f"unchecked syntax {ast.dump(node)}")

    def _compare(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Any:
        a = self.value(left)
        if isinstance(op, ast.Is | ast.IsNot):
            missing = pc.is_null(a)
            return missing if isinstance(op, ast.Is) else pc.invert(missing)
        if isinstance(op, ast.In | ast.NotIn):
            found = None
            for item in right.elts:  # type: ignore[attr-defined]
                b = _scalar(_literal(item))
                self._same_kind(item, a, b)
                part = pc.equal(a, b)
                found = part if found is None else pc.or_kleene(found, part)
            return found if isinstance(op, ast.In) else pc.invert(found)
        b = self.value(right)
        self._same_kind(right, a, b)
        return _COMPARE[type(op)](a, b)

    def _same_kind(self, node: ast.expr, a: Any, b: Any) -> None:
        kinds = _kind(a.type), _kind(b.type)
        if kinds[0] != kinds[1]:
            found = f"{_kind_words(kinds[0])} compared with {_kind_words(kinds[1])}"
            raise self.fail(node, found, f"values of one kind; here {_kind_words(kinds[0])}")

    def _condition(self, node: ast.expr) -> Any:
        value = self.value(node)
        if not pa.types.is_boolean(value.type):
            raise self.fail(node, f"{_kind_words(_kind(value.type))} as a condition", "a comparison, as in `x == 1`")
        return value

    def _number(self, node: ast.expr) -> Any:
        value = self.value(node)
        if _kind(value.type) != "number":
            raise self.fail(node, f"{_kind_words(_kind(value.type))} in arithmetic", "numbers")
        return value

    def _column(self, node: ast.expr, name: str) -> Any:
        column = self.batch.column(name)
        kind = column.type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
            column = pc.cast(column, kind)
        if pa.types.is_boolean(kind):
            return column
        if pa.types.is_integer(kind):
            return pc.cast(column, pa.int64())
        if pa.types.is_floating(kind):
            return _nan_to_null(pc.cast(column, pa.float64()))
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            return pc.cast(column, pa.large_string())
        if pa.types.is_null(kind):
            raise self.fail(node, f"the column {name!r} that has no value in any row", "columns with values")
        found = f"the column {name!r} of type {kind}"
        raise self.fail(node, found, "columns of numbers, truth values or strings")


def _scalar(literal: Any) -> pa.Scalar:
    kind = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.large_string()}[type(literal)]
    return pa.scalar(literal, kind)


def _nan_to_null(value: Any) -> Any:
    if not pa.types.is_floating(value.type):
        return value
    return pc.if_else(pc.is_nan(value), pa.scalar(None, value.type), value)


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "boolean"
    return "number" if pa.types.is_integer(kind) or pa.types.is_floating(kind) else "string"


def _kind_words(kind: str) -> str:
    return {"boolean": "a truth value", "number": "a number", "string": "a string"}[kind]
