"""Publishes a new version of a template: compiled once, every scenario's run through the gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from smt.serving.compile import compile_template
from smt.serving.publish import PublishError, publish_run
from smt.serving.registry import Registry
from smt.training.template import Template


def publish_version(
    template: Template, runs: Mapping[str, Path], registry: Registry, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Publishes a run of each scenario.

    Returns:
        Of each scenario, `version`, or `refused`: why the gate let it not pass; the others are published all the same.

    Raises:
        CompileError, RegistryError: nothing could be published.
    """
    say(f"compiling {template.name} {template.version}")
    compile_template(template, registry)
    found: dict[str, dict[str, Any]] = {}
    for scenario, run_dir in runs.items():
        say(f"publishing {scenario}")
        try:
            published = publish_run(run_dir, registry)
        except PublishError as error:
            found[scenario] = {"version": None, "refused": str(error)}
        else:
            manifest = published.manifest
            found[scenario] = {"version": manifest.version, "ne_change": published.gate.ne_change}
    return found
