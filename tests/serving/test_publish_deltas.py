"""Publishing while training, end to end: the registry holds what training has; the gate keeps bad weights out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from smt.serving.binary import Weights
from smt.serving.cli import app
from smt.serving.publish_deltas import DeltaPublisher
from smt.serving.registry import Registry, RegistryError
from smt.serving.snapshot import load_weights, publish_weights, read_weights
from smt.training.features import FeatureSpec
from smt.training.publication import Every
from smt.training.run import RunPaths
from smt.training.scenario import Scenario, load_scenario
from smt.training.trainer import train
from tests.serving.data import write_shop

Shop = tuple[Path, Path]


def sparse_shop(folder: Path) -> Scenario:
    """A table of which a batch looks up a small part."""
    path = write_shop(folder)
    path.write_text(path.read_text().replace("{hash: 60}", "{hash: 5000}"))
    return load_scenario(path)


def same(found: Weights, expected: Weights) -> bool:
    return torch.equal(found.slab, expected.slab) and torch.equal(found.table, expected.table)


def test_what_training_has_is_published(registry_folder: Path, tmp_path: Path) -> None:
    registry, scenario = Registry(registry_folder), sparse_shop(tmp_path)
    publisher = DeltaPublisher(registry, scenario, max_ne_rise=float("inf"))
    run = tmp_path / "run"
    train(scenario, run, epochs=2, progress=False, publisher=publisher, publish_every=Every(steps=1))
    manifests = [registry.snapshot("shop", version) for version in registry.versions("shop")]
    assert registry.current("shop") == manifests[-1].version
    assert [manifest.chain for manifest in manifests[:10]] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 0]
    assert same(load_weights(registry, manifests[-1]), read_weights(RunPaths(run).weights))
    steps = [manifest.lineage["step"] for manifest in manifests]
    assert steps == list(range(steps[0], steps[-1] + 1))
    seen = manifests[5].metrics
    assert seen["sample_ne_before"]["bought"] == manifests[4].metrics["sample"]["bought"]["ne"]
    delta, whole = manifests[5].files["delta.safetensors"].bytes, manifests[0].files["weights.safetensors"].bytes
    assert delta < whole / 2


@pytest.fixture
def published(registry_folder: Path, shop: Shop) -> tuple[Registry, DeltaPublisher, Weights]:
    """A publisher that has published the trained weights."""
    registry = Registry(registry_folder)
    publisher = DeltaPublisher(registry, load_scenario(shop[0]))
    publisher.start(FeatureSpec.load(RunPaths(shop[1]).features))
    weights = read_weights(RunPaths(shop[1]).weights)
    outcome = publisher.whole(weights.slab, weights.table, 5)
    assert outcome.published, outcome.message
    assert "whole" in outcome.message
    return registry, publisher, weights


def test_the_gate_refuses_and_the_next_good_weights_pass(
    published: tuple[Registry, DeltaPublisher, Weights],
) -> None:
    registry, publisher, weights = published
    rows = torch.tensor([3, 5])
    [first] = registry.versions("shop")
    worse = publisher.changed(weights.slab * 3, rows, weights.table[rows], 6)
    assert not worse.published
    assert "task 'bought': NE " in worse.message
    assert f"in version {first}: at most" in worse.message
    for slab, values in (
        (weights.slab.clone().index_fill_(0, torch.tensor([2]), float("nan")), weights.table[rows]),
        (weights.slab, torch.full((2, weights.table.shape[1]), float("inf"))),
    ):
        spoilt = publisher.changed(slab, rows, values, 7)
        assert not spoilt.published
        assert "NaN or Inf" in spoilt.message
    assert registry.versions("shop") == [first]

    good = publisher.changed(weights.slab, rows, weights.table[rows] * 1.001, 8)
    assert good.published, good.message
    assert "a delta of 2 rows" in good.message
    expected = weights.table.clone()
    expected[rows] *= 1.001
    assert same(load_weights(registry, registry.snapshot("shop")), Weights(weights.slab, expected))


def test_a_run_goes_on_where_another_has_published(
    registry_folder: Path, shop: Shop, published: tuple[Registry, DeltaPublisher, Weights]
) -> None:
    """Its first publication is what differs, since the features are the same."""
    registry, _, weights = published
    first = registry.current("shop")
    later = DeltaPublisher(registry, load_scenario(shop[0]))
    later.start(FeatureSpec.load(RunPaths(shop[1]).features))
    table = weights.table.clone()
    table[9] *= 1.001  # a value of the second feature; row 7 is zeros
    outcome = later.whole(weights.slab, table, 9)
    assert outcome.published, outcome.message
    assert "a delta of 1 rows" in outcome.message
    assert registry.snapshot("shop").base == first
    assert same(load_weights(registry, registry.snapshot("shop")), Weights(weights.slab, table))


def test_what_others_made_current_is_not_overridden(
    shop: Shop, published: tuple[Registry, DeltaPublisher, Weights]
) -> None:
    registry, publisher, weights = published
    scenario = load_scenario(shop[0])
    features = registry.snapshot("shop").features
    other = publish_weights(registry, scenario.template, "shop", ["bought", "returned"], features, weights)
    outcome = publisher.changed(weights.slab, torch.tensor([3]), weights.table[3:4], 6)
    assert not outcome.published
    assert f"names {other.version}; expected" in outcome.message
    assert registry.current("shop") == other.version


def test_without_a_binary_training_does_not_begin(tmp_path: Path) -> None:
    scenario = sparse_shop(tmp_path)
    publisher = DeltaPublisher(Registry(tmp_path / "empty"), scenario)
    with pytest.raises(RegistryError, match="`smt compile TEMPLATE"):
        train(scenario, tmp_path / "run", epochs=1, progress=False, publisher=publisher, publish_every=Every(steps=1))


def test_the_commands(registry_folder: Path, tmp_path: Path) -> None:
    registry, path = Registry(registry_folder), sparse_shop(tmp_path).path
    command = ["train", str(path), "--run-dir", str(tmp_path / "run"), "--epochs", "2", "--json"]
    command += ["--registry", str(registry_folder), "--publish-delta-every"]
    done = CliRunner().invoke(app, [*command, "5"])
    assert done.exit_code == 0, done.output
    assert registry.snapshot("shop").chain > 0

    before = registry.current("shop")
    done = CliRunner().invoke(app, ["registry", "compact", "shop", "--registry", str(registry_folder)])
    assert done.exit_code == 0, done.output
    whole = registry.snapshot("shop")
    assert (whole.chain, whole.lineage["compacted"]) == (0, before)
    assert f"shop: {whole.version} is current, with the weights of {before}" in done.output.replace("\n", " ")
    done = CliRunner().invoke(app, ["registry", "compact", "shop", "--registry", str(registry_folder)])
    assert f"{whole.version} is whole already" in done.output

    done = CliRunner().invoke(app, [*command, "soon"])
    assert done.exit_code == 2
    assert "--publish-delta-every: found 'soon'; expected steps as in 500, or a time as in 30s" in done.output
