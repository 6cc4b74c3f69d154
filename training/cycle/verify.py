"""The proof: the new version against the old one on every scenario, with seeds that no decision has seen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from smt.training.cycle.trials import Comparison, Setting, Trials
from smt.training.cycle.variant import Variant


@dataclass(frozen=True)
class Verification:
    """One attempt. why: the variant was not accepted; empty if it was."""

    techniques: tuple[str, ...]
    comparison: Comparison | None
    why: str

    def to_json(self) -> dict[str, Any]:
        comparison = self.comparison and self.comparison.to_json()
        return {"techniques": list(self.techniques), "comparison": comparison, "why": self.why}


def verify(
    trials: Trials, incumbent: Variant, variant: Variant, setting: Setting, affordable: Callable[[float], bool]
) -> tuple[Variant, list[Verification]]:
    """Tries the variant; while it does not hold, without the technique that was added last.

    trials: of all scenarios. Returns the incumbent if nothing holds.
    """
    attempts: list[Verification] = []
    while variant.added:
        if not affordable(trials.cost([incumbent, variant], setting)):
            attempts.append(Verification(variant.labels, None, "no budget left to train every scenario with it"))
            break
        [comparison] = trials.compare(incumbent, [variant], setting)
        why = _fault(comparison)
        attempts.append(Verification(variant.labels, comparison, why))
        if not why:
            return variant, attempts
        variant = Variant(variant.path, variant.data, variant.added[:-1])
    return incumbent, attempts


def _fault(comparison: Comparison) -> str:
    if comparison.total is None:
        return comparison.failed
    if comparison.regressed:
        worse = ", ".join(f"{name} {comparison.scenarios[name]}" for name in comparison.regressed)
        return f"worse beyond noise: {worse}"
    if not comparison.total.above_zero:
        return f"no gain over all scenarios beyond noise: {comparison.total}"
    return ""


def given_up(attempts: Sequence[Verification], accepted: Variant) -> dict[str, str]:
    """Of each technique that was tried on every scenario and not accepted, why."""
    reasons: dict[str, str] = {}
    for attempt in attempts:
        for label in attempt.techniques:
            if label not in accepted.labels:
                reasons[label] = f"on all scenarios, {' + '.join(attempt.techniques)}: {attempt.why}"
    return reasons
