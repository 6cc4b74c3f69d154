"""Deltas in the registry: chains are what was published, bit for bit; what does not fit is refused."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import Tensor

from smt.serving.binary import Weights
from smt.serving.delta import Delta, DeltaError, changed_rows, compact, publish_delta
from smt.serving.delta_rows import not_finite, safetensors_parts
from smt.serving.manifest import DELTA_FILE, WEIGHTS_FILE, SnapshotManifest
from smt.serving.registry import Registry, RegistryError
from smt.serving.snapshot import load_weights as load_manifest_weights
from smt.serving.snapshot import publish_weights
from smt.training.template import Template
from tests.serving.support import FEED

ROWS = FEED.features["table_rows"]


def load_weights(registry: Registry, scenario: str, version: str | None = None) -> Weights:
    return load_manifest_weights(registry, registry.snapshot(scenario, version))


def changed(weights: Weights, random: np.random.Generator, rows: Tensor) -> tuple[Weights, Delta]:
    """Other dense weights, and these rows of the table."""
    table = weights.table.clone()
    table[rows] = torch.from_numpy(random.normal(size=(len(rows), table.shape[1])).astype(np.float32))
    after = Weights(weights.slab + 0.001, table)
    return after, Delta(after.slab, rows, table[rows])


def some_rows(random: np.random.Generator, count: int) -> Tensor:
    return torch.from_numpy(np.sort(random.choice(ROWS, count, replace=False)))


def same(found: Weights, expected: Weights) -> bool:
    return all(
        torch.equal(a.view(torch.int32), b.view(torch.int32))
        for a, b in ((found.slab, expected.slab), (found.table, expected.table))
    )


@pytest.mark.parametrize(("rows", "kind"), [(0, np.uint32), (1, np.uint32), (37, np.uint32), (5, np.int64)])
def test_parts_are_a_safetensors_file(rows: int, kind: type[np.generic]) -> None:
    random = np.random.default_rng(rows)
    tensors = {
        "rows": np.arange(rows).astype(kind),
        "slab": random.normal(size=11).astype(np.float32),
        "values": np.asfortranarray(random.normal(size=(rows, 3)).astype(np.float32)),
    }
    found = safetensors.numpy.load(b"".join(safetensors_parts(tensors)))
    assert found.keys() == tensors.keys()
    for name, expected in tensors.items():
        np.testing.assert_array_equal(found[name], expected, strict=True)


def test_weights_that_are_not_finite_are_counted() -> None:
    weights = torch.full((5, 7), 3e38)  # their sum is not finite, each of them is
    assert not_finite(weights) == 0
    weights[1, 2], weights[3, 3], weights[4, 6] = math.inf, -math.inf, math.nan
    assert not_finite(weights) == 3
    assert not_finite(torch.zeros(0, 7)) == 0


@pytest.mark.parametrize("seed", range(4))
def test_random_chains_are_what_was_published(tmp_path: Path, template: Template, seed: int) -> None:
    """Every version, also after its successors came; a chain that would be too long is published whole."""
    random, registry = np.random.default_rng(seed), Registry(tmp_path)
    weights = FEED.weights(template, seed)
    manifest = FEED.publish(registry, template, seed)
    published = {manifest.version: weights}
    chains = [0]
    for _ in range(7):
        weights, delta = changed(weights, random, some_rows(random, int(random.integers(0, ROWS // 2))))
        manifest = publish_delta(registry, template, "feed", manifest.version, delta, max_chain=3)
        published[manifest.version] = weights
        chains.append(manifest.chain)
    assert chains == [0, 1, 2, 3, 0, 1, 2, 3]
    assert registry.current("feed") == manifest.version
    for version, expected in published.items():
        assert same(load_weights(registry, "feed", version), expected)
        assert registry.verify("feed", version).format == (1 if registry.snapshot("feed", version).chain == 0 else 2)
    assert same(load_weights(registry, "feed"), weights)


def test_a_delta_takes_what_changed(tmp_path: Path, template: Template) -> None:
    registry = Registry(tmp_path)
    base = FEED.publish(registry, template, 1)
    weights, delta = changed(FEED.weights(template, 1), np.random.default_rng(0), torch.tensor([0, 5, ROWS - 1]))
    manifest = publish_delta(
        registry, template, "feed", base.version, delta, metrics={"seen": 1}, lineage={"step": 7, "data": "monday"}
    )
    assert (manifest.format, manifest.base, manifest.chain) == (2, base.version, 1)
    assert manifest.lineage["parent"] == base.version
    assert (manifest.lineage["step"], manifest.metrics) == (7, {"seen": 1})
    assert manifest.features == base.features
    [(name, entry)] = manifest.files.items()
    assert name == DELTA_FILE
    dense, row = weights.slab.numel() * 4, 4 * template.slots.dim + 4  # a row's number takes four bytes
    assert dense + 3 * row < entry.bytes < dense + 3 * row + 400


def test_changed_rows_are_those_that_differ_in_a_bit() -> None:
    before = torch.tensor([[0.0, 1.0], [2.0, 3.0], [float("nan"), 4.0], [5.0, 6.0]])
    after = torch.tensor([[-0.0, 1.0], [2.0, 3.0], [float("nan"), 4.0], [5.0, 7.0], [8.0, 9.0]])
    assert changed_rows(before, after).tolist() == [0, 3, 4]
    assert changed_rows(before, before).tolist() == []
    assert changed_rows(before, before).dtype == torch.int64


def test_so_much_changed_that_it_is_published_whole(tmp_path: Path, template: Template) -> None:
    registry = Registry(tmp_path)
    base = FEED.publish(registry, template, 1)
    random = np.random.default_rng(0)
    weights, delta = changed(FEED.weights(template, 1), random, some_rows(random, ROWS // 2 + 1))
    manifest = publish_delta(registry, template, "feed", base.version, delta)
    assert (manifest.format, list(manifest.files)) == (1, [WEIGHTS_FILE])
    assert same(load_weights(registry, "feed"), weights)


def grown(features: dict[str, Any]) -> dict[str, Any]:
    """The last vocabulary has one more value."""
    more = copy.deepcopy(features)
    more["features"][-1]["encode"]["values"].append("tablet")
    more["features"][-1]["rows"] += 1
    more["table_rows"] += 1
    return more


def test_a_vocabulary_may_grow_at_the_end_of_the_table(tmp_path: Path, template: Template) -> None:
    registry = Registry(tmp_path)
    base = FEED.publish(registry, template, 1)
    before = FEED.weights(template, 1)
    after = torch.cat([before.table, torch.ones(1, 4)])
    delta = Delta(before.slab, torch.tensor([ROWS]), after[ROWS:])
    manifest = publish_delta(registry, template, "feed", base.version, delta, features=grown(FEED.features))
    assert manifest.features["table_rows"] == ROWS + 1
    assert same(load_weights(registry, "feed"), Weights(before.slab, after))
    nothing = Delta(before.slab, torch.empty(0, dtype=torch.int64), torch.empty(0, 4))
    whole = publish_weights(registry, template, "feed", FEED.tasks, FEED.features, before)
    with pytest.raises(DeltaError, match=f"rows: 0 of them from {ROWS} on.*expected 1, each new row"):
        publish_delta(registry, template, "feed", whole.version, nothing, features=grown(FEED.features))


def _features(change: Any) -> dict[str, Any]:
    features = copy.deepcopy(FEED.features)
    change(features["features"])
    return features


OTHER_FEATURES = {
    "another order of values": _features(lambda f: f[3]["encode"]["values"].reverse()),
    "another seed of a hash": _features(lambda f: f[4]["encode"].update(seed=9)),
    "another normalisation": _features(lambda f: f[0]["steps"][1].update(mean=1.0)),
    "another value in the last vocabulary": _features(lambda f: f[-1]["encode"].update(values=["laptop"])),
}


@pytest.mark.parametrize("name", OTHER_FEATURES)
def test_features_that_change_the_rows_meaning_are_refused(tmp_path: Path, template: Template, name: str) -> None:
    registry = Registry(tmp_path)
    base = FEED.publish(registry, template, 1)
    _, delta = changed(FEED.weights(template, 1), np.random.default_rng(0), torch.tensor([1]))
    with pytest.raises(DeltaError, match=f"features: other ones than those of {base.version}.*publish a whole"):
        publish_delta(registry, template, "feed", base.version, delta, features=OTHER_FEATURES[name])
    assert registry.versions("feed") == [base.version]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": torch.tensor([3, 3])}, "rows: expected strictly increasing rows in 0.."),
        ({"rows": torch.tensor([3, 1])}, "rows: expected strictly increasing"),
        ({"rows": torch.tensor([-1, 1])}, "rows: expected strictly increasing"),
        ({"rows": torch.tensor([1, ROWS])}, f"rows: expected strictly increasing rows in 0..{ROWS - 1}"),
        ({"rows": torch.tensor([1, 2], dtype=torch.int32)}, "rows: found torch.int32"),
        ({"values": torch.ones(1, 4)}, r"values: found torch.float32 \[1, 4\]; expected torch.float32 \[2, 4\]"),
        ({"values": torch.ones(2, 5)}, r"values: found torch.float32 \[2, 5\]"),
        ({"values": torch.ones(2, 4, dtype=torch.float64)}, "values: found torch.float64"),
        ({"values": torch.full((2, 4), float("inf"))}, "values: 8 of 8 weights are NaN or Inf"),
        ({"slab": torch.ones(7)}, r"slab: found torch.float32 \[7\]"),
    ],
)
def test_a_delta_that_does_not_fit_is_refused(
    tmp_path: Path, template: Template, change: dict[str, Tensor], message: str
) -> None:
    registry = Registry(tmp_path)
    base = FEED.publish(registry, template, 1)
    good = {"slab": FEED.weights(template, 1).slab, "rows": torch.tensor([1, 2]), "values": torch.ones(2, 4)}
    with pytest.raises(DeltaError, match=message):
        publish_delta(registry, template, "feed", base.version, Delta(**{**good, **change}))
    assert registry.versions("feed") == [base.version]


def two(registry: Registry, template: Template) -> tuple[SnapshotManifest, SnapshotManifest, Weights]:
    """A whole version and a delta on it, and the delta's weights."""
    base = FEED.publish(registry, template, 1)
    weights, delta = changed(FEED.weights(template, 1), np.random.default_rng(0), torch.tensor([1, 7]))
    return base, publish_delta(registry, template, "feed", base.version, delta), weights


def test_what_was_made_current_meanwhile_stays(tmp_path: Path, template: Template) -> None:
    registry = Registry(tmp_path)
    base, first, weights = two(registry, template)
    _, delta = changed(weights, np.random.default_rng(1), torch.tensor([2]))
    with pytest.raises(RegistryError, match=f"names {first.version}; expected {base.version}.*nothing was published"):
        publish_delta(registry, template, "feed", base.version, delta)
    assert registry.versions("feed") == [base.version, first.version]
    assert registry.current("feed") == first.version


@pytest.mark.parametrize(("which", "name"), [(0, WEIGHTS_FILE), (1, DELTA_FILE), (0, "manifest.json")])
def test_damage_anywhere_in_a_chain_is_noticed(tmp_path: Path, template: Template, which: int, name: str) -> None:
    registry = Registry(tmp_path)
    manifests = two(registry, template)[:2]
    path = tmp_path / "scenarios/feed/versions" / manifests[which].version / name
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    for read in (load_weights, Registry.verify, compact):
        with pytest.raises(RegistryError, match=name):
            read(registry, "feed")
    path.unlink()
    with pytest.raises(RegistryError, match=name):
        load_weights(registry, "feed")
    assert registry.current("feed") == manifests[1].version


def test_compaction_makes_one_whole_version(tmp_path: Path, template: Template) -> None:
    registry = Registry(tmp_path)
    _, delta, weights = two(registry, template)
    whole = compact(registry, "feed")
    assert whole is not None
    assert (whole.format, whole.base, list(whole.files)) == (1, None, [WEIGHTS_FILE])
    assert (whole.lineage["parent"], whole.lineage["compacted"]) == (delta.version, delta.version)
    assert registry.current("feed") == whole.version
    assert same(load_weights(registry, "feed"), weights)
    assert compact(registry, "feed") is None
    assert registry.current("feed") == whole.version
    # A delta builds on it as on any other.
    weights, more = changed(weights, np.random.default_rng(2), torch.tensor([4]))
    assert publish_delta(registry, template, "feed", whole.version, more).chain == 1
    assert same(load_weights(registry, "feed"), weights)


def test_compaction_gives_way_to_a_publication(
    tmp_path: Path, template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that comes while it reads the chain."""
    registry = Registry(tmp_path)
    _, first, weights = two(registry, template)
    _, delta = changed(weights, np.random.default_rng(1), torch.tensor([2]))

    def read_while_published(*arguments: Any) -> Weights:
        publish_delta(registry, template, "feed", first.version, delta)
        return load_manifest_weights(*arguments)

    monkeypatch.setattr("smt.serving.delta.load_weights", read_while_published)
    with pytest.raises(RegistryError, match="it was changed meanwhile"):
        compact(registry, "feed")
    assert registry.snapshot("feed").base == first.version
