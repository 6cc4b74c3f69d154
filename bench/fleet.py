"""Scenarios of the serving benchmarks: R1 with its serving features, as many as wanted, each with weights of its own.

    fleet = Fleet(load_shape("R1").template, 300, Path("build/bench"))
    fleet.publish(Registry("/tmp/registry"))

Every scenario reads 13 numbers and 26 integers that are hashed, one value each, all sent per candidate.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from bench.peer_build import Problem
from bench.shapes import TABLE_STD, Shape, random_slab
from smt.serving.binary import Weights
from smt.serving.compile import compile_template
from smt.serving.manifest import SnapshotManifest
from smt.serving.registry import Registry
from smt.serving.snapshot import publish_weights
from smt.training.model import slab_layout
from smt.training.template import Template

HASH_SIZE = 1000  # of each feature; its table has two more rows, for missing and unknown values
TASKS = ("click", "like", "share", "follow")
# A scenario's dense weights are those of a random network, each scaled by 1 plus a normal value of this deviation.
WEIGHT_SPREAD = 0.1


def feature_spec(dense: int, categorical: int) -> dict[str, Any]:
    """Numbers that are normalised, and integers that are hashed."""
    features: list[dict[str, Any]] = []
    for slot in range(dense):
        steps = [{"op": "normalise", "mean": 0.0, "std": 1.0}]
        features.append({"name": f"number_{slot}", "type": "number", "kind": "dense", "steps": steps, "slot": slot})
    for slot in range(categorical):
        encode = {"op": "hash", "size": HASH_SIZE, "seed": slot}
        rows = {"first_row": slot * (HASH_SIZE + 2), "rows": HASH_SIZE + 2}
        one = {"multi_valued": False, "max_length": 1, "encode": encode}
        features.append({"name": f"id_{slot}", "type": "int", "kind": "categorical", "slot": slot, **one, **rows})
    return {
        "format": 1,
        "dense_slots": dense,
        "categorical_slots": categorical,
        "table_rows": categorical * (HASH_SIZE + 2),
        "features": [{"input": entry["name"], "required": True, "default": None, **entry} for entry in features],
    }


@dataclass(frozen=True)
class Fleet:
    """So many scenarios of one template.

    Attributes:
        cache: folder that outlives the run, where the compiled template is kept.
    """

    template: Template
    count: int
    cache: Path

    @property
    def shape(self) -> Shape:
        """The template, with as many rows for each slot as its feature has."""
        return Shape(self.template.name, self.template, HASH_SIZE + 2)

    @cached_property
    def names(self) -> list[str]:
        return [f"scenario_{number:03}" for number in range(self.count)]

    @property
    def spec(self) -> dict[str, Any]:
        """The FeatureSpec of every scenario."""
        return feature_spec(self.template.slots.dense, self.template.slots.categorical)

    @property
    def table_rows(self) -> int:
        """Of one scenario, all features together."""
        return self.template.slots.categorical * self.shape.table_rows

    @property
    def weight_bytes(self) -> int:
        """Of one scenario, as published: slab and table in float32."""
        slots = self.template.slots
        return slab_layout(self.template).bytes + 4 * self.table_rows * slots.dim

    def weights(self) -> Iterator[Weights]:
        """Of each scenario, in order; the same in every run."""
        slab = random_slab(self.template)
        generator = torch.Generator().manual_seed(0)
        for _ in self.names:
            table = torch.empty(self.table_rows, self.template.slots.dim)
            table.normal_(0, TABLE_STD, generator=generator)
            yield Weights(slab * torch.empty_like(slab).normal_(1, WEIGHT_SPREAD, generator=generator), table)

    def problem(self) -> Problem:
        """What a peer is given: the first scenario's weights."""
        weights = next(self.weights())
        return Problem(self.shape, weights.slab, weights.table)

    def publish(self, registry: Registry, progress: Callable[[int], None] | None = None) -> None:
        """Binary and snapshots, into a registry in a local folder. `progress`: called with each scenario's number.

        Raises CompileError, RegistryError.
        """
        self.publish_binary(registry)
        for number, (name, weights) in enumerate(zip(self.names, self.weights(), strict=True)):
            self.publish_scenario(registry, name, weights)
            if progress is not None:
                progress(number)

    def publish_binary(self, registry: Registry) -> None:
        """The template binary alone. Raises CompileError."""
        compile_template(self.template, Registry(self.cache / "registry"))
        folder = f"templates/{self.template.name}"
        assert registry.local_root is not None
        shutil.copytree(self.cache / "registry" / folder, registry.local_root / folder)

    def publish_scenario(self, registry: Registry, name: str, weights: Weights, **how: Any) -> SnapshotManifest:
        """A version of a scenario. `how`: see Registry.publish_snapshot. Raises RegistryError."""
        tasks = TASKS[: self.template.tasks]
        return publish_weights(registry, self.template, name, tasks, self.spec, weights, **how)
