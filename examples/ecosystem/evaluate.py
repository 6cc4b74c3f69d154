"""Writes what development cycles and the other way of working came to on this ecosystem as a result file.

    python -m examples.ecosystem.evaluate build/cycles/ecosystem-{1,2,3,4} \
        --baseline build/cycles/independent/baseline.json --json bench/results/cycles.json

Reads what `smt cycle run` and `smt baseline independent` wrote (see cycle-1.yaml) and trains nothing. All NE is of test
rows, which no choice has seen. What the figures mean is in docs/cycles.md.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.result import Result
from examples.cycle_results import conclude, cycle_row, parser
from smt.training.cycle.report.compare import BOUND_CONFIDENCE, Comparison, comparison
from smt.training.cycle.report.page import ReportError, read_results

Json = dict[str, Any]


def row_of_cycle(result: Json) -> dict[str, Any]:
    """One cycle, with capacity on both sides."""
    capacity = result["capacity"]
    figures = {
        f"{key}_{side}": capacity[side][key] for side in ("before", "after") for key in ("flops_per_row", "slab_bytes")
    }
    return {**cycle_row(result), **figures, "same_binary": capacity["same_binary"]}


def scenario_row(name: str, results: Sequence[Json], baseline: Json, found: Comparison) -> dict[str, Any]:
    """One scenario: NE before the cycles, after each, and tuned alone, with intervals over seeds."""
    sides = {"before": results[0]["quality"][name]["before"]}
    sides |= {f"cycle_{i}": result["quality"][name]["after"] for i, result in enumerate(results, 1)}
    alone, over = baseline["scenarios"][name], found.scenarios[name]
    sides["alone"] = alone["quality"]["after"]
    row: dict[str, Any] = {"scenario": name, "alone_tried": len(alone["tried"]), "alone_adopted": alone["adopted"]}
    row |= {"gain": over.mean, "gain_low": over.low, "gain_high": over.high}
    for side, figures in sides.items():
        ne = figures["test"]["ne"]
        row |= {f"ne_{side}": ne["mean"], f"ne_{side}_low": ne["low"], f"ne_{side}_high": ne["high"]}
    return row


def evaluate(results: Sequence[Json], baseline: Json, result: Result) -> None:
    """Adds a row for each scenario, the cycles, the comparison, and the targets.

    Raises:
        ReportError: a scenario that is not tuned alone, or has no figures of test rows.
    """
    scenarios = list(results[0]["scenarios"])
    if missing := sorted(set(scenarios) - set(baseline["scenarios"])):
        raise ReportError(f"found no scenario {', '.join(missing)} tuned alone; let `smt baseline independent` go on")
    found = comparison(results, baseline)
    if found.split != "test":
        raise ReportError("found a scenario without figures of test rows; expected data.test in all")
    result.results = [scenario_row(name, results, baseline, found) for name in scenarios]
    result.extra["cycles"] = [row_of_cycle(each) for each in results]
    result.extra["comparison"] = {
        "gain": found.gain.to_json(),
        "worse": found.worse,
        "runs": found.runs,
        "adoptions": found.adoptions,
        "adoptions_per_run": found.per_run,
        "alone_runs": found.alone_runs,
        "alone_adoptions": found.alone_adoptions,
        "alone_adoptions_per_run": found.alone_per_run,
        "ratio": found.ratio,
        "ratio_bound": found.ratio_bound,
        "steps": baseline["steps"],
    }
    candidates = {label for each in results for label in each["candidates"]}
    before, after = results[0]["capacity"]["before"], results[-1]["capacity"]["after"]
    grown = {key: after[key] / before[key] for key in ("flops_per_row", "slab_bytes")}
    over = "over scenarios tuned alone"
    for id, what, value, op, bound in (
        ("count", "development cycles", len(results), ">=", 4),
        ("scenarios", "scenarios", len(scenarios), ">=", 12),
        ("candidates", "different candidate techniques", len(candidates), ">=", 16),
        ("gain", f"mean relative gain in NE {over}, test rows", found.gain.mean, ">=", 0.0063),
        ("worse", "scenarios worse than tuned alone beyond noise", len(found.worse), "==", 0),
        ("adoptions", f"adoptions per run, {over}", found.ratio, ">=", 6.3),
        (
            "adoptions-bound",
            f"the same, its lower bound at {BOUND_CONFIDENCE:.0%} confidence",
            found.ratio_bound,
            ">=",
            6.3,
        ),
        ("steps", f"steps of a person per scenario refresh, {over}", found.steps, "<=", 0.08),
        ("flops", "FLOPs of a row, last version over first", grown["flops_per_row"], "<=", 1.01),
        ("slab", "bytes of dense weights, last version over first", grown["slab_bytes"], "<=", 1.01),
    ):
        result.target(f"cycles-{id}", what, value, op, bound)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--baseline", type=Path, required=True, help="baseline.json of `smt baseline independent`")
    given = arguments.parse_args()
    result = Result("cycles")

    def fill() -> None:
        results, baseline = read_results(given.cycles, given.baseline)
        assert baseline is not None, "a path of it was given"
        evaluate(results, baseline, result)

    conclude(result, fill, given.json)


if __name__ == "__main__":
    main()
