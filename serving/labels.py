"""What else than `current` names a version: the labels canary and shadow, and pins.

    <root>/scenarios/<scenario>/labels/{canary,shadow}   {"version", "percent", "set_by", "set_at"}; absent: none
    <root>/scenarios/<scenario>/pins/<version>           {"reason", "set_by", "set_at"}; gc keeps the version

`current` is the label stable. A canary answers `percent` of the requests in its place; a shadow scores `percent` of
them beside it, and answers none.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import Field

from smt.serving.events import Event, record, user_name
from smt.serving.manifest import VERSION_PATTERN, Part, Version
from smt.serving.places import RegistryError, checked_version, label_file, pin_file, pins_dir, scenario_dir
from smt.serving.registry_files import RegistryFiles

LabelName = Literal["canary", "shadow"]
LABELS: tuple[LabelName, ...] = ("canary", "shadow")
DEFAULT_PERCENT: dict[LabelName, float] = {"canary": 5.0, "shadow": 100.0}


class Label(Part):
    """Which version a label names, and for how much of the traffic."""

    version: Version
    percent: Annotated[float, Field(gt=0, le=100)]
    set_by: str = ""
    set_at: str = ""


class Pin(Part):
    """Why gc must keep a version."""

    reason: str = ""
    set_by: str = ""
    set_at: str = ""


def read_label(files: RegistryFiles, scenario: str, name: LabelName) -> Label | None:
    """What a label names; None if it is not set. Raises RegistryError for a damaged one."""
    return files.read_json(label_file(scenario, name), Label)


def write_label(files: RegistryFiles, scenario: str, name: LabelName, version: str, percent: float | None) -> None:
    """Moves a label; call with the scenario locked, after the version was verified and the event recorded."""
    label = Label(version=version, percent=checked_percent(name, percent), set_by=user_name(), set_at=_now())
    files.write_json(label_file(scenario, name), label)


def drop_label(files: RegistryFiles, scenario: str, name: LabelName) -> None:
    """Takes a label away, if it is there; call with the scenario locked."""
    path = label_file(scenario, name)
    with files.access(path):
        files.storage.remove(path)


def labelled(files: RegistryFiles, scenario: str, name: LabelName) -> str | None:
    """The version that a label names; None also for a damaged label, which is about to be replaced."""
    try:
        label = read_label(files, scenario, name)
    except RegistryError:
        return None
    return label.version if label else None


def clear_label(files: RegistryFiles, scenario: str, name: LabelName, reason: str = "") -> str | None:
    """Takes a label away; returns the version that it named, None if it was not set."""
    folder = scenario_dir(scenario)
    with files.access(folder), files.storage.lock(folder):
        version = labelled(files, scenario, name)
        if version is not None:
            record(files, scenario, Event(what=name, version=None, previous=version, reason=reason))
        drop_label(files, scenario, name)
    return version


def checked_percent(name: LabelName, percent: float | None) -> float:
    """The share of the traffic, or the label's default. Raises RegistryError unless 0 < percent <= 100."""
    if percent is None:
        return DEFAULT_PERCENT[name]
    if not 0 < percent <= 100:
        raise RegistryError(f"{name}: {percent:g} percent; expected more than 0 and at most 100")
    return float(percent)


def read_pins(files: RegistryFiles, scenario: str) -> dict[str, Pin]:
    """Pinned versions, and why. A pin that cannot be read pins as well as any other."""
    pins = {}
    for version in files.names(pins_dir(scenario)):
        if re.fullmatch(VERSION_PATTERN, version):
            try:
                pin = files.read_json(pin_file(scenario, version), Pin)
            except RegistryError as error:
                pin = Pin(reason=f"damaged: {error}")
            if pin is not None:
                pins[version] = pin
    return pins


def pin(files: RegistryFiles, scenario: str, version: str, reason: str = "") -> Pin:
    """Keeps a version, and what it is built on, from gc. The caller has checked that the version is there."""
    made = Pin(reason=reason, set_by=user_name(), set_at=_now())
    folder = scenario_dir(scenario)
    with files.access(folder), files.storage.lock(folder):
        record(files, scenario, Event(what="pinned", version=version, reason=reason))
        files.write_json(pin_file(scenario, version), made)
    return made


def unpin(files: RegistryFiles, scenario: str, version: str, reason: str = "") -> None:
    """Lets gc have a version again. Raises RegistryError if it is not pinned."""
    folder = scenario_dir(scenario)
    with files.access(folder), files.storage.lock(folder):
        if checked_version(version) not in files.names(pins_dir(scenario)):
            raise RegistryError(f"{files.full(pin_file(scenario, version))}: no such file; the version is not pinned")
        record(files, scenario, Event(what="unpinned", version=version, reason=reason))
        with files.access(pin_file(scenario, version)):
            files.storage.remove(pin_file(scenario, version))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
