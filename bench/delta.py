"""Deltas of a large table: bytes written, and how long until the server answers with what was published.

    table = LargeTable.publish(Path("/tmp/registry"), rows=10_000_000)
    with SmtServer(Path("/tmp/registry"), poll_ms=50) as server, Client(server.target) as client:
        measured = [measure(table, client, share=0.01) for _ in range(20)]

Not a benchmark by itself: what bench.hotswap's part freshness is made of.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from bench.result import ROOT
from bench.shapes import TABLE_STD, random_slab
from smt.serving.binary import Weights
from smt.serving.client import Client
from smt.serving.compile import compile_template
from smt.serving.delta import Delta, publish_delta
from smt.serving.manifest import SnapshotManifest
from smt.serving.registry import Registry
from smt.serving.snapshot import publish_weights
from smt.training.template import Template, load_template

TEMPLATE = ROOT / "bench" / "templates" / "delta.yaml"
SCENARIO = "large"
WAIT_SECONDS = 60.0


def compiled(cache: Path, folder: Path) -> None:
    """Puts the template binary of TEMPLATE into a registry in `folder`, from one in `cache`, where it is kept."""
    template = load_template(TEMPLATE)
    compile_template(template, Registry(cache / "registry"))
    place = f"templates/{template.name}"
    shutil.copytree(cache / "registry" / place, folder / place, dirs_exist_ok=True)


class DeltaBenchError(RuntimeError):
    """The server does not come to serve what was published."""


@dataclass(frozen=True)
class Measured:
    """One delta.

    written: bytes of all its files, manifest included; whole: of the whole version that the chain goes back to.
    publish_seconds: of the publication. response_seconds: from its end to the first answer by the new version.
    chain: how many deltas the version has on a whole one.
    """

    rows: int
    written: int
    whole: int
    publish_seconds: float
    response_seconds: float
    chain: int

    @property
    def share(self) -> float:
        return self.written / self.whole


@dataclass
class LargeTable:
    """A scenario with one hashed id over a table of so many rows, in a registry of its own.

    Attributes:
        whole: bytes of the whole version, manifest included.
        current: what was published last.
        values: the table of the first version.
    """

    registry: Registry
    template: Template
    rows: int
    slab: torch.Tensor
    whole: int
    current: SnapshotManifest
    random: np.random.Generator
    values: torch.Tensor

    @classmethod
    def publish(cls, folder: Path, rows: int, template: Template | None = None) -> Self:
        """Compiles the template (default: TEMPLATE) unless the registry has it, and publishes a whole version.

        Raises CompileError, RegistryError.
        """
        template, registry = template or load_template(TEMPLATE), Registry(folder)
        compile_template(template, registry)
        slab = random_slab(template)
        table = torch.empty(rows, template.slots.dim).normal_(0, TABLE_STD, generator=torch.Generator().manual_seed(0))
        features = features_of(template, rows)
        manifest = publish_weights(registry, template, SCENARIO, ["click"], features, Weights(slab, table))
        random = np.random.default_rng(0)
        return cls(registry, template, rows, slab, _written(registry, manifest), manifest, random, table)

    def change(self, share: float) -> Delta:
        """Other dense weights, and such a share of the rows with other values."""
        rows = torch.from_numpy(np.sort(self.random.choice(self.rows, int(self.rows * share), replace=False)))
        values = torch.from_numpy(self.random.normal(0, TABLE_STD, (len(rows), self.template.slots.dim)))
        return Delta(self.slab * float(self.random.normal(1, 0.01)), rows, values.float())

    def add(self, delta: Delta) -> SnapshotManifest:
        """Publishes it on what was published last."""
        self.current = publish_delta(self.registry, self.template, SCENARIO, self.current.version, delta)
        return self.current

    def add_whole(self, weights: Weights) -> SnapshotManifest:
        """Publishes a whole version."""
        features = features_of(self.template, self.rows)
        self.current = publish_weights(self.registry, self.template, SCENARIO, ["click"], features, weights)
        return self.current


def measure(table: LargeTable, client: Client, share: float) -> Measured:
    """Publishes one delta, and asks the server until it answers with it. Raises DeltaBenchError, PredictError."""
    delta = table.change(share)
    return _measured(table, client, len(delta.rows), lambda: table.add(delta))


def measure_whole(table: LargeTable, client: Client) -> Measured:
    """The same with a whole version, of other dense weights."""
    weights = Weights(table.slab * float(table.random.normal(1, 0.01)), table.values)
    return _measured(table, client, table.rows, lambda: table.add_whole(weights))


def _measured(table: LargeTable, client: Client, rows: int, publish: Callable[[], SnapshotManifest]) -> Measured:
    started = time.monotonic()
    manifest = publish()
    published = time.monotonic()
    row: dict[str, Any] = {f"number_{slot}": [0.5] for slot in range(table.template.slots.dense)} | {"id": [7]}
    while client.predict(SCENARIO, row).version != manifest.version:
        if time.monotonic() > published + WAIT_SECONDS:
            raise DeltaBenchError(f"{manifest.version} is not served {WAIT_SECONDS:.0f} s after its publication")
    answered = time.monotonic()
    written = _written(table.registry, manifest)
    return Measured(rows, written, table.whole, published - started, answered - published, manifest.chain)


def _written(registry: Registry, manifest: SnapshotManifest) -> int:
    assert registry.local_root is not None
    folder = registry.local_root / "scenarios" / manifest.scenario / "versions" / manifest.version
    return sum(file.stat().st_size for file in folder.iterdir())


def features_of(template: Template, rows: int) -> dict[str, Any]:
    dense = [
        {"name": f"number_{slot}", "type": "number", "kind": "dense", "steps": [], "slot": slot}
        for slot in range(template.slots.dense)
    ]
    encode = {"op": "hash", "size": rows - 2, "seed": 0}  # two rows are of missing and unknown values
    one = {"multi_valued": False, "max_length": 1, "first_row": 0, "rows": rows}
    hashed = {"name": "id", "type": "int", "kind": "categorical", "slot": 0, "encode": encode, **one}
    return {
        "format": 1,
        "dense_slots": template.slots.dense,
        "categorical_slots": template.slots.categorical,
        "table_rows": rows,
        "features": [
            {"input": entry["name"], "required": True, "default": None, **entry} for entry in [*dense, hashed]
        ],
    }
