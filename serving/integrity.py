"""Whether a registry is intact: everything that is wrong with it, not only the first thing.

A registry's readers stop at what they cannot read, which is right for serving and useless for repair.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from smt.serving.labels import LABELS, read_label, read_pins
from smt.serving.manifest import NAME_PATTERN, VERSION_PATTERN, BinaryManifest
from smt.serving.places import current_file, label_file, pin_file, version_dir
from smt.serving.registry import CHECKSUM, MANIFEST, Registry, RegistryError


@dataclass
class Integrity:
    """What was found: snapshots and binaries whose every file matches its checksum, and faults, one line each."""

    intact: int = 0
    faults: list[str] = field(default_factory=list)

    def verify(self, check: Callable[..., object], *arguments: object) -> None:
        """Counts what passes a check, and keeps what the check says of what does not."""
        try:
            check(*arguments)
            self.intact += 1
        except RegistryError as error:
            self.faults.append(str(error))


def check_registry(registry: Registry) -> Integrity:
    """Looks at every scenario, version, pointer and binary. Hidden entries (leftovers, locks) are no faults."""
    found = Integrity()
    for scenario in _entries(registry, "scenarios", NAME_PATTERN, "a scenario's name", found):
        _check_versions(registry, scenario, found)
        found.faults += pointer_faults(registry, scenario)
    for place, manifest in read_binaries(registry, found):
        if manifest is None:
            found.faults.append(f"{registry.root}/{place}: no {MANIFEST}; expected a compiled template")
        else:
            found.verify(registry.verify_binary, manifest)
    return found


def pointer_faults(registry: Registry, scenario: str) -> list[str]:
    """What is wrong with what names versions of a scenario: `current`, labels, pins."""
    versions = registry.versions(scenario)
    faults: list[str] = []
    labels: dict[str, str] = {}
    for name in LABELS:
        try:
            label = read_label(registry, scenario, name)
            if label is not None:
                labels[label_file(scenario, name)] = label.version
        except RegistryError as error:
            faults.append(str(error))
    named = labels | {pin_file(scenario, version): version for version in read_pins(registry, scenario)}
    try:
        current = registry.current(scenario)
        if current is not None:
            named[current_file(scenario)] = current
        elif set(versions) - set(labels.values()):
            faults.append(
                f"{registry.full(current_file(scenario))}: no such file, though there are versions; `smt registry "
                f"promote {scenario} VERSION` makes one current"
            )
    except RegistryError as error:
        faults.append(str(error))
    faults += [
        f"{registry.full(path)}: names {version}, which is not there or not complete"
        for path, version in named.items()
        if version not in versions
    ]
    return faults


def read_binaries(registry: Registry, found: Integrity) -> list[tuple[str, BinaryManifest | None]]:
    """Place and manifest (None: it has none) of every template binary; those that cannot be read are faults."""
    read: list[tuple[str, BinaryManifest | None]] = []
    for template in _entries(registry, "templates", NAME_PATTERN, "a template's name", found):
        for abi_hash in _entries(registry, f"templates/{template}", NAME_PATTERN, "an ABI hash", found):
            place = f"templates/{template}/{abi_hash}"
            for target in _entries(registry, place, NAME_PATTERN, "a target", found):
                try:
                    read.append((f"{place}/{target}", registry.binary(template, abi_hash, target)))
                except RegistryError as error:
                    found.faults.append(str(error))
    return read


def _check_versions(registry: Registry, scenario: str, found: Integrity) -> None:
    folder = f"scenarios/{scenario}/versions"
    complete = set(registry.versions(scenario))
    for version in _entries(registry, folder, VERSION_PATTERN, "a version", found):
        if version not in complete:
            found.faults.append(f"{registry.root}/{folder}/{version}: no {CHECKSUM}; expected a complete version")
        else:
            found.verify(_check_version, registry, scenario, version)


def _check_version(registry: Registry, scenario: str, version: str) -> None:
    """Its own files, and that what it is built on is there: the files of that are checked in their turn."""
    registry.verify_files(version_dir(scenario, version), registry.chain(scenario, version)[0], thorough=True)


def _entries(registry: Registry, folder: str, pattern: str, expected: str, found: Integrity) -> list[str]:
    fitting = []
    for name in registry.names(folder):
        if name.startswith("."):
            continue
        if re.fullmatch(pattern, name):
            fitting.append(name)
        else:
            found.faults.append(f"{registry.root}/{folder}/{name}: found {name!r}; expected {expected}")
    return fitting
