"""Compares recipes of the template, which development cycles start from, on validation rows.

    python -m examples.ecosystem.recipe --vary batch_size=256 epochs=4,8 --vary batch_size=128 dense_optimizer.lr=0.001

Trains every scenario with every combination of the values after each --vary, several seeds each. Of each recipe: NE
of the best epoch, mean over scenarios and seeds; and its scatter, the standard deviation over seeds relative to the
mean, of the scenario where it is largest and on average. Runs are kept in a store and not made again. Test rows are
not looked at.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.result import Result
from smt.training.config import ConfigError, YamlDocument
from smt.training.cycle.jobs import Job, canonical
from smt.training.cycle.local import LocalExecutor
from smt.training.cycle.record import Record
from smt.training.cycle.store import Runner, Store
from smt.training.cycle.variant import Variant
from smt.training.template import template_of

FOLDER = Path(__file__).resolve().parent
Recipe = dict[str, Any]


def combinations(vary: Sequence[str]) -> list[Recipe]:
    """`key=value,value` each -> all combinations, by dotted keys of a template's recipe, in the order of the values.

    Raises:
        ValueError: text of another form.
    """
    choices: list[list[tuple[str, Any]]] = []
    for text in vary:
        key, found, values = text.partition("=")
        if not (key and found and values):
            raise ValueError(f"--vary: found {text!r}; expected KEY=VALUE,VALUE such as dense_optimizer.lr=0.001,0.002")
        choices.append([(key, json.loads(value)) for value in values.split(",")])
    return [dict(each) for each in itertools.product(*choices)]


def changed(content: str, recipe: Recipe) -> str:
    """A template's content (canonical JSON) with other values in its recipe."""
    data = json.loads(content)
    for key, value in recipe.items():
        *parents, last = key.split(".")
        place = data["recipe"]
        for each in parents:
            place = place.setdefault(each, {})
        place[last] = value
    return canonical(data)


def figures(recipe: Recipe, runs: dict[str, list[Record]]) -> dict[str, Any]:
    """Of one recipe: NE of each scenario and its scatter over seeds. A run that diverged counts as NE 1, no better than
    the label rate."""
    ne = {name: [1.0 if record.ne is None else record.ne for record in records] for name, records in runs.items()}
    mean = {name: statistics.fmean(values) for name, values in ne.items()}
    scatter = {name: statistics.stdev(values) / mean[name] for name, values in ne.items()}
    worst = max(scatter, key=lambda name: scatter[name])
    return {
        "recipe": recipe,
        "ne": statistics.fmean(mean.values()),
        "scatter": statistics.fmean(scatter.values()),
        "worst_scatter": scatter[worst],
        "worst": worst,
        "scenarios": mean,
    }


def compare(
    template: Path, scenarios: Sequence[Path], recipes: Sequence[Recipe], seeds: int, runner: Runner
) -> list[dict[str, Any]]:
    """Figures of each recipe; best mean NE first.

    Raises:
        ConfigError: a recipe that a template cannot have. JobError: a run that could not be made.
    """
    base = Variant.of(template).content
    found = []
    for recipe in recipes:
        content = changed(base, recipe)
        template_of(YamlDocument(template, json.loads(content), "", {}))
        jobs = [Job(path, content, seed) for path in scenarios for seed in range(1, seeds + 1)]
        runs: dict[str, list[Record]] = {}
        for job, record in zip(jobs, runner.records(jobs), strict=True):
            runs.setdefault(job.name, []).append(record)
        found.append(figures(recipe, runs))
        print(json.dumps({key: value for key, value in found[-1].items() if key != "scenarios"}), flush=True)
    return sorted(found, key=lambda each: each["ne"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--vary", nargs="+", action="append", metavar="KEY=VALUE,VALUE", help="keys of the recipe; none: as it is"
    )
    parser.add_argument("--scenarios", nargs="+", type=Path, help="their YAML; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--store", type=Path, default=Path("build/cycles/store"))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="result file to write")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error("--seeds: expected at least 2")
    scenarios = arguments.scenarios or sorted(
        path for prefix in ("apps", "census", "movies") for path in FOLDER.glob(f"{prefix}_*.yaml")
    )
    result = Result("ecosystem_recipe")
    try:
        with LocalExecutor(arguments.workers) as executor:
            runner = Runner(Store(arguments.store), executor)
            recipes = [recipe for vary in arguments.vary or [[]] for recipe in combinations(vary)]
            result.results = compare(FOLDER / "template.yaml", scenarios, recipes, arguments.seeds, runner)
    except (ConfigError, ValueError) as error:
        sys.exit(f"error: {error}")
    print("best:", json.dumps(result.results[0]["recipe"]))
    if arguments.json:
        result.write(arguments.json)


if __name__ == "__main__":
    main()
