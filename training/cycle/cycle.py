"""One development cycle, from cycle.yaml to the next version of the template.

    result = run_cycle(load_cycle("cycle.yaml"), runner, Path("build/cycles/spring"), measure)

Every decision follows from records in the store alone, so that the same cycle run again decides the same. What it
comes to is result.json in the output folder, beside template.yaml, which the next cycle starts from.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smt.training.checkpoint import write_atomically
from smt.training.config import load_yaml
from smt.training.cycle.adoption import Cell, adoption_matrix
from smt.training.cycle.capacity import CapacityGate, MeasureSpeed
from smt.training.cycle.combining import Step, combine
from smt.training.cycle.config import Cycle
from smt.training.cycle.descriptors import Clusters, Descriptor, cluster, describe
from smt.training.cycle.execute import SCENARIO
from smt.training.cycle.jobs import Job, canonical
from smt.training.cycle.screening import Screening, screen
from smt.training.cycle.sources import Sources
from smt.training.cycle.store import Runner
from smt.training.cycle.trials import Setting, Trials
from smt.training.cycle.variant import Variant
from smt.training.cycle.verify import Verification, given_up, verify
from smt.training.cycle.version import cut_version
from smt.training.cycle.watch import Quiet, Watch
from smt.training.scenario import load_scenario
from smt.training.template import Template


@dataclass(frozen=True)
class Outcome:
    """What a cycle came to; result.py writes it down."""

    cycle: Cycle
    descriptors: dict[str, Descriptor]
    clusters: Clusters
    screening: Screening
    steps: list[Step]
    verifications: list[Verification]
    incumbent: Variant
    accepted: Variant
    capacity: dict[str, Any]
    adoption: list[Cell]
    verified: Setting
    spent: dict[str, float]
    template: Template | None = None  # the next version, if there is one
    released: dict[str, Path] = field(default_factory=dict)  # run directories of it by scenario


def settings_of(cycle: Cycle) -> tuple[list[Setting], Setting]:
    """Of each rung, and of the verification."""
    entry = cycle.entry
    rungs = [Setting(tuple(cycle.seeds(i)), rung.share, cycle.epochs) for i, rung in enumerate(entry.rungs)]
    return rungs, Setting(tuple(cycle.seeds(len(rungs))), entry.verify.share, cycle.epochs)


def planned(cycle: Cycle, representatives: int, release: bool) -> dict[str, float]:
    """What each phase costs at most, in runs: all candidates screened, the version verified once, and released."""
    entry, share = cycle.entry, 1.0
    if cycle.epochs is not None:
        share = cycle.epochs / cycle.template.recipe.epochs
    left, screening = len(cycle.candidates), 0.0
    for rung in entry.rungs:
        screening += (left + 1) * representatives * rung.seeds * rung.share * share
        left = min(left, rung.keep or left)
    count = len(cycle.scenarios)
    plan = {"screening": screening, "verification": 2 * count * entry.verify.seeds * entry.verify.share * share}
    if entry.teachers is not None:
        # Those of every scenario on all rows and on the verification's, and of the representatives on other shares.
        everywhere = {1.0, entry.verify.share}
        shares = {rung.share for rung in entry.rungs} - everywhere
        plan["teachers"] = (count * sum(everywhere) + representatives * sum(shares)) * entry.teachers.seeds * share
    if entry.trunk is not None:
        plan["trunk"] = share
    return plan | ({"release": count * share} if release else {})


def run_cycle(
    cycle: Cycle,
    runner: Runner,
    output: Path,
    measure: MeasureSpeed | None,
    *,
    release: bool = False,
    watch: Watch | None = None,
    describing: Callable[[Path], Descriptor] | None = None,
) -> Outcome:
    """Runs a cycle, or goes on with one that was interrupted.

    Args:
        output: gets template.yaml, the next version, or the template as it is if nothing was adopted.
        measure: how candidates that are served by another binary are measured; None refuses those.
        release: train the version that is cut on every scenario once more and keep the runs, for publishing.
        describing: a scenario's YAML -> its descriptor.

    Raises:
        CycleError: the plan does not fit the budget; a scenario on which nothing can be measured.
        ConfigError: a scenario does not fit the template. JobError: a job could not be done.
    """
    watch = watch or Quiet()
    entry, incumbent = cycle.entry, Variant.of(cycle.template.path)
    rungs, verified = settings_of(cycle)
    check_scenarios(runner, cycle, incumbent)
    watch.phase("describing scenarios", len(cycle.scenarios))
    descriptors = {}
    for name, path in cycle.scenarios.items():
        descriptors[name] = (describing or (lambda path: describe(load_scenario(path))))(path)
        watch.advance(1)
    clusters = cluster(descriptors, entry.representatives)
    plan = planned(cycle, len(clusters.representatives), release)
    if sum(plan.values()) > entry.budget.runs:
        parts = ", ".join(f"{phase} {cost:.1f}" for phase, cost in plan.items())
        allowed = f"at least {sum(plan.values()):.1f} ({parts}), or a smaller plan"
        raise cycle.document.fail(("budget", "runs"), f"{entry.budget.runs:g}", allowed)
    reserved = sum(cost for phase, cost in plan.items() if phase != "screening")

    gate = CapacityGate(cycle.template, entry.capacity.tolerance, measure)
    refused = {label: _refused(incumbent.plus(each), gate) for label, each in cycle.candidates.items()}
    refused = {label: reason for label, reason in refused.items() if reason}
    candidates = {label: each for label, each in cycle.candidates.items() if label not in refused}

    sources = sources_of(cycle, runner)
    trials = Trials(runner, cycle.scenarios, clusters.weights, entry.confidence, sources)
    spent = {}
    watch.phase(f"screening {len(candidates)} candidates on {', '.join(clusters.weights)}", plan["screening"])
    screening = screen(trials, incumbent, candidates, list(zip(entry.rungs, rungs, strict=True)))
    spent["screening"] = runner.spent

    def left(cost: float, kept: float) -> bool:
        return runner.spent + cost + kept <= entry.budget.runs + 1e-9

    finalists = screening.finalists
    watch.phase(f"combining {', '.join(finalists) or 'nothing'}", max(len(finalists) - 1, 0) * _cost(trials, rungs[-1]))
    first = screening.rungs[-1].comparisons if screening.rungs else {}
    taken, steps = combine(
        trials, incumbent, candidates, finalists, first, rungs[-1], gate.fault, lambda cost: left(cost, reserved)
    )
    spent["combination"] = runner.spent - sum(spent.values())

    everywhere = Trials(runner, cycle.scenarios, dict.fromkeys(cycle.scenarios, 1.0), entry.confidence, sources)
    watch.phase(f"verifying {taken} on every scenario", everywhere.cost([incumbent, taken], verified))
    everywhere.records(incumbent, verified)
    kept = plan.get("release", 0.0)
    accepted, attempts = verify(everywhere, incumbent, taken, verified, lambda cost: left(cost, kept))
    spent["verification"] = runner.spent - sum(spent.values())

    template, released = None, {}
    if not accepted.added:  # the next cycle starts from what is there
        output.mkdir(parents=True, exist_ok=True)
        write_atomically(output / "template.yaml", cycle.template.path.read_bytes())
    else:
        places = sources.link(accepted, cycle.scenarios.items(), output)
        template = cut_version(accepted, cycle.name, output / "template.yaml", places)
        if release:
            watch.phase(f"training every scenario with version {template.version}", len(cycle.scenarios))
            released = _release(runner, cycle, template)
            spent["release"] = runner.spent - sum(spent.values())
    members = {c: name for name in clusters.weights for c in [clusters.cluster[name]]}
    return Outcome(
        cycle=cycle,
        descriptors=descriptors,
        clusters=clusters,
        screening=screening,
        steps=steps,
        verifications=attempts,
        incumbent=incumbent,
        accepted=accepted,
        capacity=gate.to_json(accepted),
        adoption=adoption_matrix(
            list(cycle.candidates),
            {name: members[clusters.cluster[name]] for name in cycle.scenarios},
            screening,
            steps,
            accepted.labels,
            refused | given_up(attempts, accepted),
        ),
        verified=verified,
        spent=spent,
        template=template,
        released=released,
    )


def check_scenarios(runner: Runner, cycle: Cycle, incumbent: Variant) -> None:
    """Every scenario has to fit the cycle's template. Raises ConfigError before anything is run."""
    for path in cycle.scenarios.values():
        load_scenario(runner.store.prepare(Job(path, incumbent.content, cycle.entry.first_seed)) / SCENARIO)


def sources_of(cycle: Cycle, runner: Runner) -> Sources:
    """The runs that candidates may name."""
    seeds = cycle.seeds(len(cycle.entry.rungs) + 1)
    return Sources(runner.store, Variant.of(cycle.template.path), tuple(seeds), cycle.trunk, cycle.epochs)


def _refused(variant: Variant, gate: CapacityGate) -> str:
    return variant.fault() or gate.sizes_fault(variant)


def _cost(trials: Trials, setting: Setting) -> float:
    return len(trials.weights) * len(setting.seeds) * setting.share


def _release(runner: Runner, cycle: Cycle, template: Template) -> dict[str, Path]:
    """The run directory of each scenario, trained as the version's recipe says."""
    content = canonical(load_yaml(template.path).data)
    jobs = {
        name: Job(path, content, template.recipe.seed, epochs=cycle.epochs, keep=True)
        for name, path in cycle.scenarios.items()
    }
    runner.records(list(jobs.values()))
    return {name: runner.store.run_dir(job) for name, job in jobs.items()}
