"""How far a new version's predictions are from those of the version being served, on the same rows.

Quality on labelled rows does not show everything: a label that leaked into a feature makes it better. That predictions
move much from one version to the next is a sign of its own.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The usual ten bins of the population stability index; a bin that one side leaves empty counts as this share.
_BINS = 10
_LEAST_SHARE = 1e-4
_LEAST_MEAN = 1e-9


@dataclass(frozen=True)
class Drift:
    """Of one task: predictions of the new version against those of the one being served, over `rows` rows.

    mean_abs_diff: mean of |new - old|. mean_change: relative change of the mean prediction. psi: population stability
    index of the two distributions, over ten bins that hold equal shares of the old one. ks: Kolmogorov-Smirnov
    distance, the largest difference of the two distribution functions, 0..1.
    """

    rows: int
    mean_old: float
    mean_new: float
    mean_abs_diff: float
    mean_change: float
    psi: float
    ks: float

    @property
    def relative(self) -> float:
        """Mean of |new - old| as a share of the mean of old."""
        return self.mean_abs_diff / max(self.mean_old, _LEAST_MEAN)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "relative": self.relative}


def drift(old: NDArray[np.float32], new: NDArray[np.float32]) -> Drift:
    """Compares two predictions of the same rows, probabilities [rows] with rows > 0."""
    before, after = old.astype(np.float64), new.astype(np.float64)
    mean_old, mean_new = float(before.mean()), float(after.mean())
    return Drift(
        rows=len(before),
        mean_old=mean_old,
        mean_new=mean_new,
        mean_abs_diff=float(np.abs(after - before).mean()),
        mean_change=abs(mean_new - mean_old) / max(mean_old, _LEAST_MEAN),
        psi=_psi(before, after),
        ks=_ks(before, after),
    )


def _psi(old: NDArray[np.float64], new: NDArray[np.float64]) -> float:
    edges = np.unique(np.quantile(old, np.linspace(0, 1, _BINS + 1)[1:-1]))
    shares = [
        np.maximum(
            np.bincount(np.searchsorted(edges, side, "right"), minlength=len(edges) + 1) / len(side), _LEAST_SHARE
        )
        for side in (old, new)
    ]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def _ks(old: NDArray[np.float64], new: NDArray[np.float64]) -> float:
    values = np.concatenate([old, new])
    below = [np.searchsorted(np.sort(side), values, "right") / len(side) for side in (old, new)]
    return float(np.abs(below[0] - below[1]).max())
