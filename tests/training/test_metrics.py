"""Metrics against their definitions and against other implementations."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_auroc
from torchrec.metrics.calibration import CalibrationMetricComputation
from torchrec.metrics.ne import NEMetricComputation

from smt.training.metrics import ETA, evaluate, mean_ne, task_metrics

NAN = float("nan")
pairs = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0, NAN]), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])), max_size=60
)


@settings(deadline=None)
@given(pairs)
def test_definitions(data: list[tuple[float, float]]) -> None:
    labels, predictions = [y for y, _ in data], [p for _, p in data]
    metrics = task_metrics(labels, predictions)
    known = [(y, p) for y, p in data if y == y]
    positives, negatives = [p for y, p in known if y == 1], [p for y, p in known if y == 0]
    assert (metrics.rows, metrics.positives) == (len(known), len(positives))
    if known:
        clipped = np.clip([p for _, p in known], ETA, 1 - ETA)
        y = np.array([y for y, _ in known])
        logloss = -(y * np.log(clipped) + (1 - y) * np.log(1 - clipped)).mean()
        assert metrics.logloss == pytest.approx(logloss, rel=1e-9)
    if positives and negatives:
        rate = len(positives) / len(known)
        entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
        assert metrics.ne == pytest.approx(logloss / entropy, rel=1e-9)
        wins = [(a > b) + 0.5 * (a == b) for a in positives for b in negatives]
        assert metrics.auc == pytest.approx(np.mean(wins), abs=1e-12)
        assert metrics.calibration == pytest.approx(np.mean([p for _, p in known]) / rate, rel=1e-12)
        assert not metrics.undefined
    else:
        assert metrics.ne is None
        assert metrics.auc is None
        assert {"ne", "auc"} <= metrics.undefined.keys()
    json.dumps(metrics.to_json(), allow_nan=False)


def test_the_base_rate_has_ne_one_auc_half_and_calibration_one() -> None:
    labels = np.array([1.0, 0, 0, 0])
    metrics = task_metrics(labels, np.full(4, 0.25))
    assert (metrics.ne, metrics.auc, metrics.calibration) == pytest.approx((1.0, 0.5, 1.0))


def test_agrees_with_torchmetrics_and_torchrec() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(5000) < 0.2).astype(np.float64)
    predictions = np.clip(0.2 + 0.2 * (labels - 0.2) + rng.normal(0, 0.1, 5000), 0.001, 0.999).round(2)
    metrics = task_metrics(labels, predictions)
    target, scores = torch.from_numpy(labels), torch.from_numpy(predictions)
    assert metrics.auc == pytest.approx(float(binary_auroc(scores, target.long())), abs=1e-6)
    batch = {"predictions": scores[None], "labels": target[None], "weights": torch.ones(1, 5000, dtype=torch.float64)}
    for kind, expected in ((NEMetricComputation, metrics.ne), (CalibrationMetricComputation, metrics.calibration)):
        computation = kind(my_rank=0, batch_size=5000, n_tasks=1, window_size=5000)
        computation.update(**batch)
        assert float(computation.compute()[0].value) == pytest.approx(expected, rel=1e-6)  # it reports float32


def test_nearly_equal_predictions_are_told_apart() -> None:
    low = 0.3
    high = np.nextafter(low, 1)
    assert task_metrics([0, 1], [low, high]).auc == 1.0
    assert task_metrics([1, 0], [low, high]).auc == 0.0
    assert task_metrics([0, 1], [1e-12, 1e-11]).auc == 1.0


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([0, 1], [0.5], "shapes|expected both"),
        ([0, 2], [0.5, 0.5], "the label 2"),
        ([0, 1], [0.5, 1.5], "the prediction 1.5"),
        ([0, 1], [0.5, NAN], "the prediction nan"),
        ([[0, 1]], [[0.5, 0.5]], "expected both"),
    ],
)
def test_what_is_no_label_or_no_probability(labels: list[float], predictions: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task_metrics(labels, predictions)


def test_a_prediction_of_an_unlabelled_row_does_not_matter() -> None:
    assert task_metrics([0, 1, NAN], [0.2, 0.8, 7.0]) == task_metrics([0, 1], [0.2, 0.8])


def test_tasks_by_column_and_their_mean() -> None:
    labels = np.array([[0, 1], [1, 1], [0, NAN]], dtype=np.float32)
    metrics = evaluate(["a", "b"], labels, np.array([[0.1, 0.5, 9], [0.9, 0.5, 9], [0.2, 0.5, 9]]))
    assert metrics["a"].auc == 1.0
    assert metrics["b"].ne is None
    assert metrics["b"].undefined["ne"] == "every label is 1"
    assert mean_ne(metrics) == metrics["a"].ne
    assert mean_ne({"b": metrics["b"]}) is None
