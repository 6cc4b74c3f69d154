"""Snapshots: weights, feature transformations and tasks of one scenario, as files of the registry.

weights.safetensors holds two tensors: `slab` [elements] and `table` [table_rows, dim], both float32. Which template
they fit is said by the ABI hash in the manifest; how raw values become rows of the table, by its `features`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from smt.kernels.transform import FeatureTransform, SpecError
from smt.serving.binary import Weights
from smt.serving.delta_rows import not_finite, read_chain, weights_content
from smt.serving.events import user_name
from smt.serving.manifest import WEIGHTS_FILE, SnapshotManifest
from smt.serving.registry import Registry, RegistryError
from smt.training.model import abi_hash, slab_layout
from smt.training.template import Template


class SnapshotError(RegistryError):
    """Weights, features and tasks that do not make a snapshot of the template; the message says what does not fit."""


def check_weights(template: Template, weights: Weights, transform: FeatureTransform, tasks: Sequence[str]) -> None:
    """Raises SnapshotError unless weights, features and tasks fit the template and every weight is finite."""
    _check_fit(template, weights, transform, tasks)
    _check_finite(weights)


def _check_fit(template: Template, weights: Weights, transform: FeatureTransform, tasks: Sequence[str]) -> None:
    slots = template.slots
    expected = {
        "slab": (slab_layout(template).elements,),
        "table": (max(transform.table_rows, 2), slots.dim),
    }
    for name, shape in expected.items():
        tensor: torch.Tensor = getattr(weights, name)
        if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
            raise SnapshotError(
                f"{name}: found {tensor.dtype} {list(tensor.shape)}; template {template.name} and the features need "
                f"torch.float32 {list(shape)}"
            )
    for what, found, allowed in (
        ("dense_slots", transform.dense_slots, slots.dense),
        ("categorical_slots", transform.categorical_slots, slots.categorical),
    ):
        if found != allowed:
            raise SnapshotError(f"features.{what}: found {found}; template {template.name} has {allowed}")
    if not 1 <= len(tasks) <= template.tasks or len(set(tasks)) != len(tasks):
        raise SnapshotError(
            f"tasks: found {list(tasks)}; template {template.name} has heads for 1 to {template.tasks} different tasks"
        )


def _check_finite(weights: Weights) -> None:
    for name, tensor in (("slab", weights.slab), ("table", weights.table)):
        wrong = not_finite(tensor)
        if wrong:
            raise SnapshotError(f"{name}: {wrong} of {tensor.numel()} weights are NaN or Inf; expected finite weights")


def publish_weights(
    registry: Registry,
    template: Template,
    scenario: str,
    tasks: Sequence[str],
    features: Mapping[str, Any],
    weights: Weights,
    *,
    metrics: Mapping[str, Any] | None = None,
    lineage: Mapping[str, Any] | None = None,
    **how: Any,
) -> SnapshotManifest:
    """Checks and publishes a snapshot. Task i is computed by head i of the template.

    This does not look at quality: `publish_run` does, and then calls this.

    Args:
        features: the fitted FeatureSpec.
        metrics, lineage: recorded in the manifest.
        how: under which label, why, and against what advice: see Registry.publish_snapshot.

    Raises:
        SnapshotError: something does not fit; RegistryError: the registry cannot be written.
    """
    try:
        transform = FeatureTransform(features)
    except SpecError as error:
        raise SnapshotError(f"features: {error}") from error
    _check_fit(template, weights, transform, tasks)
    draft = {
        "scenario": scenario,
        "template": {"name": template.name, "version": template.version},
        "abi_hash": abi_hash(template),
        "dim": template.slots.dim,
        "tasks": [{"name": task, "head": head} for head, task in enumerate(tasks)],
        "features": dict(features),
        "metrics": dict(metrics or {}),
        "lineage": {
            "created_by": user_name(),
            "template_version": template.version,
            "template_sha256": template.sha256,
            **(lineage or {}),
        },
    }
    # All of the weights are looked at while the disk writes them: it takes longest.
    with ThreadPoolExecutor(1) as beside:
        finite = beside.submit(_check_finite, weights)
        return registry.publish_snapshot(draft, {WEIGHTS_FILE: weights_content(weights)}, approve=finite.result, **how)


def read_weights(path: Path) -> Weights:
    """The weights in a file (of a run directory). Raises SnapshotError, naming the file."""
    try:
        return _weights(load_file(path), str(path))
    except (SafetensorError, OSError) as error:
        raise SnapshotError(f"{path}: {error}") from error


def load_weights(registry: Registry, manifest: SnapshotManifest) -> Weights:
    """The weights of a published version, whole or a delta; the checksum of every file that they are in is verified.

    Raises RegistryError: a file is missing or damaged, or cannot be read.
    """
    return read_chain(registry, registry.chain(manifest.scenario, manifest.version))


def _weights(tensors: dict[str, torch.Tensor], where: str) -> Weights:
    if set(tensors) != {"slab", "table"}:
        raise SnapshotError(f"{where}: found the tensors {sorted(tensors)}; expected slab and table")
    return Weights(tensors["slab"], tensors["table"])
