"""The life of versions in a running server: states in order, warm rollback, the limit of memory, SIGKILL."""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from smt.serving.binary import BinaryRunner
from smt.serving.cli import app
from smt.serving.client import Client
from smt.serving.compile import BinaryInfo
from smt.serving.control import ControlClient
from smt.serving.registry import Registry
from smt.serving.storage import LocalStage
from smt.training.template import Template
from tests.serving.support import FEED, SEARCH, RunningServer, copy_binaries, wait_for

Compiled = tuple[Path, BinaryInfo, list[str]]
ROWS = FEED.rows(20)
# The way of a version that is taken, replaced, kept for a rollback, and replaced again.
WHOLE_LIFE = ["discovered", "verifying", "loading", "warm", "serving", "warm", "draining", "unloaded"]


class Observed:
    """A server with `feed` in one version, and its clients."""

    def __init__(self, compiled: Compiled, template: Template, folder: Path, **options: Any) -> None:
        self.root = copy_binaries(compiled[0], folder / "registry")
        self.template = template
        self.first = self.publish(1)
        self.running = RunningServer(self.root, folder, control_port=0, **options)

    def publish(self, seed: int) -> str:
        return FEED.publish(Registry(self.root), self.template, seed).version

    def __enter__(self) -> Observed:
        self.running.__enter__()
        self.control = ControlClient(self.running.control_target, timeout=60)
        self.client = Client(self.running.target, timeout=60)
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()
        self.control.close()
        self.running.__exit__(*error)

    def served(self) -> str:
        return self.client.predict("feed", ROWS).version

    def wait_served(self, version: str) -> None:
        wait_for(lambda: self.served() == version, f"{version} to be served")

    def versions(self, scenario: str = "feed") -> dict[str, tuple[str, str]]:
        """State and label of each version that the server knows of."""
        found = {each.scenario: each for each in self.client.list_scenarios()}[scenario]
        return {version.version: (version.state, version.label) for version in found.versions}

    def life(self, version: str) -> list[str]:
        """The states that the log shows the version in, in order."""
        return [line["state"] for line in self.running.events("version_state") if line["version"] == version]


@pytest.fixture
def observed(compiled: Compiled, template: Template, tmp_path: Path) -> Iterator[Observed]:
    with Observed(compiled, template, tmp_path) as made:
        yield made
        assert made.running.process.poll() is None, "the server died under a test"


def test_every_version_goes_through_its_states_in_order(observed: Observed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a publisher that announces nothing: a load ahead begins again when its folder is renamed in the middle."""
    monkeypatch.setattr(LocalStage, "announced", lambda *_: contextlib.nullcontext())
    versions = [observed.first]
    for seed in (2, 3):
        versions.append(observed.publish(seed))
        observed.wait_served(versions[-1])
    lives = [WHOLE_LIFE, WHOLE_LIFE[:6], WHOLE_LIFE[:5]]
    wait_for(lambda: [observed.life(version) for version in versions] == lives, "the first version to end")
    assert observed.versions() == {
        versions[0]: ("unloaded", ""),
        versions[1]: ("warm", ""),
        versions[2]: ("serving", "stable"),
    }
    for state, count in {"discovered": 3, "serving": 3, "warm": 5, "draining": 1, "unloaded": 1, "refused": 0}.items():
        assert observed.running.metric("smt_version_states_total", scenario="feed", state=state) == count, state
    one = observed.running.metric("smt_weight_bytes", scenario="feed")
    assert observed.running.metric("smt_resident_bytes") == 2 * one


def test_a_rollback_needs_neither_a_load_nor_the_registry(
    observed: Observed, runner: BinaryRunner, template: Template
) -> None:
    second = observed.publish(2)
    observed.wait_served(second)
    (observed.root / "scenarios/feed/versions" / observed.first / "weights.safetensors").unlink()
    loads = observed.running.metric("smt_snapshot_loads_total", scenario="feed")
    done = observed.control.rollback("feed")
    assert done.status.version == observed.first
    prediction = observed.client.predict("feed", ROWS)
    assert prediction.version == observed.first
    expected = FEED.scored(runner, template, 1, ROWS)
    np.testing.assert_array_equal(prediction["click"], expected["click"])
    assert observed.running.metric("smt_snapshot_loads_total", scenario="feed") == loads
    assert len(observed.running.events("snapshot_swapped")) == 1
    wait_for(lambda: observed.versions()[second][0] == "unloaded", "what was rolled back to be freed")


def test_status_shows_the_versions(observed: Observed) -> None:
    second = observed.publish(2)
    observed.wait_served(second)
    result = CliRunner().invoke(app, ["status", "--target", observed.running.target, "--json"])
    assert result.exit_code == 0, result.output
    (feed,) = json.loads(result.stdout)["scenarios"]
    shown = [(version["version"], version["state"], version["label"]) for version in feed["versions"]]
    assert shown == [(observed.first, "warm", ""), (second, "serving", "stable")]
    assert all(version["weight_bytes"] == feed["weight_bytes"] > 0 for version in feed["versions"])
    assert feed["versions"][0]["since"] <= feed["versions"][1]["since"]
    text = CliRunner().invoke(app, ["status", "--target", observed.running.target])
    assert text.exit_code == 0, text.output
    assert "serving" in text.stdout
    assert "warm" in text.stdout


def test_what_does_not_fit_is_refused_and_what_is_only_warm_gives_way(
    compiled: Compiled, template: Template, tmp_path: Path
) -> None:
    with Observed(compiled, template, tmp_path / "probe") as probe:
        one = int(probe.running.metric("smt_weight_bytes", scenario="feed"))
    slab = 4 * compiled[1].manifest.slab_elements
    # Room for two versions of feed and what loading one needs for a moment.
    with Observed(compiled, template, tmp_path, memory_limit=2 * one + slab) as tight:
        second = tight.publish(2)
        tight.wait_served(second)
        assert tight.versions()[tight.first][0] == "warm"
        third = tight.publish(3)
        tight.wait_served(third)
        assert tight.running.metric("smt_resident_bytes") <= 2 * one + slab
        assert tight.versions()[tight.first][0] == "unloaded"
    with Observed(compiled, template, tmp_path / "full", memory_limit=one + slab) as full:
        SEARCH.publish(Registry(full.root), template, seed=5)

        def refused() -> bool:
            return any(s.scenario == "search" and s.refused_reason for s in full.client.list_scenarios())

        wait_for(refused, "search to be refused")
        (search,) = (s for s in full.client.list_scenarios() if s.scenario == "search")
        assert "of memory for weights" in search.refused_reason
        assert "--memory-limit" in search.refused_reason
        assert full.running.metric("smt_snapshot_refused_total", scenario="search", reason="memory") >= 1
        assert full.served() == full.first


def test_a_pointer_to_nowhere_is_refused_and_serving_goes_on(observed: Observed) -> None:
    nowhere = "20300101-000000-000-00000000"
    (observed.root / "scenarios/feed/current").write_text(nowhere + "\n")
    wait_for(lambda: observed.versions().get(nowhere, ("", ""))[0] == "refused", "the pointer to be looked at")
    assert observed.served() == observed.first
    assert observed.life(nowhere) == ["discovered", "verifying", "refused"]
    Registry(observed.root).set_current("feed", observed.first)
    observed.wait_served(observed.first)


def test_killed_while_it_swaps_it_starts_with_a_whole_version(
    compiled: Compiled, template: Template, runner: BinaryRunner, tmp_path: Path
) -> None:
    """SIGKILL at random moments of a stream of swaps; each restart serves a whole version, to the bit."""
    root = copy_binaries(compiled[0], tmp_path / "registry")
    registry = Registry(root)
    seeds = {FEED.publish(registry, template, seed).version: seed for seed in (1, 2, 3)}
    expected = {version: FEED.scored(runner, template, seed, ROWS) for version, seed in seeds.items()}
    moments = random.Random(20260203)
    ended = threading.Event()

    def swap() -> None:
        while not ended.is_set():
            for version in seeds:
                registry.set_current("feed", version)
                time.sleep(0.005)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for _ in range(8):
            with RunningServer(root, tmp_path, poll_ms=1) as running, Client(running.target, timeout=60) as client:
                prediction = client.predict("feed", ROWS)
                for task, scores in expected[prediction.version].items():
                    np.testing.assert_array_equal(prediction[task], scores)
                assert not running.events("snapshot_refused")
                time.sleep(moments.uniform(0, 0.05))
                running.kill()
    finally:
        ended.set()
        swapping.join()


def test_a_server_that_serves_loads_at_the_pace_that_it_is_given(
    compiled: Compiled, template: Template, tmp_path: Path
) -> None:
    with Observed(compiled, template, tmp_path) as usual:
        manifest = Registry(usual.root).snapshot("feed")
    size = sum(file.bytes for file in manifest.files.values())
    (tmp_path / "slow").mkdir()
    with Observed(compiled, template, tmp_path / "slow", load_bytes_per_second=2 * size) as slow:
        started = time.monotonic()
        slow.wait_served(slow.publish(2))
        assert time.monotonic() - started >= 0.5
