"""Writes what development cycles and the other way of working came to on this ecosystem as a result file.

    python -m examples.ecosystem.evaluate build/cycles/ecosystem-{1,2,3,4} \
        --baseline build/cycles/independent/baseline.json --json bench/results/cycles.json

Reads what `smt cycle run` and `smt baseline independent` wrote (see cycle-1.yaml) and trains nothing. All NE is of test
rows, which no choice has seen. What the figures mean is in docs/cycles.md.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.result import Result
from smt.training.cycle.report.compare import Comparison, comparison
from smt.training.cycle.report.page import ReportError, read_results
from smt.training.cycle.statistics import Interval, combined

Json = Mapping[str, Any]


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


def scenario_row(name: str, results: Sequence[Json], baseline: Json | None, found: Comparison | None) -> dict[str, Any]:
    """One scenario: NE before the cycles, after each, and tuned alone, with intervals over seeds."""
    sides = {"before": results[0]["quality"][name]["before"]}
    sides |= {f"cycle_{i}": result["quality"][name]["after"] for i, result in enumerate(results, 1)}
    row: dict[str, Any] = {"scenario": name}
    if baseline is not None and found is not None and name in baseline["scenarios"]:
        alone, over = baseline["scenarios"][name], found.scenarios[name]
        sides["alone"] = alone["quality"]["after"]
        row |= {"alone_tried": len(alone["tried"]), "alone_adopted": alone["adopted"]}
        row |= {"gain": over.mean, "gain_low": over.low, "gain_high": over.high}
    for side, figures in sides.items():
        ne = figures["test"]["ne"]
        row |= {f"ne_{side}": ne["mean"], f"ne_{side}_low": ne["low"], f"ne_{side}_high": ne["high"]}
    return row


def evaluate(results: Sequence[Json], baseline: Json | None, result: Result) -> None:
    """Adds a row for each scenario, the cycles, the comparison, and the targets; without a baseline some are missed.

    Raises:
        ReportError: a scenario without figures of test rows.
    """
    scenarios = list(results[0]["scenarios"])
    for each in results:
        for name, side in each["quality"].items():
            if not side["after"]["test"]:
                raise ReportError(f"{each['cycle']}: found no figures of test rows of {name}; expected data.test in it")
    found = comparison(results, baseline) if baseline is not None else None
    result.results = [scenario_row(name, results, baseline, found) for name in scenarios]
    result.extra["cycles"] = [cycle_row(each) for each in results]
    if baseline is not None and found is not None:
        result.extra["comparison"] = {
            "scenarios": len(found.scenarios),
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
    target = result.target
    target("cycles-count", "development cycles", len(results), ">=", 4)
    target("cycles-scenarios", "scenarios", len(scenarios), ">=", 12)
    target("cycles-candidates", "different candidate techniques", len(candidates), ">=", 16)
    target("cycles-gain", "mean relative gain in NE over scenarios tuned alone, test rows",
           found and found.gain.mean, ">=", 0.0063)  # fmt: skip
    target("cycles-worse", "scenarios worse than tuned alone beyond noise", found and len(found.worse), "==", 0)
    target("cycles-adoptions", "adoptions per run, cycles over alone", found and found.ratio, ">=", 6.3)
    target(
        "cycles-steps", "steps of a person per scenario refresh, cycles over alone", found and found.steps, "<=", 0.08
    )
    for key, what in (("flops_per_row", "FLOPs of a row"), ("slab_bytes", "bytes of dense weights")):
        target(f"cycles-{key}", f"{what}, last version over first", after[key] / before[key], "<=", 1.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cycles", type=Path, nargs="+", help="output folders of the cycles, in their order")
    parser.add_argument("--baseline", type=Path, help="baseline.json of `smt baseline independent`")
    parser.add_argument("--json", type=Path, help="result file to write")
    arguments = parser.parse_args()
    result = Result("cycles")
    try:
        results, baseline = read_results(arguments.cycles, arguments.baseline)
        evaluate(results, baseline, result)
    except ReportError as error:
        sys.exit(f"error: {error}")
    result.print_targets()
    if arguments.json:
        result.write(arguments.json)


if __name__ == "__main__":
    main()
