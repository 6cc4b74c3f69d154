"""A scenario trained from several seeds: what is reported of one is the mean, never the best."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bench.result import Result
from smt.serving.snapshot import SnapshotError
from smt.training.config import ConfigError
from smt.training.reading import DataError
from smt.training.scenario import Scenario
from smt.training.trainer import CheckpointError, TrainingError


def with_seed(scenario: Scenario, seed: int) -> Scenario:
    """The scenario, trained from another seed."""
    template = scenario.template
    recipe = template.recipe.model_copy(update={"seed": seed})
    return dataclasses.replace(scenario, template=template.model_copy(update={"recipe": recipe}))


def add_means(result: Result, names: Sequence[str]) -> dict[str, float]:
    """Adds `mean` and, of more than one row, `deviation` (of the sample) of those figures over the rows; returns the
    means."""
    columns = {name: np.array([row[name] for row in result.results]) for name in names}
    mean = {name: float(column.mean()) for name, column in columns.items()}
    result.extra["mean"] = mean
    if len(result.results) > 1:
        result.extra["deviation"] = {name: float(column.std(ddof=1)) for name, column in columns.items()}
    return mean


def conclude(result: Result, evaluate: Callable[[], None], file: Path | None) -> None:
    """Runs `evaluate`, which fills the result; prints the targets and writes the file. Ends the process with a message
    when data or training is not as it has to be."""
    try:
        evaluate()
    except (ConfigError, DataError, CheckpointError, TrainingError, SnapshotError, OSError) as error:
        sys.exit(f"error: {error}")
    result.print_targets()
    if file:
        result.write(file)
