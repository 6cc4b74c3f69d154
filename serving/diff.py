"""What changed between two versions of a scenario: lineage, metrics, features and vocabularies, weights.

Embeddings are compared by what they stand for: a vocabulary's word keeps its meaning when its row moves, a hash bucket
only while size and seed stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from smt.serving.registry import Registry
from smt.serving.snapshot import load_weights

# Rows [missing, unknown] come before those of a feature's values.
_SPECIAL_ROWS = 2


@dataclass(frozen=True)
class Change:
    """How far `count` numbers are apart: mean and largest |b - a|, and how many differ at all."""

    count: int
    changed: int
    mean: float
    largest: float


@dataclass(frozen=True)
class FeatureChange:
    """One categorical or dense feature.

    change: "", "added", "removed", or what else than its vocabulary changed. values_*: of the vocabulary.
    rows_compared: embeddings that stand for the same in both; rows_changed: those in which any number differs.
    mean, largest: of |b - a| over these rows; None where none is comparable.
    """

    name: str
    change: str = ""
    values_added: int = 0
    values_removed: int = 0
    rows_compared: int = 0
    rows_changed: int = 0
    mean: float | None = None
    largest: float | None = None


@dataclass(frozen=True)
class Diff:
    """`b` against `a`. lineage, metrics: key -> the two values, where they differ. slab: why not, if not compared."""

    scenario: str
    a: str
    b: str
    lineage: dict[str, tuple[Any, Any]]
    metrics: dict[str, tuple[Any, Any]]
    features: list[FeatureChange]
    slab: Change | str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare_versions(registry: Registry, scenario: str, a: str, b: str | None = None) -> Diff:
    """Compares two versions (b: default current). Raises RegistryError: one is missing or damaged."""
    first, second = registry.snapshot(scenario, a), registry.snapshot(scenario, b)
    weights_a, weights_b = load_weights(registry, first), load_weights(registry, second)
    slab: Change | str
    if first.abi_hash != second.abi_hash:
        slab = f"not comparable: of the ABIs {first.abi_hash[:12]} and {second.abi_hash[:12]}"
    else:
        slab = _change(weights_a.slab, weights_b.slab)
    return Diff(
        scenario,
        first.version,
        second.version,
        _differing(
            {**first.lineage, "template": first.template.version},
            {**second.lineage, "template": second.template.version},
        ),
        _differing(dict(_figures(first.metrics)), dict(_figures(second.metrics))),
        _features(first.features, second.features, weights_a.table, weights_b.table),
        slab,
    )


def _figures(metrics: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _figures(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _differing(a: dict[str, Any], b: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {key: (a.get(key), b.get(key)) for key in {**a, **b} if a.get(key) != b.get(key)}


def _features(a: Mapping[str, Any], b: Mapping[str, Any], table_a: Tensor, table_b: Tensor) -> list[FeatureChange]:
    before = {feature["name"]: feature for feature in a.get("features", [])}
    after = {feature["name"]: feature for feature in b.get("features", [])}
    found = []
    for name in {**before, **after}:
        if name not in before or name not in after:
            found.append(FeatureChange(name, "removed" if name in before else "added"))
        else:
            found.append(_feature(name, before[name], after[name], table_a, table_b))
    return found


def _feature(name: str, a: Mapping[str, Any], b: Mapping[str, Any], table_a: Tensor, table_b: Tensor) -> FeatureChange:
    changed = [key for key in sorted({*a, *b} - {"first_row", "rows", "encode"}) if a.get(key) != b.get(key)]
    if "encode" not in a or "encode" not in b:
        return FeatureChange(name, ", ".join(changed))
    values_a, values_b = a["encode"].get("values"), b["encode"].get("values")
    added = removed = 0
    if values_a is not None and values_b is not None:
        added, removed = len(set(values_b) - set(values_a)), len(set(values_a) - set(values_b))
        place = {value: row for row, value in enumerate(values_a, _SPECIAL_ROWS)}
        pairs = [(place[value], row) for row, value in enumerate(values_b, _SPECIAL_ROWS) if value in place]
    elif a["encode"] == b["encode"]:
        pairs = [(row, row) for row in range(_SPECIAL_ROWS, a["rows"])]
    else:
        return FeatureChange(name, ", ".join([*changed, "encode"]))
    rows = torch.tensor([(row, row) for row in range(_SPECIAL_ROWS)] + pairs)
    old, new = table_a[a["first_row"] + rows[:, 0]], table_b[b["first_row"] + rows[:, 1]]
    if old.shape != new.shape:
        return FeatureChange(name, ", ".join([*changed, "dim"]), added, removed)
    difference = (new - old).abs()
    return FeatureChange(
        name,
        ", ".join(changed),
        added,
        removed,
        len(rows),
        int((difference != 0).any(dim=1).sum()),
        float(difference.mean(dtype=torch.float64)),
        float(difference.max()),
    )


def _change(a: Tensor, b: Tensor) -> Change:
    difference = (b - a).abs()
    return Change(
        difference.numel(),
        int((difference != 0).sum()),
        float(difference.mean(dtype=torch.float64)),
        float(difference.max()),
    )
