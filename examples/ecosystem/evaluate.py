"""Writes what development cycles and the other way of working came to on this ecosystem as a result file.

    python -m examples.ecosystem.evaluate build/cycles/ecosystem-{1,2,3,4} \
        --baseline build/cycles/independent/baseline.json --json bench/results/cycles.json

Reads what `smt cycle run` and `smt baseline independent` wrote (see cycle-1.yaml) and trains nothing. All NE is of test
rows, which no choice has seen. What the figures mean is in docs/cycles.md.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.result import Result
from smt.training.cycle.report.compare import Comparison, comparison
from smt.training.cycle.report.page import ReportError, read_results
from smt.training.cycle.statistics import Interval, combined

Json = dict[str, Any]


def gain(result: Json) -> Interval:
    """What a cycle's version gained over the one before on test rows: of the same seeds, mean over the scenarios."""
    groups = [
        [
            sum((a - b[task]) / a for task, a in before.items()) / len(before)
            for before, b in zip(side["before"]["test"]["runs"], side["after"]["test"]["runs"], strict=True)
        ]
        for side in result["quality"].values()
    ]
    return combined(groups, [1.0] * len(groups), result["confidence"])


def cycle_row(result: Json) -> dict[str, Any]:
    """One cycle: what it tried and took up, what that gained, what it spent, and capacity on both sides."""
    found, capacity = gain(result), result["capacity"]
    sides = {side: capacity[side] for side in ("before", "after")}
    return {
        "cycle": result["cycle"],
        "candidates": list(result["candidates"]),
        "finalists": result["finalists"],
        "adopted": result["adopted"],
        "version": result["version"]["version"] if result["version"] else None,
        "gain": found.mean,
        "gain_low": found.low,
        "gain_high": found.high,
        "runs": result["runs"]["total"],
        "adoptions": result["runs"]["adoptions"],
        **{f"{key}_{side}": each[key] for side, each in sides.items() for key in ("flops_per_row", "slab_bytes")},
        "same_binary": capacity["same_binary"],
    }


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
    result.extra["cycles"] = [cycle_row(each) for each in results]
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
        ("steps", f"steps of a person per scenario refresh, {over}", found.steps, "<=", 0.08),
        (
            "flops",
            "FLOPs of a row, last version over first",
            grown["flops_per_row"],
            "<=",
            1.01,
        ),
        (
            "slab",
            "bytes of dense weights, last version over first",
            grown["slab_bytes"],
            "<=",
            1.01,
        ),
    ):
        result.target(f"cycles-{id}", what, value, op, bound)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cycles", type=Path, nargs="+", help="output folders of the cycles, in their order")
    parser.add_argument("--baseline", type=Path, required=True, help="baseline.json of `smt baseline independent`")
    parser.add_argument("--json", type=Path, help="result file to write")
    arguments = parser.parse_args()
    result = Result("cycles")
    try:
        results, baseline = read_results(arguments.cycles, arguments.baseline)
        assert baseline is not None, "a path of it was given"
        evaluate(results, baseline, result)
    except ReportError as error:
        sys.exit(f"error: {error}")
    result.print_targets()
    if arguments.json:
        result.write(arguments.json)


if __name__ == "__main__":
    main()
