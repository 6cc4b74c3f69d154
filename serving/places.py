"""Where things lie in a registry, and what its names may be. registry.py has the picture."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from smt.serving.manifest import NAME_PATTERN, VERSION_PATTERN

MANIFEST = "manifest.json"
CHECKSUM = "manifest.sha256"


class RegistryError(RuntimeError):
    """Something in the registry is missing, damaged or not allowed; the message names the file and the reason."""


def scenario_dir(scenario: str) -> str:
    return f"scenarios/{_name(scenario, 'scenario')}"


def versions_dir(scenario: str) -> str:
    return f"{scenario_dir(scenario)}/versions"


def version_dir(scenario: str, version: str) -> str:
    return f"{versions_dir(scenario)}/{checked_version(version)}"


def current_file(scenario: str) -> str:
    return f"{scenario_dir(scenario)}/current"


def next_file(scenario: str) -> str:
    return f"{scenario_dir(scenario)}/next"


def label_file(scenario: str, label: str) -> str:
    return f"{scenario_dir(scenario)}/labels/{_name(label, 'label')}"


def pins_dir(scenario: str) -> str:
    return f"{scenario_dir(scenario)}/pins"


def pin_file(scenario: str, version: str) -> str:
    return f"{pins_dir(scenario)}/{checked_version(version)}"


def events_dir(scenario: str) -> str:
    return f"{scenario_dir(scenario)}/events"


def binary_dir(template: str, abi_hash: str, target: str) -> str:
    return f"templates/{_name(template, 'template')}/{_name(abi_hash, 'ABI hash')}/{_name(target, 'target')}"


def checked_version(version: str) -> str:
    """Raises RegistryError for what cannot be a version."""
    if re.fullmatch(VERSION_PATTERN, version) is None:
        raise RegistryError(f"version {version!r}: expected YYYYMMDD-HHMMSS-mmm-<8 hex digits>")
    return version


def _name(value: str, what: str) -> str:
    if re.fullmatch(NAME_PATTERN, value) is None:
        raise RegistryError(f"{what} {value!r}: expected 1 to 64 of the characters a-z, 0-9, '_' and '-'")
    return value


def moment_of(stamped: str) -> datetime:
    """When a version or event was made, UTC, by its name. Raises ValueError for a name that holds no time."""
    return datetime.strptime(stamped[:19] + "000", "%Y%m%d-%H%M%S-%f").replace(tzinfo=UTC)


def moment_after(stamped: Iterable[str]) -> datetime:
    """Now, UTC; but later than every version or event given, whatever the clock did: names sort as things happened."""
    now = datetime.now(UTC)
    newest = max(stamped, default=None)
    return now if newest is None else max(now, moment_of(newest) + timedelta(milliseconds=1))


def stamp(moment: datetime, suffix: str) -> str:
    """The name of what was made then; `suffix`, 8 hex digits, tells simultaneous ones apart."""
    return f"{moment:%Y%m%d-%H%M%S}-{moment.microsecond // 1000:03d}-{suffix}"
