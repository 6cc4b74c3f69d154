"""Platt scaling of each task's logits (Platt 1999; for networks, arXiv 1706.04599), folded into the heads.

    logit' = a logit + b,  with a, b of the least cross entropy on the validation split

Two numbers per task are fitted to the split that is then measured; the head's last layer takes them in, so serving
is the same function.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch

from smt.training.components.tower import TowerConfig
from smt.training.hooks import Hook
from smt.training.parallel import from_rank_zero, gather
from smt.training.techniques.technique import Technique, technique

if TYPE_CHECKING:
    from smt.training.template import Template


@technique
class Calibration(Technique):
    """Needs heads of type tower, and no branches beside them."""

    name: Literal["calibration"] = "calibration"
    paper = "arXiv 1706.04599"

    def unmet(self, template: "Template") -> str:
        components = template.components
        fits = isinstance(components.heads, TowerConfig) and not components.branches
        return "" if fits else "needs heads of type tower and no branches: it is folded into the last layer"

    def hook(self) -> Hook:
        return _Calibration()


class _Calibration(Hook):
    last = True  # of the weights that other hooks put in place

    @contextmanager
    def served(self) -> Iterator[None]:
        parts = gather(self.run.predict())
        fitted = from_rank_zero(lambda: fit_all(parts))
        heads = self.run.model.net.heads
        weight, bias = heads.get_parameter("out_weight"), heads.get_parameter("out_bias")
        kept = weight.detach().clone(), bias.detach().clone()
        with torch.no_grad():
            for task, (slope, offset) in enumerate(fitted):
                weight[task] *= slope
                bias[task] = slope * bias[task] + offset
        try:
            yield
        finally:
            with torch.no_grad():
                weight.copy_(kept[0])
                bias.copy_(kept[1])


def fit_all(
    parts: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]],
) -> list[tuple[float, float]]:
    """Slope and offset of each task, of (labels, probabilities) by process; (1, 0) where nothing can be fitted."""
    labels = np.concatenate([part[0] for part in parts]).astype(np.float64)
    probabilities = np.concatenate([part[1] for part in parts]).astype(np.float64)
    fitted = []
    for task in range(labels.shape[1]):
        known = ~np.isnan(labels[:, task])
        clipped = np.clip(probabilities[known, task], 1e-7, 1 - 1e-7)
        fitted.append(fit(labels[known, task], np.log(clipped / (1 - clipped))))
    return fitted


def fit(labels: npt.NDArray[np.float64], logits: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Newton's method on the cross entropy of σ(a z + b); (1, 0) if it does not converge, or to a slope below 0."""
    if not len(labels) or labels.min() == labels.max() or np.ptp(logits) == 0:
        return 1.0, 0.0
    inputs = np.stack([logits, np.ones_like(logits)], axis=1)

    def entropy(weights: npt.NDArray[np.float64]) -> float:
        z = inputs @ weights
        return float(np.mean(np.logaddexp(0, z) - labels * z))

    weights, step = np.array([1.0, 0.0]), np.ones(2)
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(inputs @ weights, -60, 60)))
        hessian = (inputs * (p * (1 - p))[:, None]).T @ inputs + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, inputs.T @ (p - labels))
        # Where the curve flattens, a whole step overshoots.
        while np.abs(step).max() > 1e-9 and not entropy(weights - step) <= entropy(weights):
            step = step / 2
        weights = weights - step
        if np.abs(step).max() <= 1e-7:
            break
    slope, offset = float(weights[0]), float(weights[1])
    fine = np.isfinite(weights).all() and np.abs(step).max() <= 1e-7 and slope > 0
    return (slope, offset) if fine else (1.0, 0.0)
