"""Cycles against the other way of working: quality, adoptions per run, steps for a person."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smt.training.cycle.report.html import Cell, percent, table
from smt.training.cycle.statistics import Interval, most_per_run, unpaired

Result = dict[str, Any]
# Of the least ratio of adoptions per run.
BOUND_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Comparison:
    """What the paper compares, over the scenarios of both.

    Attributes:
        split: on whose rows: "test" where every scenario has such rows, which no choice has seen; else "valid".
        scenarios: of each, the gain of the last cycle's version over the scenario tuned alone: relative decrease of NE,
            mean over tasks. Its interval is of runs that have nothing in common, so that it is wide with few seeds.
        gain: their mean.
        adoptions, runs: of all cycles; what several cycles asked for counts once.
        alone_adoptions, alone_runs: of all scenarios tuned alone.
        steps: those of a person per scenario and cycle, over those of one tuned alone.
    """

    split: str
    scenarios: dict[str, Interval]
    gain: Interval
    adoptions: int
    runs: float
    alone_adoptions: int
    alone_runs: float
    steps: float

    @property
    def worse(self) -> list[str]:
        """Scenarios that are worse than tuned alone beyond their noise."""
        return [name for name, interval in self.scenarios.items() if interval.below_zero]

    @property
    def per_run(self) -> float:
        return self.adoptions / self.runs if self.runs else 0.0

    @property
    def alone_per_run(self) -> float:
        return self.alone_adoptions / self.alone_runs if self.alone_runs else 0.0

    @property
    def ratio(self) -> float | None:
        """Of adoptions per run; None where nothing was adopted alone."""
        return self.per_run / self.alone_per_run if self.alone_adoptions else None

    @property
    def ratio_bound(self) -> float | None:
        """The ratio with the most adoptions per run alone that go with those seen: the upper end of the interval of
        that rate, at BOUND_CONFIDENCE. None where nothing was run alone, or more was adopted than was run."""
        if not self.alone_runs or self.alone_adoptions > self.alone_runs:
            return None
        return self.per_run / most_per_run(self.alone_adoptions, self.alone_runs, BOUND_CONFIDENCE)


def comparison(results: Sequence[Result], baseline: Result) -> Comparison:
    """Cycles in their order against scenarios tuned alone."""
    shared = {name: results[-1]["quality"][name]["after"] for name in baseline["scenarios"]}
    alone = {name: each["quality"]["after"] for name, each in baseline["scenarios"].items()}
    split = "test" if all(side["test"] for side in [*shared.values(), *alone.values()]) else "valid"
    pairs = {name: _relative(figures(alone[name], split), figures(shared[name], split)) for name in shared}
    confidence = baseline["confidence"]
    before, after = ([pair[i] for pair in pairs.values()] for i in (0, 1))
    steps = baseline["steps"]
    return Comparison(
        split=split,
        scenarios={name: unpaired([pair[0]], [pair[1]], confidence) for name, pair in pairs.items()},
        gain=unpaired(before, after, confidence),
        adoptions=sum(result["runs"]["adoptions"] for result in results),
        runs=distinct_runs(results),
        alone_adoptions=baseline["runs"]["adoptions"],
        alone_runs=baseline["runs"]["total"],
        steps=steps["cycle_per_scenario"] / steps["independent_per_scenario"],
    )


def distinct_runs(results: Sequence[Result]) -> float:
    """What cycles spent together: a run that several of them asked for counts once."""
    jobs: dict[str, float] = {}
    for result in results:
        jobs |= result["runs"]["jobs"]
    return sum(jobs.values())


def figures(side: Mapping[str, Any], split: str) -> Mapping[str, Any]:
    """Of one side of a scenario, its figures on a split."""
    return side["test"] if split == "test" else side


def _relative(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """NE of every run on both sides over the mean of `before`, mean over the tasks that have one."""
    means = {task: values["ne"] for task, values in before["tasks"].items() if values["ne"] is not None}
    sides = []
    for side in (before, after):
        sides.append([sum(run[task] / mean for task, mean in means.items()) / len(means) for run in side["runs"]])
    return sides[0], sides[1]


def against_baseline(results: Sequence[Result], baseline: Result) -> str:
    """The comparison as tables, with what counts as a step."""
    found = comparison(results, baseline)
    ratio = "nothing adopted alone" if found.ratio is None else f"{found.ratio:.1f}×"
    bound = "-" if found.ratio_bound is None else f"{found.ratio_bound:.1f}×"
    steps = baseline["steps"]
    rows: list[list[Cell]] = [
        [f"mean gain in NE over scenarios tuned alone, {found.split} rows", percent(found.gain.to_json())],
        ["scenarios worse beyond their noise", f"{len(found.worse)} of {len(found.scenarios)}"],
        ["runs, cycles and alone", f"{found.runs:.1f} and {found.alone_runs:.1f}"],
        ["adoptions, cycles and alone", f"{found.adoptions} and {found.alone_adoptions}"],
        ["adoptions per run, cycles and alone", f"{found.per_run:.3f} and {found.alone_per_run:.3f}"],
        ["their ratio", ratio],
        [f"its lower bound at {BOUND_CONFIDENCE:.0%} confidence", bound],
        ["steps for a person per scenario, cycles and alone",
         f"{steps['cycle_per_scenario']:.2f} and {steps['independent_per_scenario']} ({100 * found.steps:.1f} %)"],
        ["a step once a cycle is", ", ".join(steps["cycle"])],
        ["a step for each scenario tuned alone is", ", ".join(steps["independent"])],
    ]  # fmt: skip
    each: list[list[Cell]] = [
        [name, percent(interval.to_json()), "yes" if interval.below_zero else "no",
         ", ".join(baseline["scenarios"][name]["adopted"]) or "nothing"]
        for name, interval in found.scenarios.items()
    ]  # fmt: skip
    titles = ["scenario", "gain in NE over tuned alone", "worse beyond noise", "alone it took up"]
    return table(["what", "value"], rows) + table(titles, each)
