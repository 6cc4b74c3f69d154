"""Cycles against the other way of working: quality, adoptions per run, steps for a person."""

from collections.abc import Sequence
from typing import Any

from smt.training.cycle.report.html import Cell, table

Result = dict[str, Any]


def comparison(results: Sequence[Result], baseline: Result) -> dict[str, float]:
    """What the paper compares, over the scenarios of both.

    gain: mean relative decrease of NE, from scenarios tuned alone to the last cycle's version. worse: how many are
    worse beyond their intervals. steps: those of a person per scenario and cycle, over those of one tuned alone.
    """
    last = results[-1]["quality"]
    gains, worse = [], 0
    for name, each in baseline["scenarios"].items():
        alone, shared = each["quality"]["after"]["ne"], last[name]["after"]["ne"]
        gains.append((alone["mean"] - shared["mean"]) / alone["mean"])
        if alone["high"] is not None and shared["low"] is not None:
            worse += shared["low"] > alone["high"]
    adoptions, runs = (sum(result["runs"][key] for result in results) for key in ("adoptions", "total"))
    steps = baseline["steps"]
    return {
        "gain": sum(gains) / len(gains),
        "worse": worse,
        "adoptions_per_run": adoptions / runs if runs else 0.0,
        "baseline_adoptions_per_run": baseline["runs"]["adoptions"] / baseline["runs"]["total"],
        "runs": runs,
        "baseline_runs": baseline["runs"]["total"],
        "steps": steps["cycle_per_scenario"] / steps["independent_per_scenario"],
    }


def against_baseline(results: Sequence[Result], baseline: Result) -> str:
    """The comparison as a table, with what counts as a step."""
    found = comparison(results, baseline)
    ours, theirs = found["adoptions_per_run"], found["baseline_adoptions_per_run"]
    ratio = f"{ours / theirs:.1f}×" if theirs else "nothing adopted alone"
    steps = baseline["steps"]
    rows: list[list[Cell]] = [
        ["mean gain in NE over scenarios tuned alone", f"{100 * found['gain']:+.2f} %"],
        ["scenarios worse beyond their intervals", found["worse"]],
        ["runs, cycles and alone", f"{found['runs']:.1f} and {found['baseline_runs']:.1f}"],
        ["adoptions per run, cycles and alone", f"{ours:.3f} and {theirs:.3f}"],
        ["their ratio", ratio],
        ["steps for a person per scenario, cycles and alone",
         f"{steps['cycle_per_scenario']:.2f} and {steps['independent_per_scenario']} ({100 * found['steps']:.1f} %)"],
        ["a step once a cycle is", ", ".join(steps["cycle"])],
        ["a step for each scenario tuned alone is", ", ".join(steps["independent"])],
    ]  # fmt: skip
    return table(["what", "value"], rows)
