"""What the kernels' rounding does to trained models: the census example's, scored by the fused kernels and in float64.

registry = trained_registry(Path("build/bench/census"), ["income_workers"], epochs=2)
rows = quality_changes(registry, "bf16", cache)
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load
from torch import Tensor

from bench.ours import compile_fused
from bench.peer_build import ArtefactCache, load_package
from examples.census.evaluate import FOLDER
from smt.kernels import cpu
from smt.kernels.cpu import Precision
from smt.kernels.transform import FeatureTransform, columns_from_arrow
from smt.serving.binary import batch_inputs
from smt.serving.fused import tile_program
from smt.serving.manifest import WEIGHTS_FILE
from smt.serving.registry import Registry, RegistryError
from smt.serving.snapshot import publish_weights, read_weights
from smt.training.metrics import task_metrics
from smt.training.model import abi_hash, serving_function
from smt.training.reading import iter_batches
from smt.training.scenario import Scenario, load_scenario
from smt.training.trainer import train

SCENARIOS = ("income_workers", "income_others", "education_workers", "education_others")
_BATCH_ROWS = 8192


def trained_registry(folder: Path, scenarios: Sequence[str], epochs: int | None) -> Registry:
    """A registry with a snapshot of each scenario, trained (epochs None: as the recipe says) unless it has it."""
    folder.mkdir(parents=True, exist_ok=True)
    registry = Registry(folder)
    for name in scenarios:
        scenario = load_scenario(FOLDER / f"{name}.yaml")
        current = registry.current(name)
        if current and registry.snapshot(name, current).abi_hash == abi_hash(scenario.template):
            continue
        result = train(scenario, folder / "runs" / name, epochs=epochs, progress=False)
        features = json.loads(result.features.read_bytes())
        tasks = [task.name for task in scenario.tasks]
        publish_weights(registry, scenario.template, name, tasks, features, read_weights(result.weights))
    return registry


def quality_changes(registry: Registry, precision: Precision, cache: ArtefactCache) -> list[dict[str, Any]]:
    """One row per scenario and task: NE on the validation split in float64 and by the kernels, and how they differ.

    Raises:
        RegistryError: a snapshot is missing or damaged, or of another template than the example's.
    """
    names = [name for name in registry.scenarios() if (FOLDER / f"{name}.yaml").exists()]
    if not names:
        raise RegistryError(f"{registry.root}: no snapshot of the census example's scenarios; train and publish them")
    rows = []
    for name in names:
        scenario = load_scenario(FOLDER / f"{name}.yaml")
        labels, exact, found = _scores(registry, scenario, precision, cache)
        for t, task in enumerate(scenario.tasks):
            before, after = (task_metrics(labels[:, t], scores[:, t]).ne for scores in (exact, found))
            if before is None or after is None:
                raise RegistryError(f"scenario {name}, task {task.name}: NE is not defined on its validation split")
            rows.append(
                {
                    "shape": f"census {name}",
                    "task": task.name,
                    "rows": len(labels),
                    "backend": f"fused {precision}",
                    "ne_fp64": before,
                    "ne": after,
                    "ne_change": abs(after - before) / before,
                    "max_abs_dp": float(np.abs(found[:, t] - exact[:, t]).max()),
                }
            )
    return rows


def _scores(
    registry: Registry, scenario: Scenario, precision: Precision, cache: ArtefactCache
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Labels [n, tasks], and probabilities [n, heads] in float64 and by the kernels, of the validation split."""
    template = scenario.template
    manifest = registry.snapshot(scenario.name)
    if manifest.abi_hash != abi_hash(template):
        raise RegistryError(
            f"{registry.root}: the snapshot of {scenario.name} has ABI {manifest.abi_hash[:12]}, {template.path} has "
            f"{abi_hash(template)[:12]}: train and publish it again"
        )
    weights = load(registry.read_snapshot_file(manifest, WEIGHTS_FILE))
    slab, table = weights["slab"], weights["table"]
    transform = FeatureTransform(manifest.features)
    program = tile_program(template, precision)
    arena, base = cpu.pack(slab, program).unsqueeze(0), torch.zeros(1, dtype=torch.int64)
    binary = load_package(compile_fused(template, precision, cache))
    reference = serving_function(template).eval()
    labels: list[NDArray[Any]] = []
    exact: list[Tensor] = []
    found: list[Tensor] = []
    for batch in iter_batches(scenario, "valid", batch_size=_BATCH_ROWS):
        columns = columns_from_arrow(batch.columns, scenario.inputs, transform.inputs)
        dense, *bags = batch_inputs(transform.apply(batch.rows, columns))
        with torch.no_grad():
            exact.append(reference(slab.double(), table.double(), dense.double(), *bags))
        found.append(binary(arena, cpu.block_slots(batch.rows), table, base, dense, *bags).double())
        labels.append(batch.labels)
    return np.concatenate(labels).astype(np.float64), torch.cat(exact).numpy(), torch.cat(found).numpy()
