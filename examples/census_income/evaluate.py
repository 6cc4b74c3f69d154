"""Trains the scenario from several seeds, and writes its quality as a result file.

    python -m examples.census_income.teacher --output build/census_income
    python -m examples.census_income.evaluate --json bench/results/quality_census.json

Every run keeps the epoch with the best mean NE on the validation split, and the figures are of that split: the
benchmark's test rows are held back.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from bench.result import Result
from examples.census_income.rows import TASKS
from examples.seeds import add_means, conclude, with_seed
from smt.training.model import flops_per_row
from smt.training.run import RunPaths
from smt.training.scenario import Scenario, load_scenario
from smt.training.trainer import train

FOLDER = Path(__file__).resolve().parent
STATEMENT = (
    "official train rows; valid is a random half (ours) of the official test rows; the columns year and "
    "instance_weight are missing; figures on valid, which chose the epochs too; distilled from a teacher that uses "
    "train rows only"
)
# What a tuned LightGBM reaches on the same rows: AUC to reach at least, NE at most.
TARGETS = {"income": (0.9584, 0.4619), "never_married": (0.9950, 0.1290)}


def evaluate(scenario: Scenario, runs: Path, seeds: Sequence[int], result: Result, resume: bool = False) -> None:
    """Adds a row for each seed, then the targets.

    Args:
        resume: continue what is in the folder of runs; finished ones are taken as they are.

    Raises:
        ConfigError, DataError, CheckpointError, TrainingError, OSError: data or training is not as it has to be.
    """
    teacher = json.loads((scenario.files("valid")[0].parent / "teacher.json").read_text())
    plain = scenario.template.model_copy(update={"techniques": []})
    flops = flops_per_row(scenario.template)
    result.extra = {"statement": STATEMENT, "flops_per_row": flops, "teacher": teacher}
    for seed in seeds:
        row: dict[str, float | int] = {"seed": seed}
        folder = runs / f"{scenario.name}_seed{seed}"
        run = train(with_seed(scenario, seed), folder, resume=resume and RunPaths(folder).checkpoint.exists())
        row |= {"epoch": run.epoch, "seconds": round(run.seconds, 1)}
        for task, metrics in run.metrics.items():
            assert metrics.auc is not None
            assert metrics.ne is not None
            row |= {f"{task}_auc": metrics.auc, f"{task}_ne": metrics.ne}
        result.results.append(row)
        print(json.dumps(row), flush=True)
    mean = add_means(result, [name for name in result.results[0] if name.endswith(("_auc", "_ne"))])
    over = f"valid, mean of {len(seeds)} seeds"
    for task in TASKS:
        for figure, op, target in zip(("auc", "ne"), (">=", "<="), TARGETS[task], strict=True):
            id = f"census-{task.replace('_', '-')}-{figure}"
            result.target(id, f"{figure.upper()}, {task}, {over}", mean[f"{task}_{figure}"], op, target)
    ratio = flops / flops_per_row(plain)
    result.target("census-flops", "FLOPs per row over those of the plain template", ratio, "<=", 1.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("build/runs/census_income"), help="folder of run directories")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--resume", action="store_true", help="continue an evaluation that was interrupted")
    parser.add_argument("--json", type=Path, help="result file to write")
    arguments = parser.parse_args()
    result = Result("quality_census")

    def run() -> None:
        evaluate(load_scenario(FOLDER / "people.yaml"), arguments.runs, arguments.seeds, result, arguments.resume)

    conclude(result, run, arguments.json)


if __name__ == "__main__":
    main()
