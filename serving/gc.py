"""Removes old versions: `smt registry gc`.

    collect(registry, "feed", Policy(keep=5, older_than=timedelta(days=7)), apply=True)

What is kept, whatever its age: current, canary and shadow, what is pinned, what `rollback` would go back to, the newest
versions, and everything that one of these is built on. A scenario in which that cannot be told, because a pointer or a
manifest is damaged, is left alone.

A version goes at once or not at all: its folder is renamed (on object stores its checksum goes first), and the files
after that. A process killed in the middle leaves what the next gc removes. On a local file system no change of the
scenario comes between; on an object store, which has no lock, do not promote a version while gc is removing it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from smt.serving.events import Event, event_names, record
from smt.serving.labels import LABELS, read_label, read_pins
from smt.serving.lifecycle import rollback_target
from smt.serving.manifest import VERSION_PATTERN, SnapshotManifest
from smt.serving.places import CHECKSUM, events_dir, moment_of, pins_dir, scenario_dir, version_dir, versions_dir
from smt.serving.registry import Registry, RegistryError
from smt.serving.storage import STALE_SECONDS


@dataclass(frozen=True)
class Policy:
    """The newest `keep` versions stay, and all that are not older than `older_than`."""

    keep: int = 5
    older_than: timedelta = timedelta(days=7)


@dataclass
class Collected:
    """What gc removes from a scenario, or would.

    removed: versions, the newest first. leftovers: parts of publications and removals that died. kept: version -> why.
    bytes: of the files of `removed`. events: how many events of versions that are long gone.
    """

    scenario: str
    removed: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    bytes: int = 0
    events: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "scenario": self.scenario,
            "removed": self.removed,
            "leftovers": self.leftovers,
            "kept": self.kept,
            "bytes": self.bytes,
            "events": self.events,
        }


def collect(registry: Registry, scenario: str, policy: Policy, *, apply: bool = False) -> Collected:
    """Removes what the policy gives away; without `apply` only says what that would be.

    Raises RegistryError: what must stay cannot be told, or the file system fails. What was removed then is no version
    that must stay.
    """
    if policy.keep < 1:
        raise RegistryError(f"keep: {policy.keep}; expected at least 1, so that versions go on increasing")
    folder = scenario_dir(scenario)
    with registry.access(folder), registry.storage.lock(folder):
        found = _plan(registry, scenario, policy)
        old_events = _old_events(registry, scenario, policy, found)
        found.events = len(old_events)
        if apply:
            for version in found.removed:
                record(registry, scenario, Event(what="gc", version=version))
                registry.storage.remove_folder(version_dir(scenario, version), CHECKSUM)
            for name in found.leftovers:
                registry.storage.remove_folder(f"{versions_dir(scenario)}/{name}", CHECKSUM)
            for name in old_events:
                registry.storage.remove(f"{events_dir(scenario)}/{name}")
    if apply:
        with registry.access(folder):
            for place in (versions_dir(scenario), folder, pins_dir(scenario), events_dir(scenario), f"{folder}/labels"):
                registry.storage.sweep(place)
    return found


def _plan(registry: Registry, scenario: str, policy: Policy) -> Collected:
    found = Collected(scenario)
    versions = registry.versions(scenario)
    now = datetime.now(UTC)
    kept = _named(registry, scenario)
    for version in versions[-policy.keep :]:
        kept.setdefault(version, f"one of the newest {policy.keep}")
    for version in versions:
        if now - moment_of(version) <= policy.older_than:
            kept.setdefault(version, "young")
    manifests = {version: registry.snapshot(scenario, version) for version in kept if version in versions}
    _keep_bases(registry, manifests, kept)
    found.kept = {version: kept[version] for version in versions if version in kept}
    found.removed = [version for version in reversed(versions) if version not in kept]  # deltas before their bases
    found.bytes = sum(_bytes(registry, scenario, version) for version in found.removed)
    found.leftovers = [name for name in _incomplete(registry, scenario, versions, now) if name not in kept]
    return found


def _named(registry: Registry, scenario: str) -> dict[str, str]:
    """Versions that something names, and what."""
    kept: dict[str, str] = {}
    current = registry.current(scenario)
    if current is not None:
        kept[current] = "current"
    for label in LABELS:
        named = read_label(registry, scenario, label)
        if named is not None:
            kept.setdefault(named.version, label)
    for version in read_pins(registry, scenario):
        kept.setdefault(version, "pinned")
    target = rollback_target(registry, scenario)
    if target is not None:
        kept.setdefault(target, "rollback goes back to it")
    return kept


def _keep_bases(registry: Registry, manifests: dict[str, SnapshotManifest], kept: dict[str, str]) -> None:
    waiting = list(manifests.values())
    while waiting:
        manifest = waiting.pop()
        if manifest.base is not None and manifest.base not in manifests:
            base = registry.snapshot(manifest.scenario, manifest.base)
            manifests[base.version] = base
            kept.setdefault(base.version, f"{manifest.version} is built on it")
            waiting.append(base)


def _bytes(registry: Registry, scenario: str, version: str) -> int:
    try:
        return registry.snapshot(scenario, version).bytes
    except RegistryError:  # damaged, and about to go
        return 0


def _incomplete(registry: Registry, scenario: str, versions: list[str], now: datetime) -> list[str]:
    """Folders of versions that never became complete, and that nobody has written to for a day."""
    folder = versions_dir(scenario)
    found = []
    for name in registry.names(folder):
        if re.fullmatch(VERSION_PATTERN, name) and name not in versions:
            times = [
                registry.storage.modified(f"{folder}/{name}/{file}") for file in registry.names(f"{folder}/{name}")
            ]
            newest = max([moment_of(name).timestamp(), *(time for time in times if time is not None)])
            if now.timestamp() - newest > STALE_SECONDS:
                found.append(name)
    return found


def _old_events(registry: Registry, scenario: str, policy: Policy, found: Collected) -> list[str]:
    """Events about versions that are gone, as old as versions that go. The newest stays: names go on increasing."""
    there = set(found.kept)
    old = []
    for name in event_names(registry, scenario)[:-1]:
        if datetime.now(UTC) - moment_of(name) <= policy.older_than:
            break
        event = registry.read_json(f"{events_dir(scenario)}/{name}", Event)
        if event is not None and event.version is not None and event.version not in there:
            old.append(name)
    return old
