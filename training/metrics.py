"""Quality of predictions, per task: NE, AUC, logloss, calibration.

Used on both sides of serving, so that "training-side" and "served" figures differ only by the predictions.
Everything is exact over the rows given, in double precision; NE and calibration by torchrec.metrics.

NE is the normalized entropy of He et al. 2014 (doi 10.1145/2648584.2648589): the logloss divided by the entropy
of the base rate of the same rows; 1 is no better than that constant prediction.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchrec.metrics.calibration import CALIBRATION_DENOM, CALIBRATION_NUM, compute_calibration, get_calibration_states
from torchrec.metrics.ne import compute_ne, get_ne_states

# Predictions are kept this far from 0 and 1. Scores are float32, which has no value between 1 - 2^-24 and 1: without
# it, rounding one confident wrong score up would cost as much as ten thousand rows, and two sides that agree to the
# last bit but one would report different NE.
ETA = 2.0**-24
_BITS_TO_NATS = math.log(2)

NAMES = ("ne", "auc", "logloss", "calibration")


@dataclass(frozen=True)
class TaskMetrics:
    """Figures of one task over its labelled rows. A figure that is not defined is None, `undefined` says why."""

    rows: int
    positives: int
    ne: float | None
    auc: float | None
    logloss: float | None
    calibration: float | None
    undefined: dict[str, str] = field(default_factory=dict)

    @property
    def label_rate(self) -> float | None:
        return self.positives / self.rows if self.rows else None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "label_rate": self.label_rate}


def task_metrics(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> TaskMetrics:
    """Metrics of one task.

    Args:
        labels: [n] of 0 and 1; NaN where the row has no label.
        probabilities: [n] in 0..1.

    Raises:
        ValueError: shapes differ, a label is neither 0, 1 nor NaN, or a prediction of a labelled row is no probability.
    """
    y = np.asarray(labels, dtype=np.float64)
    p = np.asarray(probabilities, dtype=np.float64)
    if y.ndim != 1 or y.shape != p.shape:
        raise ValueError(f"labels have shape {y.shape} and probabilities {p.shape}; expected both [n]")
    labelled = ~np.isnan(y)
    y, p = y[labelled], p[labelled]
    if not np.isin(y, (0.0, 1.0)).all():
        raise ValueError(f"found the label {y[~np.isin(y, (0.0, 1.0))][0]}; expected 0, 1 or NaN")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"found the prediction {p[~((p >= 0) & (p <= 1))][0]}; expected probabilities")
    rows, positives = len(y), int(y.sum())
    if not rows:
        return TaskMetrics(0, 0, None, None, None, None, dict.fromkeys(NAMES, "no labelled row"))

    target, prediction = torch.from_numpy(y)[None], torch.from_numpy(p)[None]
    weights = torch.ones_like(target)
    states = get_ne_states(target, prediction.clone(), weights, ETA)  # clamps its argument in place
    logloss = float(states["cross_entropy_sum"]) / rows * _BITS_TO_NATS
    undefined: dict[str, str] = {}
    ne = auc = calibration = None
    if 0 < positives < rows:
        count, pos, neg = (states[key] for key in ("weighted_num_samples", "pos_labels", "neg_labels"))
        ne = float(compute_ne(states["cross_entropy_sum"], count, pos, neg, ETA))
        auc = _auc(y, p)
    else:
        undefined |= dict.fromkeys(("ne", "auc"), f"every label is {int(positives > 0)}")
    if positives:
        sums = get_calibration_states(target, prediction, weights)
        calibration = float(compute_calibration(sums[CALIBRATION_NUM], sums[CALIBRATION_DENOM]))
    else:
        undefined["calibration"] = "no positive label"
    return TaskMetrics(rows, positives, ne, auc, logloss, calibration, undefined)


def _auc(labels: npt.NDArray[np.float64], predictions: npt.NDArray[np.float64]) -> float:
    """Probability that a positive row is scored above a negative one, ties counted half (Mann-Whitney).

    By hand, because torchmetrics integrates the curve in float32.
    """
    _, rank, count = np.unique(predictions, return_inverse=True, return_counts=True)
    positives = np.bincount(rank, weights=labels, minlength=len(count))
    negatives = count - positives
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / (positives.sum() * negatives.sum()))


def evaluate(
    tasks: Sequence[str], labels: npt.NDArray[np.floating[Any]], probabilities: npt.NDArray[np.floating[Any]]
) -> dict[str, TaskMetrics]:
    """Metrics of every task.

    Args:
        tasks: names, in column order.
        labels: [n, len(tasks)], NaN where a row has no label.
        probabilities: [n, at least len(tasks)]; column t belongs to task t.
    """
    return {name: task_metrics(labels[:, t], probabilities[:, t]) for t, name in enumerate(tasks)}


def mean_ne(metrics: dict[str, TaskMetrics]) -> float | None:
    """Mean NE of the tasks where it is defined; what early stopping watches."""
    values = [task.ne for task in metrics.values() if task.ne is not None]
    return sum(values) / len(values) if values else None
