"""One-pass statistics of a column: moments, value counts, quantiles. Bounded memory, the same result every time."""

import math

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from smt.kernels.transform import StringValues

Numbers = npt.NDArray[np.float64]
# Quantiles are exact up to so many values; beyond, they are those of a uniform sample of this size.
QUANTILE_VALUES = 1 << 21


class Moments:
    """Count, mean, standard deviation and range; merged batch by batch (Chan et al. 1979), so that large means do
    not cost digits."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self._squares = 0.0
        self.low = math.inf
        self.high = -math.inf

    def update(self, values: Numbers) -> None:
        if not len(values):
            return
        count, mean = len(values), float(values.mean())
        delta, total = mean - self.mean, self.count + count
        self._squares += float(((values - mean) ** 2).sum()) + delta**2 * self.count * count / total
        self.mean += delta * count / total
        self.count = total
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    @property
    def std(self) -> float:
        """Of the population, not of a sample; 0 without a value."""
        return math.sqrt(self._squares / self.count) if self.count else 0.0


class Counts:
    """How often each value occurs."""

    def __init__(self) -> None:
        self._counts: dict[int | str, int] = {}

    def update(self, values: npt.NDArray[np.int64] | StringValues) -> None:
        for pair in pc.value_counts(arrow_values(values)).to_pylist():
            self._counts[pair["values"]] = self._counts.get(pair["values"], 0) + pair["counts"]

    def __len__(self) -> int:
        return len(self._counts)

    def most_frequent(self, min_count: int, max_size: int) -> list[int] | list[str]:
        """By descending count, equal counts by value: the order does not depend on that of the rows."""
        kept = [(-count, value) for value, count in self._counts.items() if count >= min_count]
        return [value for _, value in sorted(kept)[:max_size]]  # type: ignore[return-value]


class Quantiles:
    """Boundaries between equally filled buckets."""

    def __init__(self, seed: int, limit: int = QUANTILE_VALUES) -> None:
        self.limit = limit
        self.count = 0
        self._rng = np.random.default_rng(seed)
        self._values: list[Numbers] = []
        self._keys: list[Numbers] = []

    def update(self, values: Numbers) -> None:
        self.count += len(values)
        self._values.append(values)
        self._keys.append(self._rng.random(len(values)))
        if sum(map(len, self._values)) > 2 * self.limit:
            self._shrink()

    def _shrink(self) -> None:
        values, keys = np.concatenate(self._values), np.concatenate(self._keys)
        if len(values) > self.limit:
            # The values with the smallest of uniform random keys are a uniform sample, batch by batch.
            kept = np.argpartition(keys, self.limit)[: self.limit]
            values, keys = values[kept], keys[kept]
        self._values, self._keys = [values], [keys]

    @property
    def sampled(self) -> bool:
        """Whether the quantiles are those of a sample."""
        return self.count > self.limit

    def boundaries(self, buckets: int) -> list[float]:
        """At most buckets - 1 strictly increasing values of the data, between buckets that hold about as many rows.

        A value so frequent that it fills a bucket gets one of its own, and the others share the rest: of a column
        with 95 % zeros, all buckets but one divide the other 5 %.
        """
        if not self.count:
            return []
        self._shrink()
        values, counts = np.unique(self._values[0], return_counts=True)
        if len(values) <= buckets:
            return [float(x) for x in values[1:]]
        ends = np.cumsum(counts)
        result: list[float] = []
        start = 0  # index of the bucket's first value
        for left in range(buckets, 1, -1):
            before = int(ends[start] - counts[start])
            share = (int(ends[-1]) - before) / left
            last = int(np.searchsorted(ends, before + share))
            if last > start and counts[last] >= share:
                last -= 1
            start = last + 1
            if start >= len(values):
                break
            result.append(float(values[start]))
        return result


def arrow_values(values: npt.NDArray[np.int64] | StringValues) -> pa.Array:
    """The values as an Arrow array over the same memory."""
    if not isinstance(values, StringValues):
        return pa.array(values)
    kind = pa.LargeStringArray if values.offsets.dtype == np.int64 else pa.StringArray
    offsets, data = pa.py_buffer(values.offsets), pa.py_buffer(values.data)
    return kind.from_buffers(len(values), offsets, data)


def apply_log(values: Numbers) -> Numbers:
    """sign(x) * log1p(|x|)."""
    return np.copysign(np.log1p(np.abs(values)), values)


def first_of_each(lengths: npt.NDArray[np.int32], most: int) -> npt.NDArray[np.bool_] | None:
    """Marks the first `most` values of every row; None when that is all of them."""
    if not len(lengths) or int(lengths.max()) <= most:
        return None
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    within = np.arange(int(lengths.sum())) - np.repeat(starts, lengths)
    return within < most
