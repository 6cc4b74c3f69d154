"""Deltas in a running server: scores are exactly those of the version named, whatever happens meanwhile."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bench.delta import LargeTable, measure
from smt.serving.binary import BinaryRunner, Weights
from smt.serving.client import Client
from smt.serving.delta import Delta, compact, publish_delta
from smt.serving.registry import Registry
from smt.serving.snapshot import publish_weights
from smt.training.template import Template
from tests.serving.support import FEED, SANITIZED, RunningServer, wait_for

ROWS = FEED.rows(30)
TABLE_ROWS = FEED.features["table_rows"]
Scores = dict[str, NDArray[np.float32]]


class Chain:
    """A whole version of feed and deltas on it; what each version must score, by the binary without a server."""

    def __init__(self, registry: Registry, template: Template, runner: BinaryRunner) -> None:
        self.registry, self.template, self.runner = registry, template, runner
        self.weights = FEED.weights(template, 1)
        self.version = FEED.publish(registry, template, 1).version
        self.expected: dict[str, Scores] = {self.version: self._scores()}
        self._random = np.random.default_rng(3)

    def delta(self) -> str:
        """Publishes a delta of a third of the rows and returns its version, which scores otherwise than all before."""
        rows = torch.from_numpy(np.sort(self._random.choice(TABLE_ROWS, TABLE_ROWS // 3, replace=False)))
        table = self.weights.table.clone()
        table[rows] = torch.from_numpy(self._random.normal(size=(len(rows), table.shape[1])).astype(np.float32))
        self.weights = Weights(self.weights.slab + 0.01, table)
        delta = Delta(self.weights.slab, rows, table[rows])
        manifest = publish_delta(self.registry, self.template, "feed", self.version, delta)
        self.version = manifest.version
        scores = self._scores()
        assert all(np.abs(scores["click"] - other["click"]).max() > 1e-3 for other in self.expected.values())
        self.expected[self.version] = scores
        return self.version

    def check(self, prediction: Any) -> None:
        """Bit for bit."""
        for task in FEED.tasks:
            np.testing.assert_array_equal(prediction[task], self.expected[prediction.version][task])

    def _scores(self) -> Scores:
        scores = self.runner.score(self.weights, FEED.batch(ROWS))
        return {task: scores[:, head] for head, task in enumerate(FEED.tasks)}


@pytest.fixture
def chain(registry_folder: Path, template: Template, runner: BinaryRunner) -> Chain:
    return Chain(Registry(registry_folder), template, runner)


def serve(chain: Chain, folder: Path) -> RunningServer:
    root = chain.registry.local_root
    assert root is not None
    return RunningServer(root, folder)


def wait_for_version(client: Client, version: str) -> None:
    wait_for(lambda: client.list_scenarios()[0].version == version, f"{version} to be served")


def test_scores_are_those_of_the_version_named(chain: Chain, template: Template, tmp_path: Path) -> None:
    """Over the base's table, from the files after a restart, compacted, and published whole: the same bits."""
    with serve(chain, tmp_path) as server, Client(server.target, timeout=60) as client:
        for _ in range(4):
            wait_for_version(client, chain.delta())
            chain.check(client.predict("feed", ROWS))
    with serve(chain, tmp_path) as server, Client(server.target, timeout=60) as client:
        prediction = client.predict("feed", ROWS)
        assert prediction.version == chain.version
        chain.check(prediction)
        wait_for_version(client, chain.delta())  # on a table that was put together from the files
        chain.check(client.predict("feed", ROWS))
        expected = chain.expected[chain.version]
        whole = compact(chain.registry, "feed")
        assert whole is not None
        again = publish_weights(chain.registry, template, "feed", FEED.tasks, FEED.features, chain.weights)
        for version in (whole.version, again.version):
            chain.registry.set_current("feed", version)
            wait_for_version(client, version)
            np.testing.assert_array_equal(client.predict("feed", ROWS)["click"], expected["click"])
        assert not server.events("snapshot_refused")


def test_deltas_flow_under_load(chain: Chain, tmp_path: Path) -> None:
    """No failed request, and every answer is exactly of the version it names."""
    answers: list[Any] = []
    stop = threading.Event()

    def load() -> None:
        with Client(server.target, timeout=60) as client:
            while not stop.is_set():
                answers.append(client.predict("feed", ROWS))

    with serve(chain, tmp_path) as server, ThreadPoolExecutor(3) as pool:
        loads = [pool.submit(load) for _ in range(3)]
        try:
            with Client(server.target, timeout=60) as client:
                for _ in range(12):  # so that a chain ends, and a whole version comes in between
                    wait_for_version(client, chain.delta())
                    seen = len(answers)
                    wait_for(lambda seen=seen: len(answers) > seen + 10, "the load to go on")  # type: ignore[misc]
        finally:
            stop.set()
        for future in loads:
            future.result(60)
        assert not server.events("snapshot_refused")
    assert {answer.version for answer in answers} == set(chain.expected)
    for answer in answers:
        chain.check(answer)


def test_killed_while_deltas_come_it_serves_a_complete_version(chain: Chain, tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    for _ in range(6):
        with serve(chain, tmp_path) as server:
            with Client(server.target, timeout=60) as client:
                prediction = client.predict("feed", ROWS)
                assert prediction.version == chain.version  # the newest that was published
                chain.check(prediction)
            chain.delta()
            chain.delta()
            time.sleep(float(random.uniform(0, 0.04)))  # somewhere in the load; no outcome depends on where
            server.kill()
    assert chain.registry.verify("feed").version == chain.version


def test_a_damaged_delta_is_refused_and_the_next_taken(chain: Chain, template: Template, tmp_path: Path) -> None:
    folder = chain.registry.local_root
    assert folder is not None
    versions = folder / "scenarios/feed/versions"
    with serve(chain, tmp_path) as server, Client(server.target, timeout=60) as client:
        good = chain.delta()
        wait_for_version(client, good)
        # Made elsewhere and damaged before the server can see it.
        shutil.copytree(folder, tmp_path / "aside")
        elsewhere = Registry(tmp_path / "aside")
        delta = Delta(chain.weights.slab, torch.tensor([3]), torch.ones(1, 4))
        bad = publish_delta(elsewhere, template, "feed", good, delta).version
        content = bytearray((tmp_path / "aside/scenarios/feed/versions" / bad / "delta.safetensors").read_bytes())
        content[-9] ^= 4
        shutil.copytree(tmp_path / "aside/scenarios/feed/versions" / bad, versions / bad)
        (versions / bad / "delta.safetensors").write_bytes(content)
        point_to(folder, bad)
        wait_for(lambda: server.events("snapshot_refused"), "the refusal")
        [event] = server.events("snapshot_refused")
        assert (event["version"], event["cause"]) == (bad, "checksum")
        assert f"{bad}/delta.safetensors: xxh3 checksum is" in event["reason"]
        prediction = client.predict("feed", ROWS)
        assert prediction.version == good
        chain.check(prediction)
        point_to(folder, good)
        wait_for(lambda: not client.list_scenarios()[0].refused_reason, "the good one to be named again")


def test_a_base_that_vanished_refuses_what_is_built_on_it(chain: Chain, template: Template, tmp_path: Path) -> None:
    folder = chain.registry.local_root
    assert folder is not None
    base = chain.version
    first = chain.delta()
    with serve(chain, tmp_path) as server, Client(server.target, timeout=60) as client:
        wait_for_version(client, first)
        shutil.move(folder / "scenarios/feed/versions" / base, tmp_path / "moved")
        second = chain.delta()
        wait_for(lambda: server.events("snapshot_refused"), "the refusal")
        [event] = server.events("snapshot_refused")
        assert event["version"] == second
        assert f"{base}/manifest.json: no such file (version {first} is built on it)" in event["reason"]
        chain.check(client.predict("feed", ROWS))
        shutil.move(tmp_path / "moved", folder / "scenarios/feed/versions" / base)
        wait_for_version(client, second)  # without anything being done by hand
        chain.check(client.predict("feed", ROWS))


def test_a_delta_costs_what_changed(registry_folder: Path, template: Template, tmp_path: Path) -> None:
    """On disk and in memory: of a table of 48 MB there is no second copy."""
    table = LargeTable.publish(registry_folder, 3_000_000, template)
    with RunningServer(registry_folder, tmp_path) as server, Client(server.target, timeout=60) as client:
        before = peak_bytes(server)
        measured = [measure(table, client, share=0.01) for _ in range(3)]
        added = peak_bytes(server) - before
        # The version before is warm, and reads the same table.
        assert server.metric("smt_resident_bytes") < 1.1 * table.whole
        # Three deltas of 1 %, a bitmap of the rows each, and a few huge pages.
        if not SANITIZED:
            assert added < table.whole / 3, f"{added / 1e6:.1f} MB more for deltas on {table.whole / 1e6:.1f} MB"
        assert not server.events("snapshot_refused")
    assert [m.rows for m in measured] == [30_000] * 3
    # A row of dim 4 is 16 bytes, its number 4; then there are the dense weights and the manifest.
    assert all(0.01 * 20 / 16 < m.share < 0.01 * 20 / 16 + 0.001 for m in measured)
    assert table.registry.verify("large").chain == 3


def peak_bytes(server: RunningServer) -> int:
    """The largest resident size so far."""
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def point_to(root: Path, version: str) -> None:
    """Replaces `current` of feed as a publisher would that verifies nothing."""
    temporary = root / "scenarios/feed/.current-of-test"
    temporary.write_text(version + "\n")
    temporary.replace(root / "scenarios/feed/current")
