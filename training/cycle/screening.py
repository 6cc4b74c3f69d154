"""Successive halving (arXiv 1502.07943): many candidates on little, the better half on more, evidence at the end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smt.training.cycle.config import Rung
from smt.training.cycle.statistics import shared_confidence
from smt.training.cycle.trials import Comparison, Setting, Trials
from smt.training.cycle.variant import Variant
from smt.training.techniques.technique import Technique


@dataclass(frozen=True)
class RungResult:
    """One rung: what came of each candidate that was in it, best first."""

    setting: Setting
    comparisons: dict[str, Comparison]

    def to_json(self) -> dict[str, Any]:
        return {
            "share": self.setting.share,
            "seeds": list(self.setting.seeds),
            "epochs": self.setting.epochs,
            "candidates": {label: comparison.to_json() for label, comparison in self.comparisons.items()},
        }


@dataclass(frozen=True)
class Screening:
    """rungs: in order. finalists: those with evidence for them, best first. rejected: why, of all the others."""

    rungs: list[RungResult]
    finalists: list[str]
    rejected: dict[str, str]


def screen(
    trials: Trials,
    incumbent: Variant,
    candidates: Mapping[str, Technique],
    rungs: Sequence[tuple[Rung, Setting]],
) -> Screening:
    """Compares every candidate with the incumbent, rung by rung.

    A finalist's gain has an interval above zero that holds together with those of the others in the last rung, and no
    scenario of the set is worse beyond its noise.
    """
    left, results = list(candidates), []
    rejected: dict[str, str] = {}
    for number, (rung, setting) in enumerate(rungs, 1):
        if not left:
            break
        last = number == len(rungs)
        confidence = shared_confidence(trials.confidence, len(left)) if last else None
        variants = [incumbent.plus(candidates[label]) for label in left]
        found = dict(zip(left, trials.compare(incumbent, variants, setting, confidence), strict=True))
        order = sorted(left, key=lambda label: -(found[label].total.mean if found[label].total else float("inf")))  # type: ignore[union-attr]
        result = RungResult(setting, {label: found[label] for label in order})
        results.append(result)
        failures = {label: f"rung {number}: {found[label].failed}" for label in order if found[label].failed}
        if last:
            reasons = {label: _without_evidence(found[label]) for label in order if label not in failures}
        else:
            ranks = [label for label in order if label not in failures]
            reasons = {
                label: f"rung {number}: rank {rank} of {len(ranks)}, {rung.keep} went on ({found[label].total})"
                for rank, label in enumerate(ranks, 1)
                if rank > (rung.keep or 0)
            }
        rejected |= failures | {label: reason for label, reason in reasons.items() if reason}
        left = [label for label in order if label not in rejected]
    return Screening(results, left, rejected)


def _without_evidence(comparison: Comparison) -> str:
    """Why a candidate of the last rung is no finalist; empty if it is one."""
    assert comparison.total is not None
    if not comparison.total.above_zero:
        return f"no gain beyond noise: {comparison.total}"
    if comparison.regressed:
        worse = ", ".join(f"{name} {comparison.scenarios[name]}" for name in comparison.regressed)
        return f"a scenario is worse beyond its noise: {worse}"
    return ""
