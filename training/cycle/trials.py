"""Variants compared on scenarios: the same seeds, the same rows, differences seed by seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smt.training.cycle.jobs import Job
from smt.training.cycle.record import Record, gain
from smt.training.cycle.sources import Sources
from smt.training.cycle.statistics import Interval, combined, paired
from smt.training.cycle.store import Runner
from smt.training.cycle.variant import Variant


class CycleError(RuntimeError):
    """A cycle that cannot go on; the message says what to change."""


@dataclass(frozen=True)
class Setting:
    """How runs are made that are to be compared."""

    seeds: tuple[int, ...]
    share: float = 1.0
    epochs: int | None = None


@dataclass(frozen=True)
class Comparison:
    """One variant against another.

    Attributes:
        total: gain in NE, weighted mean over the scenarios. None: a run failed.
        scenarios: of each scenario; above 0 is better.
        failed: why a run failed.
    """

    total: Interval | None
    scenarios: dict[str, Interval] = field(default_factory=dict)
    failed: str = ""

    @property
    def regressed(self) -> list[str]:
        """Scenarios that are worse beyond their noise."""
        return [name for name, interval in self.scenarios.items() if interval.below_zero]

    def to_json(self) -> dict[str, Any]:
        return {
            "total": self.total and self.total.to_json(),
            "scenarios": {name: interval.to_json() for name, interval in self.scenarios.items()},
            "failed": self.failed,
        }


class Trials:
    """Makes and compares runs of variants on a fixed set of scenarios.

    scenarios: the YAML of each. weights: of those that count in the total; the others are not run.
    """

    def __init__(
        self,
        runner: Runner,
        scenarios: Mapping[str, Path],
        weights: Mapping[str, float],
        confidence: float,
        sources: Sources,
    ) -> None:
        self.runner = runner
        self.sources = sources
        self.scenarios = scenarios
        self.weights = weights
        self.confidence = confidence

    def jobs(self, variant: Variant, setting: Setting) -> list[Job]:
        """Scenario by scenario, in each the seeds in their order."""
        return [
            self.sources.job(variant, self.scenarios[name], seed, setting.share, setting.epochs)
            for name in self.weights
            for seed in setting.seeds
        ]

    def cost(self, variants: Sequence[Variant], setting: Setting) -> float:
        """In runs: what comparing these would add to what was spent."""
        return self.runner.cost([job for variant in variants for job in self.jobs(variant, setting)])

    def records(self, variant: Variant, setting: Setting) -> dict[str, list[Record]]:
        """Of each scenario, in the order of the seeds."""
        found = iter(self.runner.records(self.jobs(variant, setting)))
        return {name: [next(found) for _ in setting.seeds] for name in self.weights}

    def compare(
        self, before: Variant, after: Sequence[Variant], setting: Setting, confidence: float | None = None
    ) -> list[Comparison]:
        """Each of `after` against `before`.

        Args:
            confidence: of the total's interval, if it is another one than the scenarios'.

        Raises:
            CycleError: a scenario on which nothing can be measured. JobError: see Runner.
        """
        # Asked for together, so that all of them run side by side.
        self.runner.records([job for variant in (before, *after) for job in self.jobs(variant, setting)])
        base = self.records(before, setting)
        for name, records in base.items():
            for record in records:
                if record.failed or record.ne is None:
                    why = record.failed or "each task has one label alone in data.valid, so NE is not defined"
                    raise CycleError(f"scenario {name}, {before}, seed {record.seed}: {why}")
        return [self._compare(base, self.records(variant, setting), confidence) for variant in after]

    def _compare(
        self, base: dict[str, list[Record]], records: dict[str, list[Record]], confidence: float | None
    ) -> Comparison:
        gains: dict[str, list[float]] = {}
        for name, before in base.items():
            for a, b in zip(before, records[name], strict=True):
                value = gain(a, b)
                if value is None:
                    return Comparison(None, failed=f"scenario {name}, seed {b.seed}: {b.failed or 'no NE'}")
                gains.setdefault(name, []).append(value)
        total = combined(list(gains.values()), list(self.weights.values()), confidence or self.confidence)
        return Comparison(total, {name: paired(values, self.confidence) for name, values in gains.items()})
