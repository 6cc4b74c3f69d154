"""How well each raw input alone predicts each label: an AUC near 1 is a label that leaks into a feature."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from smt.kernels.transform import RawColumn, StringValues
from smt.training.fit import raw_columns
from smt.training.metrics import task_metrics
from smt.training.reading import iter_batches
from smt.training.scenario import Scenario
from smt.training.statistics import arrow_values

SAMPLE_ROWS = 50_000
LEAK_AUC = 0.999
# With fewer rows of either class to test on, a high AUC is no evidence.
LEAST_OF_CLASS = 10
_BINS = 256


@dataclass(frozen=True)
class SingleInput:
    """The AUC of one input for one task, on rows that its values' label rates were not counted on."""

    task: str
    input: str
    auc: float


def single_input_aucs(scenario: Scenario, rows: int) -> tuple[list[SingleInput], int]:
    """Measures every input for every task on a sample of the training split.

    Args:
        rows: of the training split, after the filter.

    Returns:
        The AUCs, and the number of rows in the sample. Tasks with too few rows of a class are left out.
    """
    every = max(1, -(-rows // SAMPLE_ROWS))
    batches = list(iter_batches(scenario, "train", rank=0, world=every))
    # An AUC is of events: of probabilities, which training takes as well, the likelier class.
    labels = np.rint(np.concatenate([batch.labels for batch in batches]))
    # Even rows give the label rates of the values, odd rows test them: a column of unique values then predicts
    # nothing, as it should.
    tested = np.arange(len(labels)) % 2 == 1
    columns = [raw_columns(scenario, batch) for batch in batches]
    result = []
    for name in scenario.inputs:
        values, row_of = _values([column[name] for column in columns], [batch.rows for batch in batches])
        codes, size = _codes(values)
        ordered = _ordered(values, row_of, len(labels))
        for t, task in enumerate(scenario.tasks):
            known = tested & ~np.isnan(labels[:, t])
            rates = task_metrics(labels[known, t], _label_rates(codes, size, row_of, labels[:, t], tested)[known])
            if min(rates.positives, rates.rows - rates.positives) < LEAST_OF_CLASS or rates.auc is None:
                continue
            auc = rates.auc
            if ordered is not None:
                rising = task_metrics(labels[known, t], ordered[known]).auc
                assert rising is not None  # as it is not for the same labels above
                auc = max(auc, rising, 1 - rising)
            result.append(SingleInput(task.name, name, auc))
    return result, len(labels)


def _values(columns: list[RawColumn], rows: list[int]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """A column's values (numbers, or objects that are strings), and the row that each belongs to."""
    values: list[Any] = [
        np.asarray(arrow_values(column.values).to_pylist(), dtype=object)
        if isinstance(column.values, StringValues)
        else column.values
        for column in columns
    ]
    lengths = [
        np.ones(count, dtype=np.int64) if column.lengths is None else column.lengths.astype(np.int64)
        for column, count in zip(columns, rows, strict=True)
    ]
    return np.concatenate(values), np.repeat(np.arange(sum(rows)), np.concatenate(lengths))


def _codes(values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], int]:
    """The values as categories 0, 1, ...; also their number."""
    if values.dtype == object:
        encoded = pc.dictionary_encode(pa.array(values.tolist(), pa.large_string()))
        return encoded.indices.to_numpy().astype(np.int64), len(encoded.dictionary)
    distinct, codes = np.unique(values, return_inverse=True)
    if len(distinct) > _BINS:
        # Numbers by quantile, so that neighbours speak for one another.
        edges = np.unique(np.quantile(values, np.arange(1, _BINS) / _BINS))
        return np.searchsorted(edges, values, side="right").astype(np.int64), len(edges) + 1
    return codes.astype(np.int64), len(distinct)


def _ordered(values: npt.NDArray[Any], row_of: npt.NDArray[np.int64], rows: int) -> npt.NDArray[np.float64] | None:
    """[rows] in 0..1 in the order of the numbers, the median where one is missing; None for strings and lists."""
    if values.dtype == object or not len(values) or len(np.unique(row_of)) < len(row_of):
        return None
    distinct, rank = np.unique(values, return_inverse=True)
    score = np.full(rows, float(np.median(rank)))
    score[row_of] = rank
    return score / max(len(distinct) - 1, 1)


def _label_rates(
    codes: npt.NDArray[np.int64],
    size: int,
    row_of: npt.NDArray[np.int64],
    labels: npt.NDArray[np.float32],
    tested: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float64]:
    """[rows]: for each row the mean label rate of its values among the rows that are not tested."""
    counted = ~tested & ~np.isnan(labels)
    base = float(labels[counted].mean()) if counted.any() else 0.5
    use = counted[row_of]
    total = np.bincount(codes[use], minlength=size)
    positive = np.bincount(codes[use], weights=labels[row_of[use]], minlength=size)
    rate = np.where(total > 0, positive / np.maximum(total, 1), base)
    # A row without a value has the rate of such rows.
    has_value = np.zeros(len(labels), dtype=bool)
    has_value[row_of] = True
    missing = counted & ~has_value
    score = np.full(len(labels), float(labels[missing].mean()) if missing.any() else base)
    count = np.bincount(row_of, minlength=len(labels))
    sums = np.bincount(row_of, weights=rate[codes], minlength=len(labels))
    score[has_value] = sums[has_value] / count[has_value]
    return np.asarray(np.clip(score, 0.0, 1.0))
