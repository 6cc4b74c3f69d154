"""Parquet -> raw batches: filtered rows with their feature columns and labels, streamed in bounded memory.

    for batch in iter_batches(scenario, "valid"):
        batch.columns, batch.labels

Training, fitting, validation and the scoring of a split over the wire all read data through here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs

from smt.training.config import ConfigError, Problem, did_you_mean
from smt.training.entries import FeatureDefinition
from smt.training.expressions import ExpressionError
from smt.training.features import Type
from smt.training.scenario import Scenario, Split, Task

BATCH_ROWS = 65_536

# Which rows a share is made of depends on neither the recipe's seed nor the order of reading: runs are compared by it.
_SHARE_SEED = 73

_ARROW_TYPES: dict[Type, pa.DataType] = {"number": pa.float64(), "int": pa.int64(), "string": pa.large_string()}


class DataError(ValueError):
    """Data that does not fit the scenario; the message names the file, the column and what is expected."""


@dataclass(frozen=True)
class RawBatch:
    """Rows that the scenario's filter keeps.

    columns: one column per raw input, in the order of `scenario.inputs`; absent optional inputs are all null.
    labels: [rows, tasks] float32 of 0 and 1, NaN where a row has no label for a task.
    """

    columns: pa.RecordBatch
    labels: npt.NDArray[np.float32]

    @property
    def rows(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Piece:
    """A row group: what is read, and shuffled, at once."""

    file: Path
    fragment: ds.ParquetFileFragment
    rows: int


def pieces(scenario: Scenario, split: Split) -> list[Piece]:
    """The row groups of a split in the order of its files.

    Raises:
        ConfigError: a file is missing, or lacks a column that the scenario needs, or has it in an unusable type.
        DataError: a file is not parquet, or holds no row.
    """
    result: list[Piece] = []
    problems: list[Problem] = []
    files = scenario.files(split)
    filesystem = pafs.LocalFileSystem()
    for file in files:
        try:
            whole = ds.ParquetFileFormat().make_fragment(str(file), filesystem)
            groups = whole.split_by_row_group()
            problems += check_schema(scenario, file, whole.physical_schema)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{file}: found {str(error).splitlines()[0]}; expected a parquet file") from error
        result += [Piece(file, group, group.row_groups[0].num_rows) for group in groups]
    if problems:
        raise ConfigError(problems)
    result = [piece for piece in result if piece.rows]
    if not result:
        raise DataError(f"{', '.join(map(str, files))}: found no row in data.{split}; expected at least one")
    return result


def iter_batches(
    scenario: Scenario,
    split: Split,
    *,
    batch_size: int = BATCH_ROWS,
    rank: int = 0,
    world: int = 1,
    seed: int | None = None,
) -> Iterator[RawBatch]:
    """Streams a split: reads, filters, evaluates the labels.

    Args:
        batch_size: most rows of one batch.
        rank, world: of the rows that the filter keeps, this process takes every `world`-th, starting at `rank`.
        seed: None reads in file order; otherwise row groups come in a random order, the same in every process.

    Raises:
        ConfigError, DataError: see `pieces`; also for labels that are not 0 or 1, or in training between them.
    """
    order = list(enumerate(pieces(scenario, split)))
    if seed is not None:
        order = [order[i] for i in np.random.default_rng(seed).permutation(len(order))]
    kept = 0
    for number, piece in order:
        draw = np.random.default_rng([_SHARE_SEED, number])
        for batch in _read(piece, _wanted(scenario), batch_size):
            selected = _filtered(scenario, piece.file, batch)
            if split == "train" and scenario.data.share < 1:
                selected = selected.filter(pa.array(draw.random(selected.num_rows) < scenario.data.share))
            first = (rank - kept) % world
            kept += selected.num_rows
            if world > 1:
                selected = selected.take(pa.array(np.arange(first, selected.num_rows, world)))
            if selected.num_rows:
                labels = np.stack(
                    [label_values(scenario, task, piece.file, selected, split) for task in scenario.tasks], axis=1
                )
                yield RawBatch(_feature_columns(scenario, selected), labels)


def _read(piece: Piece, columns: list[str], batch_size: int) -> Iterator[pa.RecordBatch]:
    schema = piece.fragment.physical_schema
    present = [name for name in columns if name in schema.names]
    # One batch ahead is enough to overlap decoding with use; the default of 16 would hold a large row group whole.
    for batch in piece.fragment.to_batches(schema=schema, columns=present, batch_size=batch_size, batch_readahead=1):
        if batch.num_rows:
            yield batch


def _wanted(scenario: Scenario) -> list[str]:
    expressions = [task.label for task in scenario.tasks] + ([scenario.filter] if scenario.filter else [])
    return list(dict.fromkeys([*scenario.inputs, *(name for e in expressions for name in e.columns)]))


def _filtered(scenario: Scenario, file: Path, batch: pa.RecordBatch) -> pa.RecordBatch:
    if scenario.filter is None:
        return batch
    try:
        return batch.filter(scenario.filter.mask(batch))
    except ExpressionError as error:
        raise scenario.document.fail(("data", "filter"), f"{error.found} (data: {file})", error.allowed) from error


def label_values(
    scenario: Scenario, task: Task, file: Path, batch: pa.RecordBatch, split: Split
) -> npt.NDArray[np.float32]:
    """[rows] float32: the task's label, NaN where it is missing.

    Training takes any probability, as a teacher gives them; figures are of events, so validation takes 0 and 1 alone.

    Raises:
        ConfigError: the label does not fit the columns, or its value is none that the split takes.
    """
    at = ("tasks", scenario.tasks.index(task), "label")
    try:
        value = task.label.evaluate(batch)
    except ExpressionError as error:
        raise scenario.document.fail(at, f"{error.found} (data: {file})", error.allowed) from error
    numbers_allowed = "0 to 1" if split == "train" else "0 or 1 (probabilities are for data.train)"
    allowed = f"{numbers_allowed}, or a condition as in `rating > 3`"
    if not (pa.types.is_boolean(value.type) or pa.types.is_integer(value.type) or pa.types.is_floating(value.type)):
        raise scenario.document.fail(at, f"labels of type {value.type} (data: {file})", allowed)
    numbers = pc.fill_null(pc.cast(value, pa.float32()), float("nan")).to_numpy(zero_copy_only=False)
    taken = (numbers >= 0) & (numbers <= 1) if split == "train" else (numbers == 0) | (numbers == 1)
    wrong = ~(taken | np.isnan(numbers))
    if wrong.any():
        raise scenario.document.fail(at, f"the label {numbers[wrong][0]:g} (data: {file})", allowed)
    return np.asarray(numbers, dtype=np.float32)


def _feature_columns(scenario: Scenario, batch: pa.RecordBatch) -> pa.RecordBatch:
    arrays = []
    for name in scenario.inputs:
        if name in batch.schema.names:
            arrays.append(batch.column(name))
        else:
            arrays.append(pa.nulls(batch.num_rows, absent_type(scenario, name)))
    return pa.RecordBatch.from_arrays(arrays, names=scenario.inputs)


def absent_type(scenario: Scenario, name: str) -> pa.DataType:
    """Arrow type for the nulls of an optional input that the data lacks."""
    readers = [reader for reader in scenario.readers if reader.input == name]
    kind = _ARROW_TYPES["int" if any(feature.type == "int" for feature in readers) else readers[0].type]
    return pa.large_list(kind) if all(feature.multi_valued for feature in readers) else kind


def check_schema(scenario: Scenario, file: Path, schema: pa.Schema) -> list[Problem]:
    """What the scenario needs and the file lacks, or has in a type that it cannot use."""
    problems: list[Problem] = []
    document = scenario.document
    for feature in scenario.readers:
        at = ("features", feature.entry, "inputs")
        positions = schema.get_all_field_indices(feature.input)
        if len(positions) > 1:
            found = f"{len(positions)} columns {feature.input!r}"
            problems.append(document.problem(at, found, "columns with different names", file))
        elif not positions:
            if feature.required:
                near = did_you_mean(feature.input, schema.names)
                found = f"the unknown column {feature.input!r}{near}"
                allowed = f"one of the columns {', '.join(schema.names)}; or `required: false`"
                problems.append(document.problem(at, found, allowed, file))
        elif message := _type_problem(feature, schema.field(positions[0]).type):
            found = f"the column {feature.input!r} of type {schema.field(positions[0]).type}"
            problems.append(document.problem(("features", feature.entry, "type"), found, message, file))
    expressions = [(("tasks", i, "label"), task.label) for i, task in enumerate(scenario.tasks)]
    for at_expression, expression in [*expressions, (("data", "filter"), scenario.filter)]:
        try:
            if expression is not None:
                expression.check_columns(schema)
        except ExpressionError as error:
            problems.append(document.problem(at_expression, error.found, error.allowed, file))
    return problems


def _type_problem(feature: FeatureDefinition, kind: pa.DataType) -> str:
    """What is allowed instead of the column's type; empty if the type fits."""
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if is_list and not feature.multi_valued:
        return "a column of single values, or `multi_valued: true` with an encoding"
    value = kind.value_type if is_list else kind
    value = value.value_type if pa.types.is_dictionary(value) else value
    if pa.types.is_null(value):
        return ""
    if feature.type == "string":
        return "" if pa.types.is_string(value) or pa.types.is_large_string(value) else "a column of strings"
    if pa.types.is_integer(value) or pa.types.is_boolean(value):
        return ""
    if feature.type == "number":
        return "" if pa.types.is_floating(value) else "a column of numbers"
    # pandas turns integers with gaps into floats: integral ones are taken as integers.
    return "" if pa.types.is_floating(value) else "a column of integers"
