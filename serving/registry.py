"""The registry: template binaries and snapshots, in a local folder or behind any fsspec URL.

    <root>/templates/<name>/<abi_hash>/<target>/{manifest.json, model.pt2, model.onnx}
    <root>/scenarios/<scenario>/versions/<version>/{manifest.json, manifest.sha256, weights.safetensors}
    <root>/scenarios/<scenario>/current        "<version>\\n": the label `stable`
    <root>/scenarios/<scenario>/next           "<version> <folder>\\n", while a version is published: where in versions/
                                               its files lie, so that a server can load them before it is `current`
    <root>/scenarios/<scenario>/labels/        canary and shadow: labels.py
    <root>/scenarios/<scenario>/pins/          what gc must keep: labels.py
    <root>/scenarios/<scenario>/events/        what was done, when and by whom: events.py

A version is immutable and complete: it appears all at once, with its checksums. Every publication makes a new version,
also of weights that were published before (the manifest's `lineage.parent` and checksums tell): a version names a
publication, so that going back to old weights is an event like any other.

Changes of one scenario on one local registry are ordered by a lock: versions increase, and `current` is the newest. On
object stores, which have no lock, both of two simultaneous publications stand and the last to end is current. Readers
take no lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import ValidationError

from smt.serving.binaries import Binaries
from smt.serving.events import Event, event_names, record
from smt.serving.labels import LabelName, checked_percent, labelled, write_label
from smt.serving.manifest import NAME_PATTERN, VERSION_PATTERN, SnapshotManifest
from smt.serving.places import (
    CHECKSUM,
    MANIFEST,
    RegistryError,
    current_file,
    moment_after,
    next_file,
    scenario_dir,
    stamp,
    version_dir,
    versions_dir,
)
from smt.serving.registry_files import first_mistake, to_json
from smt.serving.storage import Content, describe

__all__ = ["CHECKSUM", "MANIFEST", "Registry", "RegistryError"]

# Longer than any chain that is published; a longer one is damage (bases in a circle).
_MAX_CHAIN = 1000

_LOG = logging.getLogger(__name__)


class Registry(Binaries):
    """Reads and publishes; holds no state, so it may be shared and made anew at will.

    Every method raises RegistryError, and nothing else, for what it finds in the registry or cannot do to it.
    """

    def scenarios(self) -> list[str]:
        """Names of the scenarios with at least one complete version."""
        names = self.names("scenarios")
        return [name for name in names if re.fullmatch(NAME_PATTERN, name) and self.versions(name)]

    def versions(self, scenario: str) -> list[str]:
        """Complete versions, oldest first; what a killed publication left behind is none."""
        folder = versions_dir(scenario)
        found = [name for name in self.names(folder) if re.fullmatch(VERSION_PATTERN, name)]
        return [name for name in found if CHECKSUM in self.names(f"{folder}/{name}")]

    def current(self, scenario: str) -> str | None:
        """The version that `current` names; None when nothing was published."""
        path = current_file(scenario)
        try:
            version = self.read(path).decode("utf-8", "replace").strip()
        except RegistryError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise
        if re.fullmatch(VERSION_PATTERN, version) is None:
            raise RegistryError(f"{self.full(path)}: found {version!r}; expected a version")
        return version

    def replaceable(self, scenario: str) -> str | None:
        """The version that `current` names, before another takes its place; None, and a warning, for a damaged one.

        What repairs a pointer must not fail on its being broken.
        """
        try:
            return self.current(scenario)
        except RegistryError as error:
            _LOG.warning("%s; taken as none", error)
            return None

    def set_current(
        self,
        scenario: str,
        version: str,
        *,
        what: Literal["promoted", "rolled-back"] = "promoted",
        reason: str = "",
    ) -> SnapshotManifest:
        """Makes a published version current; verifies all of its files, and of what it is built on, first."""
        chain = self._verified(scenario, version)
        folder = scenario_dir(scenario)
        with self.access(current_file(scenario)), self.storage.lock(folder):
            self._expect_there(chain)
            before = self.replaceable(scenario)
            if before != version:
                record(self, scenario, Event(what=what, version=version, previous=before, reason=reason))
                self.storage.replace_text(current_file(scenario), version + "\n")
        return chain[0]

    def set_label(
        self, scenario: str, name: LabelName, version: str, percent: float | None = None, reason: str = ""
    ) -> SnapshotManifest:
        """Makes a published version the canary or the shadow; verifies it as `set_current` does.

        Args:
            percent: share of the traffic, 0 < percent <= 100; default: labels.DEFAULT_PERCENT.
        """
        checked_percent(name, percent)
        chain = self._verified(scenario, version)
        folder = scenario_dir(scenario)
        with self.access(folder), self.storage.lock(folder):
            self._expect_there(chain)
            before = labelled(self, scenario, name)
            record(self, scenario, Event(what=name, version=version, previous=before, reason=reason))
            write_label(self, scenario, name, version, percent)
        return chain[0]

    def snapshot(self, scenario: str, version: str | None = None) -> SnapshotManifest:
        """The manifest of a version (default: current), its checksum verified."""
        version = version or self.current(scenario)
        if version is None:
            known = ", ".join(self.scenarios()) or "none"
            raise RegistryError(f"{self.root}: no snapshot of scenario {scenario!r}; there are: {known}")
        path = f"{version_dir(scenario, version)}/{MANIFEST}"
        content = self.read(path)
        expected = self.read(f"{version_dir(scenario, version)}/{CHECKSUM}").decode("ascii", "replace").strip()
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            raise RegistryError(f"{self.full(path)}: SHA-256 is {found}; {CHECKSUM} says {expected}")
        manifest = self.parse(path, content, SnapshotManifest)
        if (manifest.scenario, manifest.version) != (scenario, version):
            raise RegistryError(
                f"{self.full(path)}: is of {manifest.scenario}/{manifest.version}; its place says {scenario}/{version}"
            )
        return manifest

    def chain(self, scenario: str, version: str | None = None) -> list[SnapshotManifest]:
        """The manifests of a version (default: current) and of what it is built on, the full version last."""
        found = [self.snapshot(scenario, version)]
        while (base := found[-1].base) is not None:
            if len(found) > _MAX_CHAIN:
                raise RegistryError(f"{self.full(versions_dir(scenario))}/{found[0].version}: its chain has no end")
            try:
                found.append(self.snapshot(scenario, base))
            except RegistryError as error:
                raise RegistryError(f"{error}; version {found[-1].version} of {scenario!r} is built on it") from error
        return found

    def verify(self, scenario: str, version: str | None = None) -> SnapshotManifest:
        """Checks size and checksum of every file of a version (default: current), and of what it is built on.

        Returns the manifest of the version.
        """
        return self._verified(scenario, version)[0]

    def _verified(self, scenario: str, version: str | None) -> list[SnapshotManifest]:
        chain = self.chain(scenario, version)
        for manifest in chain:
            self.verify_files(version_dir(scenario, manifest.version), manifest)
        return chain

    def _expect_there(self, chain: list[SnapshotManifest]) -> None:
        """Raises RegistryError, with the lock held, if what was verified without it has been removed since."""
        for manifest in chain:
            self.read(f"{version_dir(manifest.scenario, manifest.version)}/{CHECKSUM}")

    def read_snapshot_file(self, manifest: SnapshotManifest, name: str) -> bytes:
        """Content of one file of a snapshot, its checksum verified."""
        return self.read_verified(version_dir(manifest.scenario, manifest.version), manifest, name)

    def publish_snapshot(
        self,
        draft: Mapping[str, Any],
        files: Mapping[str, Content],
        *,
        label: Literal["stable", "canary", "shadow"] = "stable",
        percent: float | None = None,
        reason: str = "",
        forced: str | None = None,
        replaces: str | None = None,
        approve: Callable[[], None] | None = None,
    ) -> SnapshotManifest:
        """Publishes a new version of a scenario and makes it current, or what `label` says instead.

        Args:
            draft: a SnapshotManifest's fields without `version` and `files`; of a delta with `format`, `base` and
                `chain`.
            files: name -> content, or the path of a file to copy.
            percent: of a canary or shadow, see set_label.
            reason, forced: go into the event; `forced` is why the publish gate was overridden.
            replaces: publish only if `current` names this version; default: whatever it names.
            approve: called when the files are written and nobody sees them yet; what it raises ends the publication.

        Returns:
            The manifest as published, with `lineage.parent` and `lineage.created` filled in.
        """
        scenario = str(draft.get("scenario"))
        folder = scenario_dir(scenario)
        if label != "stable":
            checked_percent(label, percent)
        with self.access(versions_dir(scenario)):
            stage = self.storage.stage(versions_dir(scenario))
            try:
                table = describe({name: stage.add(name, content) for name, content in files.items()})
                if approve is not None:
                    approve()
                with self.storage.lock(folder):
                    self._expect_current(scenario, replaces)
                    manifest = self._complete(dict(draft), table)
                    content = to_json(manifest)
                    stage.add(MANIFEST, content)
                    stage.add(CHECKSUM, f"{hashlib.sha256(content).hexdigest()}\n".encode())
                    coming = label == "stable"
                    with stage.announced(next_file(scenario), manifest.version) if coming else contextlib.nullcontext():
                        stage.commit(manifest.version)
                        version, parent = manifest.version, manifest.lineage["parent"]
                        previous = parent if label == "stable" else labelled(self, scenario, label)
                        event = Event(
                            what="published",
                            version=version,
                            previous=previous,
                            label=label,
                            reason=reason,
                            forced=forced,
                        )
                        record(self, scenario, event)
                        if label == "stable":
                            self.storage.replace_text(current_file(scenario), version + "\n")
                        else:
                            write_label(self, scenario, label, version, percent)
            finally:
                stage.discard()
        return manifest

    def _expect_current(self, scenario: str, version: str | None) -> None:
        """Raises RegistryError if another version than this one is current; None: any may be."""
        if version is not None and (current := self.current(scenario)) != version:
            raise RegistryError(
                f"{self.full(current_file(scenario))}: names {current}; expected {version}: it was changed meanwhile, "
                "and nothing was published"
            )

    def _complete(self, draft: dict[str, Any], files: dict[str, dict[str, Any]]) -> SnapshotManifest:
        scenario = draft["scenario"]
        # Events outlive the versions that gc removes, so that no name comes twice.
        moment = moment_after([*self.versions(scenario)[-1:], *event_names(self, scenario)[-1:]])
        lineage = {
            **draft.get("lineage", {}),
            "parent": self.replaceable(scenario),
            "created": moment.isoformat(timespec="milliseconds"),
        }
        fields = {**draft, "version": stamp(moment, uuid.uuid4().hex[:8]), "files": files, "lineage": lineage}
        try:
            manifest = SnapshotManifest(**fields)
        except ValidationError as error:
            raise RegistryError(f"snapshot of {scenario!r}: {first_mistake(error)}") from error
        if manifest.base is not None:
            base = self.snapshot(scenario, manifest.base)
            if manifest.chain != base.chain + 1:
                raise RegistryError(
                    f"snapshot of {scenario!r}: chain {manifest.chain}; expected {base.chain + 1}, since its base "
                    f"{base.version} has {base.chain}"
                )
        return manifest
