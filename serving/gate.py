"""The publish gate: what it compares, its limits, and what it says where one is passed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from smt.kernels.cpu import Precision
from smt.serving.drift import Drift
from smt.training.metrics import TaskMetrics

# Largest relative change of a task's normalized entropy, and of its calibration, from training to serving, by what the
# binary multiplies in.
MAX_NE_CHANGE: dict[Precision, float] = {"fp32": 1e-4, "bf16": 1e-4, "int8": 5e-4}
MAX_CALIBRATION_CHANGE: dict[Precision, float] = {"fp32": 1e-3, "bf16": 1e-3, "int8": 5e-3}


@dataclass(frozen=True)
class Limits:
    """How much may change; beyond, a run is not published.

    ne_change, calibration_change: relative, from training to serving. None: MAX_NE_CHANGE, MAX_CALIBRATION_CHANGE.
    drift: mean of |new - old| over the mean of old, predictions of the new version against those of the one being
    served. It is relative to the rate of what is predicted, so that one limit serves rare and frequent events.
    mean_change: relative change of the mean prediction. psi: population stability index; None: no limit, since it
    counts a shift of predictions that hardly differ from each other as much as one of those that do. 0.25 is usual
    for models that have settled.
    """

    ne_change: float | None = None
    calibration_change: float | None = None
    drift: float = 0.5
    mean_change: float = 0.5
    psi: float | None = None

    def of(self, precision: Precision) -> Limits:
        """With what depends on the precision filled in."""
        return Limits(
            MAX_NE_CHANGE[precision] if self.ne_change is None else self.ne_change,
            MAX_CALIBRATION_CHANGE[precision] if self.calibration_change is None else self.calibration_change,
            self.drift,
            self.mean_change,
            self.psi,
        )


@dataclass(frozen=True)
class Comparison:
    """Drift per task against the version being served; `why_not` where there is no task to compare."""

    version: str | None = None
    tasks: dict[str, Drift] = field(default_factory=dict)
    why_not: str = ""

    def to_json(self) -> dict[str, Any]:
        tasks = {task: drift.to_json() for task, drift in self.tasks.items()}
        return {"version": self.version, "tasks": tasks, "why_not": self.why_not}


@dataclass(frozen=True)
class Gate:
    """What the gate saw, per task: training's figures, serving's, how far apart they are (None: undefined), and drift.

    limits: with every figure that depends on the precision.
    """

    trained: dict[str, TaskMetrics]
    served: dict[str, TaskMetrics]
    ne_change: dict[str, float | None]
    calibration_change: dict[str, float | None]
    precision: Precision
    limits: Limits
    comparison: Comparison

    def problems(self) -> list[str]:
        """Why the run must not be published; empty if it may."""
        found = []
        for task in self.ne_change:
            trained, served = self.trained[task], self.served[task]
            if (trained.rows, trained.positives) != (served.rows, served.positives):
                found.append(
                    f"task {task!r}: training saw {trained.rows} labelled rows, {trained.positives} positive; "
                    f"here are {served.rows}, {served.positives} positive"
                )
                continue
            found += self._change(task, "NE", trained.ne, served.ne, self.ne_change[task], self.limits.ne_change)
            found += self._change(
                task,
                "calibration",
                trained.calibration,
                served.calibration,
                self.calibration_change[task],
                self.limits.calibration_change,
            )
        for task, drift in self.comparison.tasks.items():
            found += self._drifted(task, drift)
        return found

    def _change(
        self,
        task: str,
        what: str,
        trained: float | None,
        served: float | None,
        change: float | None,
        limit: float | None,
    ) -> list[str]:
        if (trained is None) != (served is None):
            return [f"task {task!r}: {what} {trained} in training, {served} in serving"]
        if change is None or limit is None or change <= limit:  # a NaN is no less than any limit
            return []
        fix = "" if self.precision == "fp32" else "; `smt compile --precision fp32` keeps rounding out of it"
        return [
            f"task {task!r}: {what} {trained:.6f} in training, {served:.6f} in serving: relative change {change:.2e}; "
            f"at most {limit:g} is published from {self.precision}{fix}"
        ]

    def _drifted(self, task: str, drift: Drift) -> list[str]:
        against = f"against {self.comparison.version} on {drift.rows} rows"
        figures = (
            ("predictions moved by a share of", drift.relative, self.limits.drift, "--max-drift"),
            ("mean prediction changed by a share of", drift.mean_change, self.limits.mean_change, "--max-mean-change"),
            ("population stability index of the predictions", drift.psi, self.limits.psi, "--max-psi"),
        )
        return [
            f"task {task!r}: {what} {value:.3g} {against} (mean {drift.mean_old:.4g} served, {drift.mean_new:.4g} "
            f"now); at most {limit:g} is published; {option} moves the limit, if it is meant"
            for what, value, limit, option in figures
            if limit is not None and not value <= limit
        ]

    def to_json(self, forced: str | None = None) -> dict[str, Any]:
        """For the manifest; `forced` is why it was published in spite of `problems`."""
        return {
            "train_side": {task: metrics.to_json() for task, metrics in self.trained.items()},
            "serving": {task: metrics.to_json() for task, metrics in self.served.items()},
            "ne_change": self.ne_change,
            "calibration_change": self.calibration_change,
            "precision": self.precision,
            "drift": self.comparison.to_json(),
            "gate": {"limits": asdict(self.limits), "problems": self.problems(), "forced": forced},
        }


def compare(
    trained: dict[str, TaskMetrics],
    served: dict[str, TaskMetrics],
    precision: Precision,
    limits: Limits | None = None,
    comparison: Comparison | None = None,
) -> Gate:
    """The two sides of the gate, and how far apart they are."""

    def change(figure: str) -> dict[str, float | None]:
        changes: dict[str, float | None] = {}
        for task, metrics in trained.items():
            before, after = getattr(metrics, figure), getattr(served[task], figure)
            changes[task] = None if before is None or after is None else abs(after - before) / before
        return changes

    return Gate(
        trained,
        served,
        change("ne"),
        change("calibration"),
        precision,
        (limits or Limits()).of(precision),
        comparison or Comparison(),
    )
