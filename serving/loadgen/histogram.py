"""Latencies as smt-loadgen counts them: buckets that are at most 1/1024 wide, relative to what they hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

_PER_OCTAVE = 1024  # buckets of each power of two; Histogram::kBlockBits in histogram.h
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "p99.99": 0.9999}


class Histogram:
    """Immutable. Times in milliseconds; `lowest` and `counts` are the buckets, in nanoseconds, rising."""

    def __init__(
        self, lowest: NDArray[np.int64], counts: NDArray[np.int64], sum_ns: float, min_ns: int, max_ns: int
    ) -> None:
        self.lowest = lowest
        self.counts = counts
        self.count = int(counts.sum())
        self._sum_ns = sum_ns
        self._min_ns = min_ns
        self._max_ns = max_ns

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        buckets = np.array(content["buckets"], np.int64).reshape(-1, 2)
        return cls(buckets[:, 0], buckets[:, 1], content["sum_ns"], content["min_ns"], content["max_ns"])

    @classmethod
    def merged(cls, parts: Iterable[Histogram]) -> Self:
        """One that saw what all of them saw."""
        filled = [part for part in parts if part.count]
        if not filled:
            return cls(np.empty(0, np.int64), np.empty(0, np.int64), 0.0, 0, 0)
        lowest, place = np.unique(np.concatenate([part.lowest for part in filled]), return_inverse=True)
        counts = np.zeros(len(lowest), np.int64)
        np.add.at(counts, place, np.concatenate([part.counts for part in filled]))
        return cls(
            lowest,
            counts,
            sum(part._sum_ns for part in filled),
            min(part._min_ns for part in filled),
            max(part._max_ns for part in filled),
        )

    def quantile_ms(self, q: float) -> float | None:
        """What a share `q` (0..1) of the latencies does not exceed, at most 0.1 % too high; None without any."""
        if not self.count:
            return None
        rank = min(max(int(np.ceil(q * self.count)), 1), self.count)
        low = int(self.lowest[np.searchsorted(np.cumsum(self.counts), rank)])
        width = 1 << max(low.bit_length() - _PER_OCTAVE.bit_length(), 0)
        return min(low + width - 1, self._max_ns) / 1e6

    @property
    def mean_ms(self) -> float | None:
        return self._sum_ns / self.count / 1e6 if self.count else None

    @property
    def min_ms(self) -> float | None:
        return self._min_ns / 1e6 if self.count else None

    @property
    def max_ms(self) -> float | None:
        return self._max_ns / 1e6 if self.count else None

    def count_above_ms(self, limit: float) -> int:
        """How many took longer, to a bucket's width."""
        return int(self.counts[self.lowest > limit * 1e6].sum())

    def summary(self) -> dict[str, float | None]:
        """Milliseconds: the usual quantiles, maximum and mean."""
        quantiles = {f"{name}_ms": self.quantile_ms(q) for name, q in QUANTILES.items()}
        return {**quantiles, "max_ms": self.max_ms, "mean_ms": self.mean_ms}

    def to_json(self) -> dict[str, Any]:
        buckets = np.stack([self.lowest, self.counts], axis=1).tolist()
        return {
            "count": self.count,
            "sum_ns": self._sum_ns,
            "min_ns": self._min_ns,
            "max_ns": self._max_ns,
            "buckets": buckets,
        }
