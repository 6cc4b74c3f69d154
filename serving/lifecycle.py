"""Which version is current: forwards by `promote`, backwards by `rollback`."""

from __future__ import annotations

from smt.serving.events import Event, read_events
from smt.serving.labels import LABELS, clear_label, labelled
from smt.serving.manifest import SnapshotManifest
from smt.serving.registry import Registry, RegistryError

# How far back rollback looks for what was current, and how far if there is nothing; each event is a file to read.
_EVENTS_READ = (16, 200)


def promote(registry: Registry, scenario: str, version: str, reason: str = "") -> SnapshotManifest:
    """Makes a version current, after every file of it was verified; a label that named it is taken away.

    Raises RegistryError: it is damaged, or not there. Nothing has changed then.
    """
    manifest = registry.set_current(scenario, version, reason=reason)
    _clear_labels(registry, scenario, version)
    return manifest


def rollback(registry: Registry, scenario: str, reason: str = "") -> SnapshotManifest:
    """Makes the version current that was so before; called again, it goes on to the one before that.

    Raises RegistryError: there is none, or it is damaged. Nothing has changed then.
    """
    target = rollback_target(registry, scenario)
    if target is None:
        raise RegistryError(
            f"{registry.root}: scenario {scenario!r} has no version to go back to; `smt registry promote {scenario} "
            f"VERSION` takes one of: {', '.join(registry.versions(scenario)) or 'none'}"
        )
    manifest = registry.set_current(scenario, target, what="rolled-back", reason=reason)
    _clear_labels(registry, scenario, target)
    return manifest


def rollback_target(registry: Registry, scenario: str) -> str | None:
    """The complete version that `rollback` would make current; None if there is none."""
    there = set(registry.versions(scenario))
    current = registry.replaceable(scenario)
    for newest in _EVENTS_READ:
        past = were_current(read_events(registry, scenario, newest), current)
        for version in reversed(past):
            if version in there and version != current:
                return version
    return _parent(registry, scenario, current, there)


def _parent(registry: Registry, scenario: str, version: str | None, there: set[str]) -> str | None:
    """What was current when `version` came: for versions that were published before events were kept."""
    if version is None or version not in there:
        return None
    parent = registry.snapshot(scenario, version).lineage.get("parent")
    return parent if parent in there else None


def were_current(events: list[Event], current: str | None) -> list[str]:
    """The versions to which rollbacks lead, the next one last.

    A stack: publishing and promoting push, rolling back pops. Where the events do not fit together (an event was
    written, and its process died before it moved `current`), `previous` says what was current in truth.

    Args:
        events: oldest first; those before them are taken as unknown.
        current: what `current` names now; None if it is broken.
    """
    stack: list[str] = []
    for event in events:
        if not event.moved_current or event.version is None:
            continue
        if event.previous is not None:
            _settle(stack, event.previous)
            if event.what == "rolled-back":
                stack.pop()
        if event.what == "rolled-back":
            _settle(stack, event.version)
        else:
            stack.append(event.version)
    if current is not None:
        _settle(stack, current)
        stack.pop()
    return stack


def _settle(stack: list[str], top: str) -> None:
    """Makes `top` the top: drops what lies above it, or puts it there."""
    if top in stack:
        while stack[-1] != top:
            stack.pop()
    else:
        stack.append(top)


def _clear_labels(registry: Registry, scenario: str, version: str) -> None:
    """A canary of what is current anyway would only be in the way of the next."""
    for name in LABELS:
        if labelled(registry, scenario, name) == version:
            clear_label(registry, scenario, name, reason="it is current now")
