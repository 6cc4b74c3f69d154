"""gc: what it keeps, what it removes, and that nothing in between can go wrong."""

from __future__ import annotations

import os
import time
import uuid
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from smt.serving import places, storage
from smt.serving.events import read_events
from smt.serving.gc import Policy, collect
from smt.serving.integrity import check_registry
from smt.serving.labels import clear_label, pin, unpin
from smt.serving.lifecycle import promote, rollback, rollback_target
from smt.serving.registry import Registry, RegistryError
from tests.serving.test_registry import delta_draft, draft

FILES = {"weights.safetensors": b"weights"}
ALL = Policy(keep=1, older_than=timedelta())


@pytest.fixture(params=["local", "memory"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry" if request.param == "local" else f"memory://{uuid.uuid4().hex}/registry")


def publish(registry: Registry, count: int) -> list[str]:
    return [registry.publish_snapshot(draft(), FILES).version for _ in range(count)]


def test_what_is_named_stays(registry: Registry) -> None:
    versions = publish(registry, 9)
    registry.set_label("feed", "canary", versions[1])
    registry.set_label("feed", "shadow", versions[2])
    pin(registry, "feed", versions[3])
    promote(registry, "feed", versions[5])
    assert rollback_target(registry, "feed") == versions[8]
    told = collect(registry, "feed", ALL)
    assert registry.versions("feed") == versions  # nothing happens unless it is asked for
    found = collect(registry, "feed", ALL, apply=True)
    assert found == told
    assert found.removed == [versions[i] for i in (7, 6, 4, 0)]
    assert found.bytes == 4 * len(FILES["weights.safetensors"])
    assert found.kept == {
        versions[1]: "canary",
        versions[2]: "shadow",
        versions[3]: "pinned",
        versions[5]: "current",
        versions[8]: "rollback goes back to it",
    }
    assert registry.versions("feed") == [versions[i] for i in (1, 2, 3, 5, 8)]
    assert check_registry(registry).faults == []
    clear_label(registry, "feed", "canary")
    unpin(registry, "feed", versions[3])
    assert collect(registry, "feed", ALL, apply=True).removed == [versions[3], versions[1]]
    assert rollback(registry, "feed").version == versions[8]
    gone = [event.version for event in read_events(registry, "feed") if event.what == "gc"]
    assert gone[-2:] == [versions[3], versions[1]]


def test_newest_and_young_versions_stay(registry: Registry) -> None:
    versions = publish(registry, 6)
    assert collect(registry, "feed", Policy(keep=2, older_than=timedelta(hours=1)), apply=True).removed == []
    assert collect(registry, "feed", Policy(keep=3, older_than=timedelta()), apply=True).removed == versions[2::-1]
    assert registry.versions("feed") == versions[3:]
    with pytest.raises(RegistryError, match="keep: 0; expected at least 1"):
        collect(registry, "feed", Policy(keep=0))


def test_what_is_built_on_stays(registry: Registry) -> None:
    """full <- a <- b (pinned), full <- c; then versions that are not."""
    full = registry.publish_snapshot(draft(), FILES)
    a = registry.publish_snapshot(delta_draft(full), FILES)
    b = registry.publish_snapshot(delta_draft(a), FILES)
    c = registry.publish_snapshot(delta_draft(full), FILES)
    others = publish(registry, 3)
    pin(registry, "feed", b.version)
    found = collect(registry, "feed", ALL, apply=True)
    assert found.removed == [others[0], c.version]
    assert found.kept[a.version] == f"{b.version} is built on it"
    assert found.kept[full.version] == f"{a.version} is built on it"
    assert registry.verify("feed", b.version) == b
    unpin(registry, "feed", b.version)
    assert collect(registry, "feed", ALL, apply=True).removed == [b.version, a.version, full.version]


@pytest.mark.parametrize("damage", ["current", "labels/canary", "manifest"])
def test_a_scenario_with_damage_is_left_alone(tmp_path: Path, damage: str) -> None:
    registry = Registry(tmp_path)
    versions = publish(registry, 4)
    registry.set_label("feed", "canary", versions[0])
    folder = tmp_path / "scenarios/feed"
    path = folder / ("versions/" + versions[0] + "/manifest.json" if damage == "manifest" else damage)
    path.write_text("nonsense")
    with pytest.raises(RegistryError, match=str(path)):
        collect(registry, "feed", ALL, apply=True)
    assert registry.versions("feed") == versions


def test_leftovers_go_when_they_are_old(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    [version] = publish(registry, 1)
    folder = tmp_path / "scenarios/feed"
    old = time.time() - 2 * storage.STALE_SECONDS
    for place in ("versions/.tmp-old", "versions/.tmp-young", "versions/.trash-young", ".tmp-old", "labels/.tmp-old"):
        path = folder / place
        path.parent.mkdir(exist_ok=True)
        if path.parent.name == "versions":
            path.mkdir()
            (path / "part").write_bytes(b"half")
        else:
            path.write_text("half")
        if place.endswith("old"):
            os.utime(path, (old, old))
    collect(registry, "feed", ALL, apply=True)
    assert [str(path.relative_to(folder)) for path in folder.rglob(".t*")] == ["versions/.tmp-young"]
    assert registry.versions("feed") == [version]


def test_an_upload_that_died_goes_when_it_is_old(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, c = publish(registry, 3)
    registry.storage.remove(f"scenarios/feed/versions/{a}/manifest.sha256")
    assert collect(registry, "feed", ALL, apply=True).leftovers == []  # young: somebody may be at it
    monkeypatch.setattr("smt.serving.gc.STALE_SECONDS", -1.0)
    assert collect(registry, "feed", ALL, apply=True).leftovers == [a]
    assert registry.names("scenarios/feed/versions") == [b, c]


def test_names_increase_and_history_shrinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events of versions that are gone go once they are as old; no name comes twice, though the clock went back."""
    registry = Registry(tmp_path)
    versions = publish(registry, 5)
    collect(registry, "feed", ALL, apply=True)
    assert registry.versions("feed") == versions[3:]  # current, and what is before it
    collect(registry, "feed", ALL, apply=True)
    events = read_events(registry, "feed")
    assert {event.version for event in events[:-1]} == set(versions[3:])
    newest = max(path.name for path in (tmp_path / "scenarios/feed/events").iterdir())

    class EarlierClock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) - timedelta(days=40)

    monkeypatch.setattr(places, "datetime", EarlierClock)
    assert publish(registry, 1)[0] > newest
    assert rollback(registry, "feed").version == versions[4]
