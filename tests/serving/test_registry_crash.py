"""SIGKILL at any moment of any change: the registry names complete, verified versions, and nothing returned is lost.

SMT_CRASH_KILLS says how many writers are killed at random moments (default 40).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from bench.crashes import SCENARIO, kill_at_every_change, kill_writers, publish, publish_delta
from smt.serving.gc import Policy, collect
from smt.serving.integrity import check_registry
from smt.serving.labels import clear_label, pin
from smt.serving.lifecycle import promote, rollback
from smt.serving.registry import Registry

KILLS = int(os.environ.get("SMT_CRASH_KILLS", "40"))
ALL = Policy(keep=1, older_than=timedelta())


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a place: what SIGKILL leaves is the same on every disk, and syncing one is slow."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


def test_writers_killed_at_random_moments(folder: Path) -> None:
    found = kill_writers(folder, KILLS, seed=1)
    assert (found.kills, found.faults, found.lost) == (KILLS, [], [])
    assert found.published > KILLS / 4
    assert found.collected > 0
    # What the killed ones left is no more than their last work, and goes.
    registry = Registry(folder)
    collect(registry, SCENARIO, ALL, apply=True)
    assert not list(folder.rglob(".trash-*"))


# Operations run in a process of their own, hence functions of the module.


def publish_full(registry: Registry) -> None:
    publish(registry, b"new")


def publish_canary(registry: Registry) -> None:
    publish(registry, b"new", label="canary")


def delta(registry: Registry) -> None:
    publish_delta(registry, b"new")


def promote_first(registry: Registry) -> None:
    promote(registry, SCENARIO, registry.versions(SCENARIO)[0])


def go_back(registry: Registry) -> None:
    rollback(registry, SCENARIO)


def label_first(registry: Registry) -> None:
    registry.set_label(SCENARIO, "shadow", registry.versions(SCENARIO)[0])


def unlabel(registry: Registry) -> None:
    clear_label(registry, SCENARIO, "canary")


def pin_first(registry: Registry) -> None:
    pin(registry, SCENARIO, registry.versions(SCENARIO)[0])


def remove_old(registry: Registry) -> None:
    collect(registry, SCENARIO, ALL, apply=True)


def prepare(registry: Registry) -> None:
    """a, b, b+1, c, with a canary on a and current on c: gc may have b and b+1."""
    publish(registry, b"a")
    publish(registry, b"b")
    publish_delta(registry, b"b+1")
    publish(registry, b"c")
    publish(registry, b"d")
    registry.set_label(SCENARIO, "canary", registry.versions(SCENARIO)[0])


@pytest.mark.parametrize(
    "operation",
    [publish_full, publish_canary, delta, promote_first, go_back, label_first, unlabel, pin_first, remove_old],
)
def test_an_operation_killed_before_any_of_its_changes(operation: Callable[[Registry], None], folder: Path) -> None:
    prepare(Registry(folder / "prepared"))
    changes = 0
    before_and_after: set[str | None] = set()
    for changes, registry in kill_at_every_change(folder / "prepared", folder, operation):  # noqa: B007
        assert check_registry(registry).faults == []
        versions = registry.versions(SCENARIO)
        current = registry.current(SCENARIO)
        before_and_after.add(None if current is None else str(registry.snapshot(SCENARIO).files))
        kept = {registry.versions(SCENARIO)[0], *versions[-2:]}
        # It can be done again, by the next who comes, and nothing is left over then.
        operation(registry)
        assert registry.verify(SCENARIO)
        assert kept <= set(registry.versions(SCENARIO)) or operation is remove_old
        assert publish(registry, b"next") == registry.current(SCENARIO)
        collect(registry, SCENARIO, ALL, apply=True)
        assert not list(Path(registry.root).rglob(".trash-*"))
    assert changes > 5
    moves_current = operation in (publish_full, delta, promote_first, go_back)
    assert len(before_and_after) == (2 if moves_current else 1)  # current is what it was, or what it was to be
