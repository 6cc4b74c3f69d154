"""Which techniques together: forward selection in the order of their gains, each on top of those taken before."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smt.training.cycle.trials import Comparison, Setting, Trials
from smt.training.cycle.variant import Variant, conflicts
from smt.training.techniques.technique import Technique

# Why a variant may not be served at the incumbent's capacity; empty if it may.
CapacityFault = Callable[[Variant], str]


@dataclass(frozen=True)
class Step:
    """One technique tried on top of others. why: it was not taken; empty if it was."""

    technique: str
    on: tuple[str, ...]
    comparison: Comparison | None
    why: str

    def to_json(self) -> dict[str, Any]:
        comparison = self.comparison and self.comparison.to_json()
        return {"technique": self.technique, "on": list(self.on), "comparison": comparison, "why": self.why}


def combine(
    trials: Trials,
    incumbent: Variant,
    candidates: Mapping[str, Technique],
    finalists: Sequence[str],
    first: Mapping[str, Comparison],
    setting: Setting,
    capacity_fault: CapacityFault,
    affordable: Callable[[float], bool],
) -> tuple[Variant, list[Step]]:
    """Takes finalists one by one, if they add to those taken before.

    Args:
        finalists: best first. first: their comparisons with the incumbent in the last rung.
        setting: of the last rung, whose runs are used again.
        capacity_fault: see CapacityFault. affordable: whether a cost in runs is left in the budget.
    """
    taken, steps = incumbent, []
    base = incumbent.template()
    for label in finalists:
        technique = candidates[label]
        variant = taken.plus(technique)
        comparison = None if taken.added else first[label]
        why = conflicts(technique, taken.added, base) or variant.fault() or capacity_fault(variant)
        if not why and comparison is None and not affordable(trials.cost([taken, variant], setting)):
            why = "no budget left to try it on top of the others"
        if not why and comparison is None:
            [comparison] = trials.compare(taken, [variant], setting)
            why = _adds_nothing(comparison, taken)
        steps.append(Step(label, taken.labels, comparison, why))
        taken = taken if why else variant
    return taken, steps


def _adds_nothing(comparison: Comparison, taken: Variant) -> str:
    if comparison.total is None:
        return f"on top of {taken}: {comparison.failed}"
    if not comparison.total.above_zero:
        return f"no gain beyond noise on top of {taken}: {comparison.total}"
    if comparison.regressed:
        worse = ", ".join(f"{name} {comparison.scenarios[name]}" for name in comparison.regressed)
        return f"on top of {taken} a scenario is worse beyond its noise: {worse}"
    return ""
