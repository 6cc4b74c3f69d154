"""Labels, pins, events, and going back and forth between versions."""

from __future__ import annotations

import itertools
import os
import uuid
from pathlib import Path

import fsspec
import pytest

from smt.serving.events import Event, read_events
from smt.serving.labels import clear_label, pin, read_label, read_pins, unpin
from smt.serving.lifecycle import promote, rollback, rollback_target, were_current
from smt.serving.registry import Registry, RegistryError
from tests.serving.test_registry import draft

FILES = {"weights.safetensors": b"one"}


@pytest.fixture(params=["local", "memory"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry" if request.param == "local" else f"memory://{uuid.uuid4().hex}/registry")


def publish(registry: Registry, count: int) -> list[str]:
    return [registry.publish_snapshot(draft(), FILES).version for _ in range(count)]


def test_promote_and_roll_back(registry: Registry) -> None:
    a, b, c = publish(registry, 3)
    assert rollback(registry, "feed", "too warm").version == b == registry.current("feed")
    [d] = publish(registry, 1)
    assert rollback(registry, "feed").version == b  # c was not current when d came
    assert rollback(registry, "feed").version == a
    with pytest.raises(RegistryError, match=rf"no version to go back to; .*promote feed VERSION` takes one of: {a}, "):
        rollback(registry, "feed")
    assert promote(registry, "feed", c, "it was good").version == c == registry.current("feed")
    assert promote(registry, "feed", c).version == c  # it is current: nothing happens
    assert rollback_target(registry, "feed") == a
    events = read_events(registry, "feed")
    assert [(event.what, event.version, event.previous) for event in events] == [
        ("published", a, None),
        ("published", b, a),
        ("published", c, b),
        ("rolled-back", b, c),
        ("published", d, b),
        ("rolled-back", b, d),
        ("rolled-back", a, b),
        ("promoted", c, a),
    ]
    assert [event.reason for event in events if event.reason] == ["too warm", "it was good"]
    assert all(event.by and event.at for event in events)
    assert [event.at for event in events] == sorted(event.at for event in events)


def test_every_walk_can_be_taken_back() -> None:
    """Against a stack of versions: any six publications, promotions of an old version, and rollbacks."""
    for walk in itertools.product(("publish", "promote", "rollback"), repeat=6):
        events: list[Event] = []
        stack: list[str] = []
        published: list[str] = []
        for number, step in enumerate(walk):
            current = stack[-1] if stack else None
            if step == "rollback":
                if len(stack) < 2:
                    continue
                stack.pop()
                events.append(Event(what="rolled-back", version=stack[-1], previous=current))
                continue
            old = [version for version in published if version != current]
            if step == "promote" and not old:
                continue
            version = old[0] if step == "promote" else f"20260101-000000-{number:03d}-00000000"
            published.append(version)
            stack.append(version)
            label = "stable" if step == "publish" else None
            what = "published" if label else "promoted"
            events.append(Event.model_validate({"what": what, "version": version, "previous": current, "label": label}))
        assert were_current(events, stack[-1] if stack else None) == stack[:-1], walk


def test_an_event_whose_change_never_came_leads_nowhere(registry: Registry) -> None:
    """Its process died between the two."""
    a, b, c = publish(registry, 3)
    promote(registry, "feed", b)
    folder = f"{registry.root}/scenarios/feed"
    filesystem, place = fsspec.core.url_to_fs(folder)
    filesystem.pipe_file(f"{place}/current", c.encode())  # as if the promotion had not come to this
    assert rollback_target(registry, "feed") == b == rollback(registry, "feed").version
    assert rollback(registry, "feed").version == a


def test_versions_of_before_there_were_events(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    a, _ = publish(registry, 2)
    for event in (tmp_path / "scenarios/feed/events").iterdir():
        event.unlink()
    assert rollback(registry, "feed").version == a


def test_what_is_gone_or_damaged_is_not_gone_back_to(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    a, b, c = publish(registry, 3)
    os.unlink(tmp_path / "scenarios/feed/versions" / b / "manifest.sha256")
    assert rollback_target(registry, "feed") == a
    (tmp_path / "scenarios/feed/versions" / a / "weights.safetensors").write_bytes(b"bad")
    with pytest.raises(RegistryError, match="xxh3 is"):
        rollback(registry, "feed")
    assert registry.current("feed") == c
    assert len(read_events(registry, "feed")) == 3


def test_a_current_that_names_nothing_is_rolled_back(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    _, b = publish(registry, 2)
    (tmp_path / "scenarios/feed/current").write_text("20200101-000000-000-00000000\n")
    assert rollback(registry, "feed").version == b
    (tmp_path / "scenarios/feed/current").write_text("nonsense\n")
    assert rollback(registry, "feed").version == b


def test_labels(registry: Registry) -> None:
    a, b = publish(registry, 2)
    assert read_label(registry, "feed", "canary") is None
    registry.set_label("feed", "canary", a, 12.5)
    canary = read_label(registry, "feed", "canary")
    assert canary
    assert (canary.version, canary.percent) == (a, 12.5)
    assert canary.set_by
    assert registry.current("feed") == b
    shadowed = registry.publish_snapshot(draft(), FILES, label="shadow").version
    shadow = read_label(registry, "feed", "shadow")
    assert shadow
    assert (shadow.version, shadow.percent) == (shadowed, 100.0)
    assert registry.current("feed") == b
    assert clear_label(registry, "feed", "shadow", "seen enough") == shadowed
    assert clear_label(registry, "feed", "shadow") is None
    assert read_label(registry, "feed", "shadow") is None
    promote(registry, "feed", a)
    assert read_label(registry, "feed", "canary") is None
    assert [
        (event.what, event.version, event.previous, event.label) for event in read_events(registry, "feed")[2:]
    ] == [
        ("canary", a, None, None),
        ("published", shadowed, None, "shadow"),
        ("shadow", None, shadowed, None),
        ("promoted", a, b, None),
        ("canary", None, a, None),
    ]


@pytest.mark.parametrize("percent", [0.0, -1.0, 100.5, float("nan")])
def test_shares_are_checked(registry: Registry, percent: float) -> None:
    [a] = publish(registry, 1)
    for change in (
        lambda: registry.set_label("feed", "canary", a, percent),
        lambda: registry.publish_snapshot(draft(), FILES, label="canary", percent=percent),
    ):
        with pytest.raises(RegistryError, match="percent; expected more than 0 and at most 100"):
            change()
    assert registry.versions("feed") == [a]
    assert len(read_events(registry, "feed")) == 1


def test_a_label_names_only_what_verifies(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    a, b = publish(registry, 2)
    (tmp_path / "scenarios/feed/versions" / a / "weights.safetensors").write_bytes(b"bad")
    with pytest.raises(RegistryError, match=r"weights\.safetensors: xxh3"):
        registry.set_label("feed", "canary", a)
    with pytest.raises(RegistryError, match="no such file"):
        registry.set_label("feed", "canary", "20200101-000000-000-00000000")
    assert read_label(registry, "feed", "canary") is None
    registry.set_label("feed", "canary", b)
    (tmp_path / "scenarios/feed/labels/canary").write_text('{"version": "x", "percent": 5}')
    with pytest.raises(RegistryError, match=r"labels/canary: version: "):
        read_label(registry, "feed", "canary")
    registry.set_label("feed", "canary", b)  # repairs it
    assert read_label(registry, "feed", "canary")


def test_pins(registry: Registry) -> None:
    a, _ = publish(registry, 2)
    pin(registry, "feed", a, "the audit needs it")
    assert {version: made.reason for version, made in read_pins(registry, "feed").items()} == {a: "the audit needs it"}
    unpin(registry, "feed", a)
    assert read_pins(registry, "feed") == {}
    with pytest.raises(RegistryError, match="the version is not pinned"):
        unpin(registry, "feed", a)
    assert [event.what for event in read_events(registry, "feed")[2:]] == ["pinned", "unpinned"]
