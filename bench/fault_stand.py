"""A registry that is spoilt while a server serves from it, and a client that goes on scoring and compares every answer.

    with Stand(folder, LargeTable.publish(folder, rows=20_000)) as stand:
        refused = stand.spoil(stand.whole, damage)      # the server's reason, or a FaultError

Not a benchmark by itself: what bench.faults is made of.
"""

import contextlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from bench.delta import SCENARIO, LargeTable
from bench.servers import SmtServer
from smt.kernels.transform import FeatureTransform, columns_from_arrow
from smt.serving.binary import BinaryRunner, Weights
from smt.serving.client import Client, PredictError
from smt.serving.registry import Registry, RegistryError
from smt.serving.snapshot import load_weights, publish_weights
from smt.training.model import abi_hash

WAIT_SECONDS = 60.0
_LOOK_SECONDS = 0.002
_ROWS = 8  # scores of six rows and more are the same to the bit in the server and without one
Damage = Callable[[dict[str, bytes]], dict[str, bytes]]


class FaultError(RuntimeError):
    """What was to be noticed was not, or serving was disturbed; the message says what."""


class Scorer:
    """Scores the same rows, one request after the other, on a thread of its own, from `with` to its end.

    Attributes:
        answered, failures: requests that were answered, and the errors of those that failed.
        seen: version -> the different answers that named it.
    """

    def __init__(self, target: str, rows: pa.Table) -> None:
        self.answered, self.failures = 0, list[str]()
        self.seen: dict[str, set[bytes]] = {}
        self._target, self._rows = target, rows
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        with Client(self._target, timeout=WAIT_SECONDS) as client:
            while not self._ended.is_set():
                try:
                    answer = client.predict(SCENARIO, self._rows)
                except PredictError as error:
                    self.failures.append(str(error))
                    continue
                self.answered += 1
                self.seen.setdefault(answer.version, set()).add(answer["click"].tobytes())


class Stand:
    """Three versions of one scenario, of which the first is served: `stable`, `whole`, and `delta`, built on the first.

    A context manager: server and scorer run inside. At the end the registry is as it was, but for what was published.
    """

    def __init__(self, folder: Path, table: LargeTable) -> None:
        self.table, self.root = table, folder
        self.registry = Registry(folder)
        self.scenario_folder = folder / "scenarios" / SCENARIO
        self.stable = table.current.version
        self.delta = table.add(table.change(0.01)).version
        self.whole = self.publish(1)
        self.registry.set_current(SCENARIO, self.stable)
        random = np.random.default_rng(1)
        columns: dict[str, Any] = {
            f"number_{slot}": random.normal(size=_ROWS) for slot in range(table.template.slots.dense)
        }
        self.rows = pa.table({**columns, "id": random.integers(0, 1 << 40, _ROWS)})

    def publish(self, seed: int, registry: Registry | None = None) -> str:
        """A whole version with weights of its own, current at once."""
        manifest = self.registry.snapshot(SCENARIO, self.stable)
        weights = load_weights(self.registry, manifest)
        changed = Weights(weights.slab * (1 + seed / 100), weights.table)
        at = registry or self.registry
        return publish_weights(at, self.table.template, SCENARIO, ["click"], manifest.features, changed).version

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            # Nothing is kept warm, so that each version is read again each time it is asked for.
            options: dict[str, Any] = {"poll-ms": 2, "keep-warm": "false", "workers": 1, "log-level": "error"}
            self.server = stack.enter_context(SmtServer(self.root, **options))
            self.client = stack.enter_context(Client(self.server.target, timeout=WAIT_SECONDS))
            self.scorer = stack.enter_context(Scorer(self.server.target, self.rows))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def status(self) -> Any:
        """What the server says of the scenario."""
        (status,) = self.client.list_scenarios()
        return status

    def wait_for(self, condition: Callable[[Any], bool], what: str) -> Any:
        """The server's status once it is so. Raises FaultError."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition(status := self.status()):
            if time.monotonic() > deadline:
                raise FaultError(f"waited {WAIT_SECONDS:.0f} s for {what}; found: {str(status)[:500]}")
            time.sleep(_LOOK_SECONDS)
        return status

    def point(self, content: str) -> None:
        """Moves `current` by hand, as nobody should: without a look at what it names."""
        self.registry.storage.replace_text(f"scenarios/{SCENARIO}/current", content)

    def settle(self) -> None:
        """Back to the stable version, and until the server has seen that."""
        self.point(self.stable + "\n")
        self.wait_for(
            lambda status: (status.version, status.refused_reason) == (self.stable, ""), "the stable version to be seen"
        )

    def refusal(self, content: str) -> str:
        """Points `current` there, and returns why the server refuses that. Raises FaultError if it does not."""
        self.point(content)
        found = self.wait_for(
            lambda status: status.refused_reason or status.version != self.stable, f"{content[:80]!r} to be refused"
        )
        if found.version != self.stable:
            raise FaultError(f"current is {content[:80]!r}, and version {found.version} is served")
        return str(found.refused_reason)

    def files(self, version: str) -> dict[str, bytes]:
        folder = self.scenario_folder / "versions" / version
        return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}

    def spoil(self, version: str, damage: Damage) -> str:
        """Damages a version that is not served, makes it current, and puts all back; returns the server's reason.

        Raises FaultError: it is served all the same, or reads well for our own tools.
        """
        good = self.files(version)
        self._write(version, damage(good))
        try:
            reason = self.refusal(version + "\n")
            with contextlib.suppress(RegistryError):
                self.registry.verify(SCENARIO, version)
                raise FaultError(f"version {version} was damaged and verifies; the server says: {reason}")
        finally:
            self.settle()
            self._write(version, good)
        return reason

    def _write(self, version: str, files: dict[str, bytes]) -> None:
        folder = self.scenario_folder / "versions" / version
        for name in self.files(version).keys() - files:
            (folder / name).unlink()
        for name, content in files.items():
            path = folder / name
            if not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)

    def check_answers(self) -> list[str]:
        """Requests that failed, and versions that answered otherwise than their weights do; at best none."""
        return [*self.scorer.failures, *wrong_answers(self.registry, self.table, self.rows, self.scorer.seen)]


def wrong_answers(registry: Registry, table: LargeTable, rows: pa.Table, seen: dict[str, set[bytes]]) -> list[str]:
    """Of the answers of each version, those that its weights do not give without a server, to the bit."""
    runner = BinaryRunner.load(registry, table.template.name, abi_hash(table.template))
    wrong = []
    for version, answers in seen.items():
        manifest = registry.snapshot(SCENARIO, version)
        transform = FeatureTransform(manifest.features)
        names = [entry.name for entry in transform.inputs]
        batch = transform.apply(rows.num_rows, columns_from_arrow(rows, names, transform.inputs))
        expected = runner.score(load_weights(registry, manifest), batch)[:, 0].tobytes()
        if answers != {expected}:
            wrong.append(f"version {version} gave {len(answers)} different answers, {len(answers - {expected})} wrong")
    return wrong


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    path.mkdir(parents=True)
    yield path
    shutil.rmtree(path)


def rewritten(files: dict[str, bytes], **fields: Any) -> dict[str, bytes]:
    """With other fields in the manifest, and the checksum that fits them."""
    import hashlib

    manifest = json.dumps({**json.loads(files["manifest.json"]), **fields}).encode()
    return {**files, "manifest.json": manifest, "manifest.sha256": hashlib.sha256(manifest).hexdigest().encode()}
