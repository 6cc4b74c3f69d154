"""What was done to a scenario: one small file per event, since an object store has no append.

    <root>/scenarios/<scenario>/events/<UTC stamp>-<8 hex>.json

An event is written before what it tells of: a process that dies between the two leaves an event too many, never a
change that nobody can explain. So `version` and `previous` say what was meant; `current` alone says what is served.
"""

from __future__ import annotations

import getpass
import re
import uuid
from typing import Literal

from smt.serving.manifest import VERSION_PATTERN, Part, Version
from smt.serving.places import events_dir, moment_after, stamp
from smt.serving.registry_files import RegistryFiles

What = Literal["published", "promoted", "rolled-back", "canary", "shadow", "pinned", "unpinned", "gc"]


class Event(Part):
    """One change of a scenario.

    version: what it is about; None: a label that was taken away. previous: what stood in its place. label: of a
    publication, the label that it was published under. forced: why the publish gate was overridden.
    """

    what: What
    version: Version | None
    previous: Version | None = None
    label: Literal["stable", "canary", "shadow"] | None = None
    by: str = ""
    at: str = ""
    reason: str = ""
    forced: str | None = None

    @property
    def moved_current(self) -> bool:
        return self.what in ("promoted", "rolled-back") or (self.what == "published" and self.label == "stable")


def event_names(files: RegistryFiles, scenario: str) -> list[str]:
    """Names of the events' files, oldest first."""
    names = files.names(events_dir(scenario))
    return [name for name in names if re.fullmatch(rf"{VERSION_PATTERN}\.json", name)]


def record(files: RegistryFiles, scenario: str, event: Event) -> None:
    """Writes an event, signed and dated. Its name sorts after those of all before it; call with the scenario locked."""
    moment = moment_after(event_names(files, scenario)[-1:])
    signed = event.model_copy(update={"by": user_name(), "at": moment.isoformat(timespec="milliseconds")})
    files.write_json(f"{events_dir(scenario)}/{stamp(moment, uuid.uuid4().hex[:8])}.json", signed)


def read_events(files: RegistryFiles, scenario: str, newest: int | None = None) -> list[Event]:
    """The events of a scenario, oldest first; with `newest` only so many of the last ones."""
    names = event_names(files, scenario)
    names = names[-newest:] if newest else names
    read = [files.read_json(f"{events_dir(scenario)}/{name}", Event) for name in names]
    return [event for event in read if event is not None]  # None: `gc` was faster


def user_name() -> str:
    """Who does this, for lineage and events."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a user id without a name
        return "unknown"
