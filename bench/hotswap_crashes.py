"""Kill -9 of the publisher and of the server, at any moment: line 4 of bench.hotswap.

    found = kill_both(Path("/tmp/registry"), kills=200, seed=1)

A publisher makes whole versions and deltas, promotes, rolls back, compacts chains and collects garbage; a server
follows. In each round both meet SIGKILL, each at a random moment. Then all of the registry has to verify, nothing
that was published may be lost, and a server that is started on it, with nothing repaired, has to serve what is current:
with the scores, to the bit, that its files make in-process. It and the next publisher go on from there.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.crashes import Crashes, go_back, inspect, processes, read_report, wait_for
from bench.delta import SCENARIO, TEMPLATE, LargeTable, compiled, features_of
from bench.result import Result
from bench.servers import SmtServer
from bench.shapes import TABLE_STD
from smt.kernels.transform import FeatureTransform, RawColumn
from smt.serving.binary import BinaryRunner, Weights
from smt.serving.client import Client
from smt.serving.delta import Delta, compact, publish_delta
from smt.serving.gc import Policy, collect
from smt.serving.lifecycle import promote
from smt.serving.registry import Registry
from smt.serving.snapshot import load_weights, publish_weights
from smt.training.template import Template, load_template

TABLE_ROWS = 20_000
FULL, QUICK = 200, 12
_KINDS = {"whole": 3, "delta": 5, "promote": 2, "rollback": 1, "compact": 2, "gc": 2}
_MOST_OPERATIONS = 6  # that a publisher ends before it is killed in the next
_SHARE = 0.1  # of the rows, in a delta
_KEEP = 3
_SERVER_SECONDS = 0.3  # within which the server is killed too, in rounds in which it comes second
_ROWS = 40


@dataclass
class Killed(Crashes):
    """What became of a registry and its servers. in_what: what the publisher was doing when it was killed.
    unserved: what a server that was started on it did otherwise than it has to."""

    in_what: Counter[str] = field(default_factory=Counter)
    servers: int = 0
    unserved: list[str] = field(default_factory=list)


class Checker:
    """Asks a server, and computes in-process what it has to answer."""

    def __init__(self, registry: Registry, template: Template) -> None:
        self._registry = registry
        manifest = registry.snapshot(SCENARIO)
        self._runner = BinaryRunner.load(registry, template.name, manifest.abi_hash)
        rng = np.random.default_rng(5)
        self._columns: dict[str, Any] = {
            f"number_{slot}": rng.standard_normal(_ROWS).astype(np.float32) for slot in range(template.slots.dense)
        }
        self._columns["id"] = rng.integers(0, 1 << 40, _ROWS)
        raw = [RawColumn(name, values) for name, values in self._columns.items()]
        self._batch = FeatureTransform(manifest.features).apply(_ROWS, raw)

    def fault(self, server: SmtServer) -> str | None:
        """What is wrong with its answer; None: it serves what is current, and as its files say."""
        current = self._registry.verify(SCENARIO)
        with Client(server.target, timeout=30) as client:
            prediction = client.predict(SCENARIO, self._columns)
        if prediction.version != current.version:
            return f"serves {prediction.version}; current is {current.version}"
        expected = self._runner.score(load_weights(self._registry, current), self._batch)[:, 0]
        same = prediction["click"].tobytes() == expected.tobytes()
        return None if same else f"{current.version}: other scores than its weights make"


def kill_both(root: Path, kills: int, seed: int) -> Killed:
    """So many rounds. Raises RuntimeError, ServerError: a round could not be made."""
    generator, found = random.Random(seed), Killed()
    template = load_template(TEMPLATE)
    known = {LargeTable.publish(root, TABLE_ROWS, template).current.version}
    registry = Registry(root)
    checker = Checker(registry, template)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report"
        server = SmtServer(root, workers=1).__enter__()
        try:
            for _ in range(kills):
                report.write_bytes(b"")
                writer = processes("bench.hotswap").Process(
                    target=_write, args=(str(root), str(report), generator.random())
                )
                writer.start()
                ended = generator.randrange(_MOST_OPERATIONS + 1)
                server_first = generator.random() < 0.5
                if server_first:
                    _kill_server(server, report, generator.randrange(ended + 1), generator)
                _wait(report, ended, generator)
                writer.kill()
                writer.join()
                if writer.exitcode != -signal.SIGKILL:
                    raise RuntimeError(f"the publisher ended by itself, with status {writer.exitcode}")
                found.kills += 1
                if not server_first:
                    time.sleep(generator.uniform(0, _SERVER_SECONDS))
                    server.kill()
                found.servers += 1
                server.__exit__()
                found.in_what[report.read_text().splitlines()[-1].removeprefix("begun ")] += 1
                inspect(registry, SCENARIO, found, known, read_report(report, found, known))
                server = SmtServer(root, workers=1).__enter__()
                if (fault := checker.fault(server)) is not None:
                    found.unserved.append(fault)
        finally:
            server.__exit__()
    return found


def _wait(report: Path, operations: int, generator: random.Random) -> None:
    """Until so many operations have ended, the next has begun, and some time of it is over."""
    began = time.monotonic()
    wait_for(report, 2 + 2 * operations)
    time.sleep(generator.uniform(0, (time.monotonic() - began) / (operations + 1)))


def _kill_server(server: SmtServer, report: Path, operations: int, generator: random.Random) -> None:
    _wait(report, operations, generator)
    server.kill()


def _write(root: str, report: str, seed: float) -> None:
    """Changes the registry until it is killed; reports each operation when it begins and when it has ended."""
    torch.set_num_threads(1)
    generator, registry, template = random.Random(seed), Registry(root), load_template(TEMPLATE)
    lines = os.open(report, os.O_WRONLY | os.O_APPEND)
    os.write(lines, b"started\n")
    while True:
        kind = generator.choices(list(_KINDS), list(_KINDS.values()))[0]
        os.write(lines, f"begun {kind}\n".encode())
        ended = _operation(kind, registry, template, generator)
        os.write(lines, f"{ended}\n".encode())


def _operation(kind: str, registry: Registry, template: Template, generator: random.Random) -> str:
    """Does it, and returns the line that reports its end."""
    random_values = np.random.default_rng(generator.randrange(1 << 32))
    current = registry.snapshot(SCENARIO)

    def values(rows: int) -> torch.Tensor:
        drawn = random_values.normal(0, TABLE_STD, (rows, template.slots.dim))
        return torch.from_numpy(drawn.astype(np.float32))

    if kind == "whole":
        slab = load_weights(registry, current).slab * 1.01
        weights = Weights(slab, values(TABLE_ROWS))
        features = features_of(template, TABLE_ROWS)
        made = publish_weights(registry, template, SCENARIO, ["click"], features, weights)
        return f"published {made.version}"
    if kind == "delta":
        rows = np.sort(random_values.choice(TABLE_ROWS, int(TABLE_ROWS * _SHARE), replace=False))
        slab = load_weights(registry, current).slab * 0.99
        delta = Delta(slab, torch.from_numpy(rows), values(len(rows)))
        return f"published {publish_delta(registry, template, SCENARIO, current.version, delta).version}"
    if kind == "compact":
        compacted = compact(registry, SCENARIO)
        return f"published {compacted.version}" if compacted else "was whole"
    if kind == "promote":
        promote(registry, SCENARIO, generator.choice(registry.versions(SCENARIO)))
    elif kind == "rollback":
        go_back(registry, SCENARIO)
    else:
        return f"collected {' '.join(collect(registry, SCENARIO, Policy(_KEEP, timedelta()), apply=True).removed)}"
    return kind


def measure(result: Result, quick: bool, cache: Path) -> None:
    """Adds a row and targets. Raises what kill_both raises."""
    with tempfile.TemporaryDirectory(prefix="bench-hotswap-") as folder:
        compiled(cache, Path(folder))
        found = kill_both(Path(folder), QUICK if quick else FULL, seed=1)
    result.results.append(
        {
            "part": "crashes",
            "shape": "kill -9",
            "rows": TABLE_ROWS,
            "threads": 1,
            "backend": "smt",
            "publishers_killed": found.kills,
            "servers_killed": found.servers,
            "in_what": dict(found.in_what),
            "published": found.published,
            "collected": found.collected,
            "faults": found.faults,
            "lost": found.lost,
            "unserved": found.unserved,
        }
    )
    add = result.target
    if not quick:
        add("crashes.publisher", "publishers killed at a random moment", found.kills, ">=", 200)
        add("crashes.server", "servers killed at a random moment", found.servers, ">=", 200)
    add("crashes.faults", "files and pointers that did not verify afterwards", len(found.faults), "==", 0)
    add("crashes.lost", f"versions lost, of {found.published:,} published", len(found.lost), "==", 0)
    what = "restarted servers that did not serve, to the bit, what is current"
    add("crashes.unserved", what, len(found.unserved), "==", 0)
