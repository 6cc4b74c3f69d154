"""smt registry: what shows, compares, promotes, rolls back, labels, pins and removes."""

from __future__ import annotations

import copy
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from smt.serving.binary import Weights
from smt.serving.commands.lifecycle import duration
from smt.serving.commands.output import CommandError
from smt.serving.diff import compare_versions
from smt.serving.registry import Registry, RegistryError
from smt.serving.snapshot import publish_weights
from smt.training.template import Template
from tests.serving.support import CITIES, FEED
from tests.serving.test_cli import invoke, reported


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def test_from_canary_to_current_and_back(registry: Registry, template: Template) -> None:
    at = ("--registry", registry.root)
    a, b, c = (FEED.publish(registry, template, seed).version for seed in (1, 2, 3))
    assert reported("registry", "promote", "feed", a, "--reason", "start over", *at) == {
        "registry": registry.root, "scenario": "feed", "version": a, "before": c,
    }  # fmt: skip
    assert reported("registry", "canary", "feed", b, "--percent", 12.5, *at)["now"]["percent"] == 12.5
    assert f"{b} is the canary, 12.5 %" in invoke("registry", "canary", "feed", *at).stdout
    assert reported("registry", "shadow", "feed", c, *at)["now"]["version"] == c
    assert {row["version"]: row["labels"] for row in reported("registry", "ls", *at)["snapshots"]} == {
        a: ["current"], b: ["canary"], c: ["shadow"],
    }  # fmt: skip
    assert reported("registry", "promote", "feed", "canary", *at)["version"] == b
    assert reported("registry", "canary", "feed", *at)["now"] is None
    assert f"no shadow (before: {c})" in invoke("registry", "shadow", "feed", "--off", *at).stdout
    back = reported("registry", "rollback", "feed", "--reason", "calibration", *at)
    assert (back["version"], back["before"]) == (a, b)
    shown = reported("registry", "show", "feed", *at)
    assert (shown["version"], shown["labels"], shown["rollback_to"]) == (a, ["current"], c)
    assert shown["lineage"]["template_version"] == "1.0.0"
    assert (shown["events"][-1]["what"], shown["events"][-1]["reason"]) == ("rolled-back", "calibration")
    text = invoke("registry", "show", "feed", "--events", 2, *at).stdout
    assert "calibration" in text
    assert "start over" not in text
    assert reported("registry", "verify", *at)["faults"] == []


def test_gc_says_first_and_removes_when_told(registry: Registry, template: Template) -> None:
    at = ("--registry", registry.root)
    versions = [FEED.publish(registry, template, seed).version for seed in range(5)]
    reported("registry", "pin", "feed", versions[0], "--reason", "audit", *at)
    rule = ("--keep", 1, "--older-than", "0s")
    told = invoke("registry", "gc", *rule, *at)
    assert f"feed {versions[2]}\nfeed {versions[1]}\n" in told.stdout
    assert "nothing was removed" in told.stderr
    assert registry.versions("feed") == versions
    [done] = reported("registry", "gc", *rule, "--apply", *at)["scenarios"]
    assert done["removed"] == versions[2:0:-1]
    assert done["kept"][versions[0]] == "pinned"
    assert registry.versions("feed") == [versions[0], *versions[3:]]
    reported("registry", "unpin", "feed", versions[0], *at)
    (Path(registry.root) / "scenarios/feed/current").write_text("zz")
    left_alone = invoke("registry", "gc", *rule, "--apply", *at)
    assert left_alone.exit_code == 1
    assert "feed: left alone: " in left_alone.stderr
    assert registry.versions("feed") == [versions[0], *versions[3:]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["promote", "feed", "canary"], "has no canary"),
        (["rollback", "feed"], "has no version to go back to"),
        (["canary", "feed", "{a}", "--percent", "0"], "0 percent; expected more than 0"),
        (["canary", "feed", "--percent", "5"], "needs the version"),
        (["canary", "feed", "{a}", "--off"], "goes without a version"),
        (["pin", "feed", "20200101-000000-000-00000000"], "no such file"),
        (["unpin", "feed", "{a}"], "the version is not pinned"),
        (["gc", "--older-than", "soon"], "expected a number and one of s, m, h, d, w"),
        (["show", "nosuch"], "no snapshot of scenario 'nosuch'; there are: feed"),
        (["diff", "feed", "20200101-000000-000-00000000"], "no such file"),
    ],
)
def test_what_cannot_be_is_said(registry: Registry, template: Template, arguments: list[str], message: str) -> None:
    a = FEED.publish(registry, template, 1).version
    refused = invoke("registry", *(part.format(a=a) for part in arguments), "--registry", registry.root)
    assert refused.exit_code in (1, 2)
    assert message in " ".join(refused.stderr.split())
    assert registry.current("feed") == a


def test_durations() -> None:
    assert duration("90m") == timedelta(minutes=90)
    assert duration("1.5h") == timedelta(minutes=90)
    for wrong in ("", "7", "d", "-1d", "7y"):
        with pytest.raises(CommandError, match="as in 7d"):
            duration(wrong)


def changed(weights: Weights, rows: list[int], by: float) -> Weights:
    table = weights.table.clone()
    table[rows, 0] += by
    return Weights(weights.slab + by, table)


def publish(registry: Registry, template: Template, features: dict[str, Any], weights: Weights) -> str:
    return publish_weights(registry, template, "feed", FEED.tasks, features, weights).version


def test_diff_counts_what_changed(registry: Registry, template: Template) -> None:
    weights = FEED.weights(template, 1)
    a = publish(registry, template, FEED.features, weights)
    user = next(feature for feature in FEED.features["features"] if feature["name"] == "user")
    b = publish(registry, template, FEED.features, changed(weights, [user["first_row"] + i for i in (2, 5, 9)], 0.5))
    found = compare_versions(registry, "feed", a)
    assert (found.a, found.b) == (a, b)
    assert not isinstance(found.slab, str)
    assert found.slab.changed == found.slab.count
    assert found.slab.mean == pytest.approx(0.5, rel=1e-6)
    by_name = {feature.name: feature for feature in found.features}
    assert (by_name["user"].rows_compared, by_name["user"].rows_changed) == (user["rows"], 3)
    assert by_name["user"].largest == pytest.approx(0.5)
    assert by_name["user"].mean == pytest.approx(0.5 * 3 / (user["rows"] * 4))
    assert all(feature.rows_changed == 0 for name, feature in by_name.items() if name != "user")
    assert set(found.lineage) == {"parent", "created"}
    shown = invoke("registry", "diff", "feed", a, "--registry", registry.root).stdout
    assert "dense weights: mean |b - a| 0.5" in shown


def test_diff_follows_words_to_their_new_rows(registry: Registry, template: Template) -> None:
    """The same embeddings for the same words, in another order, with one word gone and one new."""
    weights = FEED.weights(template, 1)
    a = publish(registry, template, FEED.features, weights)
    features = copy.deepcopy(FEED.features)
    city = next(feature for feature in features["features"] if feature["name"] == "city")
    cities = ["Oslo", *reversed(CITIES[1:])]
    city["encode"]["values"] = cities
    first = city["first_row"] + 2
    table = weights.table.clone()
    for row, word in enumerate(cities):
        table[first + row] = weights.table[first + CITIES.index(word)] if word in CITIES else torch.ones(4)
    publish(registry, template, features, Weights(weights.slab, table))
    found = {feature.name: feature for feature in compare_versions(registry, "feed", a).features}["city"]
    assert (found.values_added, found.values_removed) == (1, 1)
    assert (found.rows_compared, found.rows_changed) == (2 + len(CITIES) - 1, 0)
    assert found.largest == 0


def test_diff_says_what_it_cannot_compare(registry: Registry, template: Template) -> None:
    weights = FEED.weights(template, 1)
    a = publish(registry, template, FEED.features, weights)
    features = copy.deepcopy(FEED.features)
    user = next(feature for feature in features["features"] if feature["name"] == "user")
    user["encode"]["seed"] += 1
    features["features"][0]["name"] = "years"
    publish(registry, template, features, weights)
    found = {feature.name: feature for feature in compare_versions(registry, "feed", a).features}
    assert (found["user"].change, found["user"].rows_compared, found["user"].mean) == ("encode", 0, None)
    assert (found["age"].change, found["years"].change) == ("removed", "added")
    weights_file = Path(registry.root) / "scenarios/feed/versions" / a / "weights.safetensors"
    weights_file.write_bytes(b"bad")
    with pytest.raises(RegistryError, match=r"weights\.safetensors: 3 bytes"):
        compare_versions(registry, "feed", a)
