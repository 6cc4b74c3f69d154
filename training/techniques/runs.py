"""Finished runs as teachers and as starting points."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file
from torch import Tensor

from smt.training.features import FeatureSpec

if TYPE_CHECKING:
    from smt.training.hooks import Run
    from smt.training.template import Template


@dataclass(frozen=True)
class FinishedRun:
    """Template, features and exported weights of a run: slab [elements], table [table_rows, dim]."""

    path: Path
    template: "Template"
    spec: FeatureSpec
    slab: Tensor
    table: Tensor


def of_scenario(path: str, run: "Run") -> Path:
    """A run directory that a template names: {scenario} in it stands for the scenario that is trained."""
    return Path(path.replace("{scenario}", run.scenario.name))


def load_run(path: Path) -> FinishedRun:
    """Raises ValueError when there is no finished run, or its scenario's YAML is gone or has changed."""
    # Imported here: a scenario has a template, which has techniques. And runs need TorchRec; compiling does without.
    from smt.training.run import RunPaths, load_result
    from smt.training.scenario import load_scenario

    try:
        result = load_result(path)
    except FileNotFoundError as error:
        raise ValueError(str(error)) from None
    scenario = load_scenario(Path(result.details["scenario_path"]))
    if result.details["sha256"]["template"] != scenario.template.sha256:
        raise ValueError(
            f"{path}: the template of the run, {scenario.template.path}, has changed since; train it again"
        )
    paths = RunPaths(path)
    weights = load_file(paths.weights)
    return FinishedRun(path, scenario.template, FeatureSpec.load(paths.features), weights["slab"], weights["table"])
