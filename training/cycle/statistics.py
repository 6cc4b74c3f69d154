"""Paired differences and their intervals.

Two templates are trained with the same seeds on the same rows, and compared seed by seed: d_r = gain with seed r. Of n
differences with mean m and deviation s, the interval at confidence c is m ± t s / √n, t the (1 + c) / 2 quantile of
Student's distribution with n - 1 degrees of freedom. It is about what other seeds would give, not other rows.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy.stats import beta
from scipy.stats import t as student


@dataclass(frozen=True)
class Interval:
    """A mean of n differences; low and high are None where nothing bounds it: with fewer than two."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def above_zero(self) -> bool:
        return self.low is not None and self.low > 0

    @property
    def below_zero(self) -> bool:
        return self.high is not None and self.high < 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{100 * self.mean:+.2f} %"
        return f"{100 * self.mean:+.2f} % [{100 * self.low:+.2f}, {100 * self.high:+.2f}]"


def paired(differences: Sequence[float], confidence: float) -> Interval:
    """Student's interval of the mean of paired differences.

    Raises ValueError without any, or for a confidence outside (0, 1).
    """
    return combined([differences], [1.0], confidence)


def combined(groups: Sequence[Sequence[float]], weights: Sequence[float], confidence: float) -> Interval:
    """The weighted mean of the means of independent groups of differences, such as those of several scenarios.

    Its variance is Σ w_g² s_g² / n_g, with the degrees of freedom of Welch and Satterthwaite (doi 10.2307/3002019):
    seeds of one scenario are independent of those of another, though they have the same numbers.

    Args:
        weights: scaled to add up to 1.

    Raises ValueError: an empty group, weights that do not fit, or a confidence outside (0, 1).
    """
    if len(weights) != len(groups) or min(weights, default=0) < 0 or not sum(weights) > 0:
        raise ValueError(f"found the weights {list(weights)}; expected {len(groups)}, none negative, one positive")
    return _weighted(groups, [weight / sum(weights) for weight in weights], confidence)


def unpaired(before: Sequence[Sequence[float]], after: Sequence[Sequence[float]], confidence: float) -> Interval:
    """The mean over groups of mean(before) - mean(after), of runs that have nothing in common.

    before, after: of each group, the values of its runs. Interval and errors: see `combined`.
    """
    if len(before) != len(after):
        raise ValueError(f"found {len(before)} groups before and {len(after)} after; expected as many")
    share = 1 / max(len(before), 1)
    return _weighted([*before, *after], [*[share] * len(before), *[-share] * len(after)], confidence)


def _weighted(groups: Sequence[Sequence[float]], shares: Sequence[float], confidence: float) -> Interval:
    """Σ share_g mean_g, of independent groups."""
    if not groups or not all(groups):
        raise ValueError("found a group without a difference; expected at least one in each")
    if not 0 < confidence < 1:
        raise ValueError(f"found the confidence {confidence}; expected one between 0 and 1")
    mean = sum(share * _mean(group) for share, group in zip(shares, groups, strict=True))
    n = min(len(group) for group in groups)
    if n < 2:
        return Interval(mean, None, None, n)
    parts = [share**2 * _variance(group) / len(group) for share, group in zip(shares, groups, strict=True)]
    variance = sum(parts)
    if variance == 0:
        return Interval(mean, mean, mean, n)
    freedom = variance**2 / sum(part**2 / (len(group) - 1) for part, group in zip(parts, groups, strict=True))
    half = float(student.ppf((1 + confidence) / 2, freedom)) * math.sqrt(variance)
    return Interval(mean, mean - half, mean + half, n)


def shared_confidence(confidence: float, tests: int) -> float:
    """What each of several intervals needs for all to hold together (Bonferroni)."""
    return 1 - (1 - confidence) / max(tests, 1)


def most_per_run(count: int, runs: float, confidence: float) -> float:
    """The upper end of the one-sided interval of a rate, of which `count` were seen in that many runs.

    Clopper and Pearson's (doi 10.1093/biomet/26.4.404), at most one to a run; of none seen, near 3 / runs at 0.95.

    Raises ValueError: more than one to a run, or a confidence outside (0, 1).
    """
    if not 0 <= count <= runs or not 0 < confidence < 1:
        raise ValueError(f"found {count} in {runs} runs at {confidence}; expected at most one to a run, in (0, 1)")
    return 1.0 if count == runs else float(beta.ppf(confidence, count + 1, runs - count))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    mean = _mean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
