"""Writes how far the template's models are from the best possible ones, before development cycles and after each.

    python -m examples.synthetic.generate --scenarios 6 --rows 16000 --seed 2
    for i in 1 2 3 4; do smt cycle run examples/synthetic/cycle-$i.yaml; done
    python -m examples.synthetic.evaluate build/cycles/synthetic-{1,2,3,4} --json bench/results/synthetic.json

The distance is NE of the model - NE of the true probabilities, on the same test rows and labels, so that what labels do
by chance is in both. It is of the runs that each cycle verified its version by, scored once by the epoch that was best
on the validation rows, and trains nothing.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.result import Result
from examples.cycle_results import conclude, cycle_row, parser
from smt.training.cycle.report.page import ReportError, read_results
from smt.training.cycle.statistics import combined

Json = Mapping[str, Any]


def distances(quality: Json, side: str, bayes: Json) -> dict[str, list[float]]:
    """Of each scenario and side of a cycle, the distance of every run: mean over the objectives.

    Raises:
        ReportError: figures of other scenarios or objectives than bayes.json has.
    """
    found = {}
    for name, sides in quality.items():
        figures = sides[side]["test"]
        best = bayes.get(name, {}).get("test", {})
        if not figures or set(figures["tasks"]) != set(best):
            tasks = sorted(figures["tasks"]) if figures else "no figures of test rows"
            raise ReportError(f"scenario {name}: found {tasks}; expected those of bayes.json, {sorted(best)}")
        found[name] = [fmean(ne - best[task]["ne"] for task, ne in run.items()) for run in figures["runs"]]
    return found


def evaluate(results: Sequence[Json], bayes: Json, result: Result) -> None:
    """Adds a row for each scenario, the mean distances of every version, and the targets.

    Raises:
        ReportError: see `distances`.
    """
    cycles = [str(each["cycle"]) for each in results]
    steps = [distances(results[0]["quality"], "before", bayes)]
    steps += [distances(each["quality"], "after", bayes) for each in results]
    for name in steps[0]:
        row = {"scenario": name, "before": fmean(steps[0][name])}
        result.results.append(row | {cycle: fmean(step[name]) for cycle, step in zip(cycles, steps[1:], strict=True)})
    adopted = [[], *(each["adopted"] for each in results)]
    means = []
    for cycle, taken, step in zip(["before", *cycles], adopted, steps, strict=True):
        over = combined(list(step.values()), [1.0] * len(step), results[0]["confidence"])
        means.append({"cycle": cycle, "adopted": taken, "distance": over.mean, "low": over.low, "high": over.high})
    result.extra["mean_distance"] = means
    result.extra["cycles"] = [cycle_row(each) for each in results]
    for before, after in pairwise(means):
        what = f"mean distance to the best possible model on test rows, after {after['cycle']}"
        result.target(f"closer-{after['cycle']}", what, after["distance"], "<", before["distance"])


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--data", type=Path, default=Path("build/synthetic"), help="what generate wrote")
    given = arguments.parse_args()
    result = Result("synthetic")

    def fill() -> None:
        results, _ = read_results(given.cycles, None)
        evaluate(results, json.loads((given.data / "bayes.json").read_bytes()), result)

    conclude(result, fill, given.json)


if __name__ == "__main__":
    main()
