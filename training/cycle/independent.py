"""The other way of working: each scenario tuned alone, with the same candidates and the same total budget.

A scenario's share of the budget is spent like a cycle of it alone: its candidates are screened and combined on it, and
what is found is verified with fresh seeds. Where the budget does not reach for all candidates, a scenario tries as many
as it can, beginning at another one than the scenario before, so that all are tried somewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from smt.training.cycle.capacity import CapacityGate, MeasureSpeed
from smt.training.cycle.combining import combine
from smt.training.cycle.config import Cycle
from smt.training.cycle.cycle import check_scenarios, settings_of, sources_of
from smt.training.cycle.result import side
from smt.training.cycle.screening import screen
from smt.training.cycle.sources import TEACHERS
from smt.training.cycle.store import Runner
from smt.training.cycle.trials import CycleError, Trials
from smt.training.cycle.variant import Variant
from smt.training.cycle.verify import Verification, verify
from smt.training.cycle.watch import Quiet, Watch
from smt.training.techniques.technique import Technique

# What a person does, each time techniques are tried. Once a cycle, whatever the number of scenarios is:
CYCLE_STEPS = ("write cycle.yaml", "start smt cycle run", "read the report", "put the new version in place")
# Once for every scenario that is tuned alone:
INDEPENDENT_STEPS = (
    "choose what to try on it",
    "start its tuning",
    "read its results",
    "write its template",
    "compile its template",
    "publish it",
)


@dataclass(frozen=True)
class Tuned:
    """One scenario tuned alone: what was tried, and what it took up."""

    scenario: str
    tried: list[str]
    adopted: list[str]
    verifications: list[Verification]
    spent: float
    quality: dict[str, Any]


def with_budget(cycle: Cycle, runs: float) -> Cycle:
    """The cycle with another budget in all."""
    budget = cycle.entry.budget.model_copy(update={"runs": runs})
    return replace(cycle, entry=cycle.entry.model_copy(update={"budget": budget}))


def tune_independently(
    cycle: Cycle,
    runner: Runner,
    measure: MeasureSpeed | None,
    watch: Watch | None = None,
    save: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Tunes every scenario of a cycle alone.

    save: called after each scenario with the result so far.

    Raises:
        CycleError: the budget does not reach for one candidate on each scenario. JobError, ConfigError: see run_cycle.
    """
    watch = watch or Quiet()
    check_scenarios(runner, cycle, Variant.of(cycle.template.path))
    budget = cycle.entry.budget.runs / len(cycle.scenarios)
    tuned: list[Tuned] = []
    for number, name in enumerate(cycle.scenarios):
        watch.phase(f"tuning {name} alone ({number + 1} of {len(cycle.scenarios)})", budget)
        tuned.append(_tune(cycle, runner, measure, name, number, budget))
        save(_describe(cycle, runner, tuned))
    return _describe(cycle, runner, tuned)


def _describe(cycle: Cycle, runner: Runner, tuned: list[Tuned]) -> dict[str, Any]:
    """The content of baseline.json."""
    return {
        "baseline": cycle.name,
        "confidence": cycle.entry.confidence,
        "scenarios": {
            each.scenario: {
                "tried": each.tried,
                "adopted": each.adopted,
                "verification": [attempt.to_json() for attempt in each.verifications],
                "runs": each.spent,
                "quality": each.quality,
            }
            for each in tuned
        },
        "runs": {
            "total": runner.spent,
            "budget": cycle.entry.budget.runs,
            "adoptions": sum(len(each.adopted) for each in tuned),
        },
        "steps": {
            "cycle": list(CYCLE_STEPS),
            "independent": list(INDEPENDENT_STEPS),
            "cycle_per_scenario": len(CYCLE_STEPS) / len(cycle.scenarios),
            "independent_per_scenario": len(INDEPENDENT_STEPS),
        },
    }


def _tune(cycle: Cycle, runner: Runner, measure: MeasureSpeed | None, name: str, number: int, budget: float) -> Tuned:
    incumbent = Variant.of(cycle.template.path)
    rungs, verified = settings_of(cycle)
    trials = Trials(
        runner, {name: cycle.scenarios[name]}, {name: 1.0}, cycle.entry.confidence, sources_of(cycle, runner)
    )
    gate = CapacityGate(cycle.template, cycle.entry.capacity.tolerance, measure)
    start = runner.spent
    verification = 2 * len(verified.seeds) * verified.share * _epochs(cycle)
    shares = {verified.share, *(rung.share for rung in cycle.entry.rungs)}
    teachers = 0.0 if cycle.entry.teachers is None else sum(shares) * cycle.entry.teachers.seeds * _epochs(cycle)
    candidates = _affordable(cycle, number, budget - verification, teachers)
    if not candidates:
        raise CycleError(
            f"{cycle.document.path}: budget.runs: {cycle.entry.budget.runs:g} leaves {budget:.1f} for each of "
            f"{len(cycle.scenarios)} scenarios, which is not enough to try one candidate alone; raise it"
        )
    allowed = {
        label: each
        for label, each in candidates.items()
        if not (incumbent.plus(each).fault() or gate.sizes_fault(incumbent.plus(each)))
    }
    screening = screen(trials, incumbent, allowed, list(zip(cycle.entry.rungs, rungs, strict=True)))

    def affordable(reserved: float) -> Callable[[float], bool]:
        return lambda cost: runner.spent - start + cost + reserved <= budget + 1e-9

    first = screening.rungs[-1].comparisons if screening.rungs else {}
    taken, _ = combine(
        trials, incumbent, allowed, screening.finalists, first, rungs[-1], gate.fault, affordable(verification)
    )
    before = trials.records(incumbent, verified)[name]
    accepted, attempts = verify(trials, incumbent, taken, verified, affordable(0.0))
    after = trials.records(accepted, verified)[name]
    confidence = cycle.entry.confidence
    quality = {"before": side(before, confidence), "after": side(after, confidence)}
    return Tuned(name, list(candidates), list(accepted.labels), attempts, runner.spent - start, quality)


def _epochs(cycle: Cycle) -> float:
    return 1.0 if cycle.epochs is None else cycle.epochs / cycle.template.recipe.epochs


def _affordable(cycle: Cycle, number: int, budget: float, teachers: float) -> dict[str, Technique]:
    """As many candidates as can be screened on one scenario, beginning with another one for each scenario.

    teachers: cost of theirs, if one of them has some.
    """
    labels = list(cycle.candidates)
    for count in range(len(labels), 0, -1):
        places = [(number * count + i) % len(labels) for i in range(count)]
        chosen = {labels[place]: cycle.candidates[labels[place]] for place in places}
        needed = teachers if any(TEACHERS in each.model_dump_json() for each in chosen.values()) else 0.0
        if _screening(cycle, count) + needed <= budget + 1e-9:
            return chosen
    return {}


def _screening(cycle: Cycle, count: int) -> float:
    cost = 0.0
    for rung in cycle.entry.rungs:
        cost += (count + 1) * rung.seeds * rung.share * _epochs(cycle)
        count = min(count, rung.keep or count)
    return cost
