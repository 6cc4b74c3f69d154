"""Deltas: versions that hold what changed since another version, in proportion to what changed.

    rows = changed_rows(before, after)
    publish_delta(registry, template, "feed", base, Delta(slab, rows, after[rows]))
    load_weights(registry, registry.snapshot("feed"))      # of any version, whole or a delta

A delta's manifest has format 2 and names its `base`. Of a table of dim 16, a delta of 1 % of the rows takes 1.0625 % of
the table's bytes, and the dense weights, which it holds whole. Deltas build on deltas, at most MAX_CHAIN on one whole
version: the next one is published whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from smt.serving.delta_rows import (
    Delta,
    DeltaError,
    apply_delta,
    changed_rows,
    check_rows,
    delta_content,
    not_finite,
    table_rows,
    weights_content,
)
from smt.serving.events import user_name
from smt.serving.manifest import DELTA_FILE, WEIGHTS_FILE, SnapshotManifest
from smt.serving.registry import Registry
from smt.serving.snapshot import load_weights
from smt.training.model import abi_hash, slab_layout
from smt.training.template import Template

__all__ = ["MAX_CHAIN", "Delta", "DeltaError", "changed_rows", "compact", "publish_delta"]

# A server without the base reads all of them, and a crash-safe restart must not take long.
MAX_CHAIN = 8
# A delta of so large a part of the table is published whole: it saves little, and costs every reader a chain.
MAX_SHARE = 0.5


def publish_delta(
    registry: Registry,
    template: Template,
    scenario: str,
    base: str,
    delta: Delta,
    *,
    features: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    lineage: Mapping[str, Any] | None = None,
    max_chain: int = MAX_CHAIN,
) -> SnapshotManifest:
    """Publishes what changed since version `base` and makes it current; everything, where a chain would be too long.

    Args:
        base: a published version; must be current, so that what others made current meanwhile is not overridden.
        features: the FeatureSpec, if a vocabulary has grown at the end of the table since.
        max_chain: more deltas than these on one whole version are not published: the version is whole then.

    Raises:
        DeltaError: something does not fit the base; RegistryError: `base` is not there or not current, or the registry
        cannot be written.
    """
    below = registry.snapshot(scenario, base)
    spec = below.features if features is None else dict(features)
    _check(template, below, spec, delta)
    draft = {
        **_draft(below),
        "features": spec,
        "metrics": dict(metrics or {}),
        "lineage": {"created_by": user_name(), "template_sha256": template.sha256, **(lineage or {})},
    }
    rows = table_rows(spec)
    if below.chain >= max_chain or len(delta.rows) > MAX_SHARE * rows:
        weights = apply_delta(load_weights(registry, below), delta, rows)
        return registry.publish_snapshot(draft, {WEIGHTS_FILE: weights_content(weights)}, replaces=base)
    draft |= {"format": 2, "base": base, "chain": below.chain + 1}
    return registry.publish_snapshot(draft, {DELTA_FILE: delta_content(delta, rows)}, replaces=base)


def compact(registry: Registry, scenario: str) -> SnapshotManifest | None:
    """Publishes the current version, if it is a delta, as a whole one with the same weights; None if it is whole.

    Raises RegistryError: its chain is damaged, or something else was made current meanwhile (nothing changed then).
    """
    current = registry.snapshot(scenario)
    if current.base is None:
        return None
    content = weights_content(load_weights(registry, current))
    lineage = {**current.lineage, "created_by": user_name(), "compacted": current.version}
    draft = {**_draft(current), "metrics": current.metrics, "lineage": lineage}
    return registry.publish_snapshot(draft, {WEIGHTS_FILE: content}, replaces=current.version, reason="compaction")


def _draft(manifest: SnapshotManifest) -> dict[str, Any]:
    return manifest.model_dump(mode="json", include={"scenario", "template", "abi_hash", "dim", "tasks", "features"})


def _check(template: Template, below: SnapshotManifest, features: Mapping[str, Any], delta: Delta) -> None:
    if abi_hash(template) != below.abi_hash:
        raise DeltaError(
            f"template {template.name}: ABI {abi_hash(template)[:12]}; version {below.version} of {below.scenario!r} "
            f"has {below.abi_hash[:12]}: publish a whole snapshot"
        )
    if not _keeps_rows(below.features, features):
        raise DeltaError(
            f"features: other ones than those of {below.version}, which would change the meaning of its table's rows; "
            "expected the same, or a longer vocabulary of the last one: publish a whole snapshot"
        )
    shapes = {"slab": (slab_layout(template).elements,), "values": (len(delta.rows), template.slots.dim)}
    for name, shape in shapes.items():
        tensor: Tensor = getattr(delta, name)
        if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
            raise DeltaError(f"{name}: found {tensor.dtype} {list(tensor.shape)}; expected torch.float32 {list(shape)}")
        wrong = not_finite(tensor)
        if wrong:
            raise DeltaError(f"{name}: {wrong} of {tensor.numel()} weights are NaN or Inf; expected finite weights")
    check_rows(delta, table_rows(below.features), table_rows(features))


def _keeps_rows(base: Mapping[str, Any], features: Mapping[str, Any]) -> bool:
    """Whether each row of the base's table means the same under `features`."""
    if base == features:
        return True

    def last(spec: Mapping[str, Any]) -> dict[str, Any]:
        return dict([{}, *(entry for entry in spec["features"] if entry["kind"] == "categorical")][-1])

    old, new = last(base), last(features)
    values, more = ((spec.get("encode") or {}).get("values") or [] for spec in (old, new))
    if not old or more[: len(values)] != values:
        return False
    shrunk = {**new, "rows": old["rows"], "encode": {**new["encode"], "values": values}}
    entries = [shrunk if entry == new else entry for entry in features["features"]]
    return {**features, "features": entries, "table_rows": base["table_rows"]} == dict(base)
