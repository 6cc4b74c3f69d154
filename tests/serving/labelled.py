"""A server whose `feed` has a stable version, and versions of it under the labels canary and shadow."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from smt.serving.client import Client
from smt.serving.compile import BinaryInfo
from smt.serving.registry import Registry
from smt.serving.snapshot import Weights, publish_weights
from smt.training.template import Template
from tests.serving.support import FEED, RunningServer, copy_binaries, wait_for

Compiled = tuple[Path, BinaryInfo, list[str]]


class Labelled:
    """options: of RunningServer. `stable` is the version that is current, with the weights of seed 1."""

    label = ""  # of the versions that tests publish

    def __init__(self, compiled: Compiled, template: Template, folder: Path, **options: Any) -> None:
        self.root = copy_binaries(compiled[0], folder / "registry")
        self.registry = Registry(self.root)
        self.template = template
        self.stable = FEED.publish(self.registry, template, 1).version
        self.running = RunningServer(self.root, folder, **options)

    def __enter__(self) -> Self:
        self.running.__enter__()
        self.client = Client(self.running.target, timeout=60)
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()
        self.running.__exit__(*error)

    def publish_labelled(self, weights: Weights, features: dict[str, Any], percent: float | None) -> str:
        return publish_weights(
            self.registry, self.template, "feed", FEED.tasks, features, weights, label=self.label, percent=percent
        ).version

    def start_labelled(self, weights: Weights, features: dict[str, Any], percent: float | None) -> str:
        """Publishes a version under the label, and waits until the server has it there."""
        version = self.publish_labelled(weights, features, percent)
        wait_for(lambda: self.state(version) == ("serving", self.label), f"the {self.label} to be loaded")
        return version

    def state(self, version: str) -> tuple[str, str]:
        (feed,) = self.client.list_scenarios()
        return next(((each.state, each.label) for each in feed.versions if each.version == version), ("", ""))
