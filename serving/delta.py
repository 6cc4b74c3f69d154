"""Deltas: versions that hold what changed since another version, in proportion to what changed.

    rows = changed_rows(before, after)
    publish_delta(registry, template, "feed", base, Delta(slab, rows, after[rows]))
    load_weights(registry, "feed")                # of any version, whole or a delta

A delta's manifest has format 2 and names its `base`; its delta.safetensors holds `slab` [elements] float32, the dense
weights whole; `rows` [n], strictly increasing, uint32 (int64 for a table of 2^32 rows or more); `values` [n, dim]
float32, those rows of the table. Of a table of dim 16, a delta of 1 % of the rows has 1.0625 % of its bytes, and the
slab. Deltas build on deltas, at most MAX_CHAIN on one whole version: the next one is published whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor

from smt.serving.binary import Weights
from smt.serving.events import user_name
from smt.serving.manifest import DELTA_FILE, WEIGHTS_FILE, SnapshotManifest
from smt.serving.registry import Registry, RegistryError
from smt.training.model import abi_hash, slab_layout
from smt.training.template import Template

# A server without the base reads all of them, and a crash-safe restart must not take long.
MAX_CHAIN = 8
# A delta of so large a part of the table is published whole: it saves little, and costs every reader a chain.
MAX_SHARE = 0.5


class DeltaError(RegistryError):
    """A delta that does not fit its base; the message says what does not."""


@dataclass(frozen=True)
class Delta:
    """What changed: slab [elements] float32, rows [n] int64 strictly increasing, values [n, dim] float32."""

    slab: Tensor
    rows: Tensor
    values: Tensor


def changed_rows(before: Tensor, after: Tensor) -> Tensor:
    """The rows of `after` that differ from `before` in any bit, and those that it has more: int64 [n].

    before [R, dim] float32, after [R' >= R, dim] float32.
    """
    kept = len(before)
    # As integers: a NaN is unlike itself, and the two zeros are two.
    differ = (before.view(torch.int32) != after[:kept].view(torch.int32)).any(dim=1)
    return torch.cat([differ.nonzero().squeeze(1), torch.arange(kept, len(after))])


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
    table_rows = _table_rows(spec)
    if below.chain >= max_chain or len(delta.rows) > MAX_SHARE * table_rows:
        weights = apply_delta(load_weights(registry, scenario, base), delta, table_rows)
        return registry.publish_snapshot(draft, {WEIGHTS_FILE: weights_bytes(weights)}, replaces=base)
    draft |= {"format": 2, "base": base, "chain": below.chain + 1}
    rows = delta.rows.numpy().astype(np.uint32 if table_rows <= 1 << 32 else np.int64)
    tensors = {"slab": delta.slab.contiguous().numpy(), "rows": rows, "values": delta.values.contiguous().numpy()}
    return registry.publish_snapshot(draft, {DELTA_FILE: save(tensors)}, replaces=base)


def load_weights(registry: Registry, scenario: str, version: str | None = None) -> Weights:
    """The weights of a version (default: current), every file's checksum verified along its chain.

    Raises RegistryError, naming the file, for what is damaged or does not fit.
    """
    *deltas, whole = registry.chain(scenario, version)
    found = _tensors(registry, whole, WEIGHTS_FILE, {"slab", "table"})
    weights = Weights(found["slab"], found["table"])
    for manifest in reversed(deltas):
        found = _tensors(registry, manifest, DELTA_FILE, {"slab", "rows", "values"})
        delta = Delta(found["slab"], found["rows"].to(torch.int64), found["values"])
        try:
            _check_rows(delta, len(weights.table), _table_rows(manifest.features))
        except DeltaError as error:
            raise DeltaError(f"{registry.root}: {scenario} {manifest.version}: {error}") from error
        weights = apply_delta(weights, delta, _table_rows(manifest.features))
    return weights


def apply_delta(weights: Weights, delta: Delta, table_rows: int) -> Weights:
    """The weights that a delta makes of others, whose memory it may take over. `table_rows`: of the result."""
    table = weights.table
    if len(table) < table_rows:
        table = torch.cat([table, torch.empty(table_rows - len(table), table.shape[1])])
    table[delta.rows] = delta.values
    return Weights(delta.slab, table)


def compact(registry: Registry, scenario: str) -> SnapshotManifest | None:
    """Publishes the current version, if it is a delta, as a whole one with the same weights; None if it is whole.

    Raises RegistryError: its chain is damaged, or something else was made current meanwhile (nothing changed then).
    """
    current = registry.snapshot(scenario)
    if current.base is None:
        return None
    content = weights_bytes(load_weights(registry, scenario, current.version))
    lineage = {**current.lineage, "created_by": user_name(), "compacted": current.version}
    draft = {**_draft(current), "metrics": current.metrics, "lineage": lineage}
    return registry.publish_snapshot(draft, {WEIGHTS_FILE: content}, replaces=current.version, reason="compaction")


def weights_bytes(weights: Weights) -> bytes:
    """Content of a weights.safetensors."""
    return bytes(save({"slab": weights.slab.contiguous().numpy(), "table": weights.table.contiguous().numpy()}))


def _draft(manifest: SnapshotManifest) -> dict[str, Any]:
    return manifest.model_dump(mode="json", include={"scenario", "template", "abi_hash", "dim", "tasks", "features"})


def _table_rows(features: Mapping[str, Any]) -> int:
    return max(int(features["table_rows"]), 2)  # the binary's smallest table


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
        wrong = int((~torch.isfinite(tensor)).sum())
        if wrong:
            raise DeltaError(f"{name}: {wrong} of {tensor.numel()} weights are NaN or Inf; expected finite weights")
    _check_rows(delta, _table_rows(below.features), _table_rows(features))


def _check_rows(delta: Delta, rows_below: int, table_rows: int) -> None:
    rows = delta.rows
    if rows.dtype != torch.int64 or rows.dim() != 1:
        raise DeltaError(f"rows: found {rows.dtype} {list(rows.shape)}; expected torch.int64 [n]")
    if len(rows) and not (int(rows[0]) >= 0 and bool((rows.diff() > 0).all()) and int(rows[-1]) < table_rows):
        raise DeltaError(f"rows: expected strictly increasing rows in 0..{table_rows - 1}")
    new = int((rows >= rows_below).sum())
    if new != table_rows - rows_below:
        raise DeltaError(
            f"rows: {new} of them from {rows_below} on, where the table of the base ends; expected "
            f"{table_rows - rows_below}, each new row"
        )


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


def _tensors(registry: Registry, manifest: SnapshotManifest, name: str, names: set[str]) -> dict[str, Tensor]:
    where = f"{registry.root}: {manifest.scenario} {manifest.version}: {name}"
    try:
        found = load(registry.read_snapshot_file(manifest, name))
    except SafetensorError as error:
        raise DeltaError(f"{where}: {error}") from error
    if set(found) != names:
        raise DeltaError(f"{where}: found the tensors {sorted(found)}; expected {sorted(names)}")
    return {key: torch.from_numpy(value) for key, value in found.items()}
