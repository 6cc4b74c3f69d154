"""Intervals against their textbook forms, and against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from smt.training.cycle.statistics import combined, most_per_run, paired, shared_confidence, unpaired

DIFFERENCES = st.lists(st.floats(-1, 1).filter(lambda x: x == 0 or abs(x) > 1e-6), min_size=2, max_size=20)


@given(differences=DIFFERENCES, confidence=st.sampled_from([0.8, 0.95, 0.999]))
def test_a_paired_interval_is_that_of_the_t_test(differences: list[float], confidence: float) -> None:
    found = paired(differences, confidence)
    assert found.mean == pytest.approx(np.mean(differences), abs=1e-12)
    if np.std(differences) < 1e-9:
        return
    expected = stats.ttest_1samp(differences, 0).confidence_interval(confidence)
    assert found.low == pytest.approx(expected.low, abs=1e-9)
    assert found.high == pytest.approx(expected.high, abs=1e-9)


@given(a=DIFFERENCES, b=DIFFERENCES)
def test_the_difference_of_two_means_is_welchs(a: list[float], b: list[float]) -> None:
    if np.std(a) < 1e-6 or np.std(b) < 1e-6:
        return
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    found = unpaired([a], [b], 0.95)
    assert found.low == pytest.approx(expected.low, rel=1e-6, abs=1e-9)
    assert found.high == pytest.approx(expected.high, rel=1e-6, abs=1e-9)


def test_a_mean_of_differences_is_over_groups_however_many_runs_each_has() -> None:
    found = unpaired([[1.0, 3.0], [5.0, 5.5, 6.0]], [[1.0, 1.0], [4.0, 4.5, 5.0]], 0.95)
    assert found.mean == pytest.approx((1.0 + 1.0) / 2)
    assert found.n == 2
    with pytest.raises(ValueError, match="2 groups before and 1 after"):
        unpaired([[1.0], [2.0]], [[1.0]], 0.95)
    with pytest.raises(ValueError, match="a group without a difference"):
        unpaired([[1.0]], [[]], 0.95)


def test_weights_are_shares() -> None:
    groups = [[0.1, 0.3], [0.5, 0.9]]
    assert combined(groups, [3, 1], 0.9) == combined(groups, [0.75, 0.25], 0.9)
    assert combined(groups, [3, 1], 0.9).mean == pytest.approx(0.75 * 0.2 + 0.25 * 0.7)


def test_nothing_bounds_one_difference_and_equal_ones_have_no_noise() -> None:
    one = paired([0.5], 0.95)
    assert (one.mean, one.low, one.high, one.n) == (0.5, None, None, 1)
    assert not one.above_zero
    assert not one.below_zero
    same = paired([0.0, 0.0, 0.0], 0.95)
    assert (same.low, same.high) == (0.0, 0.0)
    assert not same.above_zero


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    draws = 0.2 + rng.normal(0, 1, (2000, 3, 4)) * np.array([0.1, 1.0, 3.0])[:, None]
    weights = [2.0, 1.0, 1.0]
    found = [combined([list(group) for group in draw], weights, 0.9) for draw in draws]
    covered = np.mean([i.low <= 0.2 <= i.high for i in found if i.low is not None and i.high is not None])
    # 2000 draws: a standard error of 0.007; Welch's approximation is a little wide with so few.
    assert 0.88 < covered < 0.93


def test_several_intervals_share_the_error() -> None:
    assert shared_confidence(0.95, 1) == pytest.approx(0.95)
    assert shared_confidence(0.95, 5) == pytest.approx(0.99)
    assert math.isclose(shared_confidence(0.9, 0), 0.9)


@pytest.mark.parametrize(
    ("groups", "weights", "confidence"), [([], [], 0.9), ([[]], [1], 0.9), ([[1.0]], [0], 0.9), ([[1.0]], [1], 1.0)]
)
def test_what_has_no_interval_is_refused(groups: list[list[float]], weights: list[float], confidence: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        combined(groups, weights, confidence)


def test_the_most_per_run_is_what_makes_as_few_as_seen_improbable() -> None:
    assert most_per_run(0, 276, 0.95) == pytest.approx(3 / 276, rel=0.01)  # the rule of three
    for count, runs in ((0, 10), (2, 30), (7, 300)):
        rate = most_per_run(count, runs, 0.9)
        assert stats.binom.cdf(count, runs, rate) == pytest.approx(0.1)
    assert most_per_run(3, 3, 0.95) == 1.0
    for count, runs, confidence in ((2, 1.5, 0.95), (-1, 3, 0.95), (0, 3, 1.0)):
        with pytest.raises(ValueError, match="expected at most one to a run"):
            most_per_run(count, runs, confidence)
