"""The registry: template binaries and snapshots, in a local folder or behind any fsspec URL.

    <root>/templates/<name>/<abi_hash>/<target>/{manifest.json, model.pt2, model.onnx}
    <root>/scenarios/<scenario>/versions/<version>/{manifest.json, manifest.sha256, weights.safetensors}
    <root>/scenarios/<scenario>/current        "<version>\\n"

A version is immutable and complete: it appears all at once, with its checksums. `current` alone changes. Every
publication makes a new version, also of weights that were published before (the manifest's `lineage.parent` and
checksums tell): a version names a publication, so that going back to old weights is an event like any other.

Publications of one scenario on one local registry are ordered by a lock: versions increase, and `current` is the
newest. On object stores, which have no lock, both of two simultaneous publications stand and the last to end is
current. Readers take no lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from smt.serving.manifest import (
    NAME_PATTERN,
    VERSION_PATTERN,
    BinaryManifest,
    SnapshotManifest,
)
from smt.serving.storage import Content, Storage, describe, open_storage

MANIFEST = "manifest.json"
CHECKSUM = "manifest.sha256"

_LOG = logging.getLogger(__name__)
_Model = TypeVar("_Model", bound=BaseModel)


class RegistryError(RuntimeError):
    """Something in the registry is missing, damaged or not allowed; the message names the file and the reason."""


class Registry:
    """Reads and publishes; holds no state, so it may be shared and made anew at will.

    Every method raises RegistryError, and nothing else, for what it finds in the registry or cannot do to it.
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        try:
            self._storage: Storage = open_storage(os.fspath(url))
        except (ValueError, ImportError) as error:
            raise RegistryError(f"{os.fspath(url)}: not a registry that can be opened: {error}") from error

    @property
    def root(self) -> str:
        return self._storage.root

    @property
    def local_root(self) -> Path | None:
        """The folder, when the registry is local."""
        return self._storage.local_path("")

    def __repr__(self) -> str:
        return f"Registry({self.root!r})"

    def names(self, folder: str) -> list[str]:
        """What lies in a folder of the registry; nothing if there is no such folder."""
        with self._access(folder):
            return self._storage.names(folder)

    # Snapshots

    def scenarios(self) -> list[str]:
        """Names of the scenarios with at least one complete version."""
        with self._access("scenarios"):
            names = self._storage.names("scenarios")
        return [name for name in names if re.fullmatch(NAME_PATTERN, name) and self.versions(name)]

    def versions(self, scenario: str) -> list[str]:
        """Complete versions, oldest first; what a killed publication left behind is none."""
        folder = f"{_scenario_dir(scenario)}/versions"
        with self._access(folder):
            found = [name for name in self._storage.names(folder) if re.fullmatch(VERSION_PATTERN, name)]
            return [name for name in found if CHECKSUM in self._storage.names(f"{folder}/{name}")]

    def current(self, scenario: str) -> str | None:
        """The version that `current` names; None when nothing was published."""
        path = f"{_scenario_dir(scenario)}/current"
        try:
            version = self._read(path).decode("utf-8", "replace").strip()
        except RegistryError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise
        if re.fullmatch(VERSION_PATTERN, version) is None:
            raise RegistryError(f"{self._full(path)}: found {version!r}; expected a version")
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

    def set_current(self, scenario: str, version: str) -> SnapshotManifest:
        """Makes a published version current (to go back to it); verifies all of its files first."""
        manifest = self.verify(scenario, version)
        folder = _scenario_dir(scenario)
        with self._access(f"{folder}/current"), self._storage.lock(folder):
            self._storage.replace_text(f"{folder}/current", version + "\n")
        return manifest

    def snapshot(self, scenario: str, version: str | None = None) -> SnapshotManifest:
        """The manifest of a version (default: current), its checksum verified."""
        version = version or self.current(scenario)
        if version is None:
            known = ", ".join(self.scenarios()) or "none"
            raise RegistryError(f"{self.root}: no snapshot of scenario {scenario!r}; there are: {known}")
        path = f"{_version_dir(scenario, version)}/{MANIFEST}"
        content = self._read(path)
        expected = self._read(f"{_version_dir(scenario, version)}/{CHECKSUM}").decode("ascii", "replace").strip()
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            raise RegistryError(f"{self._full(path)}: SHA-256 is {found}; {CHECKSUM} says {expected}")
        manifest = self._parse(path, content, SnapshotManifest)
        if (manifest.scenario, manifest.version) != (scenario, version):
            raise RegistryError(
                f"{self._full(path)}: is of {manifest.scenario}/{manifest.version}; its place says {scenario}/{version}"
            )
        return manifest

    def verify(self, scenario: str, version: str | None = None) -> SnapshotManifest:
        """Checks size and SHA-256 of every file of a version (default: current) and returns its manifest."""
        manifest = self.snapshot(scenario, version)
        self._verify_files(_version_dir(scenario, manifest.version), manifest)
        return manifest

    def read_snapshot_file(self, manifest: SnapshotManifest, name: str) -> bytes:
        """Content of one file of a snapshot, its checksum verified."""
        path = f"{_version_dir(manifest.scenario, manifest.version)}/{name}"
        content = self._read(path)
        self._check(path, manifest, name, (len(content), hashlib.sha256(content).hexdigest()))
        return content

    def publish_snapshot(self, draft: Mapping[str, Any], files: Mapping[str, Content]) -> SnapshotManifest:
        """Publishes a new version of a scenario and makes it current.

        Args:
            draft: a SnapshotManifest's fields without `version` and `files`.
            files: name -> content, or the path of a file to copy.

        Returns:
            The manifest as published, with `lineage.parent` and `lineage.created` filled in.
        """
        scenario = str(draft.get("scenario"))
        folder = _scenario_dir(scenario)
        with self._access(f"{folder}/versions"):
            stage = self._storage.stage(f"{folder}/versions")
            try:
                table = describe({name: stage.add(name, content) for name, content in files.items()})
                with self._storage.lock(folder):
                    manifest = self._complete(dict(draft), table)
                    content = _to_json(manifest)
                    stage.add(MANIFEST, content)
                    stage.add(CHECKSUM, f"{hashlib.sha256(content).hexdigest()}\n".encode())
                    stage.commit(manifest.version)
                    self._storage.replace_text(f"{folder}/current", manifest.version + "\n")
            finally:
                stage.discard()
        return manifest

    def _complete(self, draft: dict[str, Any], files: dict[str, dict[str, Any]]) -> SnapshotManifest:
        content = hashlib.sha256(json.dumps([draft, files], sort_keys=True, default=str).encode()).hexdigest()
        scenario = draft["scenario"]
        now = datetime.now(UTC)
        published = self.versions(scenario)
        if published:
            # Later than every version there is, whatever the clock did: the order of names is that of publication.
            newest = datetime.strptime(published[-1][:19] + "000", "%Y%m%d-%H%M%S-%f").replace(tzinfo=UTC)
            now = max(now, newest + timedelta(milliseconds=1))
        version = f"{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03d}-{content[:8]}"
        lineage = {
            **draft.get("lineage", {}),
            "parent": self.replaceable(scenario),
            "created": now.isoformat(timespec="milliseconds"),
        }
        try:
            return SnapshotManifest(**{**draft, "version": version, "files": files, "lineage": lineage})
        except ValidationError as error:
            raise RegistryError(f"snapshot of {scenario!r}: {_first(error)}") from error

    # Template binaries

    def binaries(self) -> list[BinaryManifest]:
        """Every template binary there is."""
        places = []
        with self._access("templates"):
            for template in self._storage.names("templates"):
                for abi_hash in self._storage.names(f"templates/{template}"):
                    for target in self._storage.names(f"templates/{template}/{abi_hash}"):
                        places.append((template, abi_hash, target))
        places = [place for place in places if all(re.fullmatch(NAME_PATTERN, part) for part in place)]
        return [manifest for place in places if (manifest := self.binary(*place)) is not None]

    def binary(self, template: str, abi_hash: str, target: str) -> BinaryManifest | None:
        """The manifest of a template binary; None when it was not compiled."""
        folder = _binary_dir(template, abi_hash, target)
        path = f"{folder}/{MANIFEST}"
        with self._access(folder):
            if MANIFEST not in self._storage.names(folder):
                return None
        manifest = self._parse(path, self._read(path), BinaryManifest)
        if (manifest.template.name, manifest.abi_hash, manifest.target) != (template, abi_hash, target):
            raise RegistryError(
                f"{self._full(path)}: is of {manifest.template.name}/{manifest.abi_hash}/{manifest.target}; "
                "its place says otherwise"
            )
        return manifest

    def publish_binary(self, draft: Mapping[str, Any], files: Mapping[str, Content]) -> BinaryManifest:
        """Publishes a template binary, in place of one of the same template, ABI and target.

        Args:
            draft: a BinaryManifest's fields without `files`.
            files: name -> content, or the path of a file to copy.
        """
        template, abi_hash, target = str(draft["template"]["name"]), str(draft["abi_hash"]), str(draft["target"])
        folder = _binary_dir(template, abi_hash, target)
        parent = folder.rsplit("/", 1)[0]
        with self._access(parent):
            stage = self._storage.stage(parent)
            try:
                table = describe({name: stage.add(name, content) for name, content in files.items()})
                try:
                    manifest = BinaryManifest(**{**draft, "files": table})
                except ValidationError as error:
                    raise RegistryError(f"template binary of {template!r}: {_first(error)}") from error
                stage.add(MANIFEST, _to_json(manifest))
                with self._storage.lock(parent):
                    stage.commit(target, replace=True)
            finally:
                stage.discard()
        return manifest

    def fetch_binary_file(self, manifest: BinaryManifest, name: str, cache: Path) -> Path:
        """A local path of one file of a binary, verified; a remote registry's file is copied into `cache`."""
        path = f"{_binary_dir(manifest.template.name, manifest.abi_hash, manifest.target)}/{name}"
        with self._access(path):
            self._check(path, manifest, name, self._storage.sha256(path))
        local = self._storage.local_path(path)
        if local is not None:
            return local
        content = self._read(path)
        self._check(path, manifest, name, (len(content), hashlib.sha256(content).hexdigest()))
        cache.mkdir(parents=True, exist_ok=True)
        (cache / name).write_bytes(content)
        return cache / name

    def verify_binary(self, manifest: BinaryManifest) -> None:
        """Checks size and SHA-256 of every file of a binary."""
        self._verify_files(_binary_dir(manifest.template.name, manifest.abi_hash, manifest.target), manifest)

    # Parts

    def _verify_files(self, folder: str, manifest: SnapshotManifest | BinaryManifest) -> None:
        for name in manifest.files:
            path = f"{folder}/{name}"
            with self._access(path):
                self._check(path, manifest, name, self._storage.sha256(path))

    def _check(self, path: str, manifest: SnapshotManifest | BinaryManifest, name: str, found: tuple[int, str]) -> None:
        entry = manifest.files.get(name)
        if entry is None:
            raise RegistryError(f"{self._full(path)}: the manifest has no file {name!r}")
        if found[0] != entry.bytes:
            raise RegistryError(f"{self._full(path)}: {found[0]} bytes; the manifest says {entry.bytes}")
        if found[1] != entry.sha256:
            raise RegistryError(f"{self._full(path)}: SHA-256 is {found[1]}; the manifest says {entry.sha256}")

    def _parse(self, path: str, content: bytes, model: type[_Model]) -> _Model:
        try:
            return model.model_validate_json(content)
        except ValidationError as error:
            raise RegistryError(f"{self._full(path)}: {_first(error)}") from error

    def _read(self, path: str) -> bytes:
        with self._access(path):
            return self._storage.read(path)

    @contextlib.contextmanager
    def _access(self, path: str) -> Iterator[None]:
        """Turns what the file system raises into a RegistryError that names the file."""
        try:
            yield
        except FileNotFoundError as error:
            raise RegistryError(f"{error.filename or self._full(path)}: no such file") from error
        except OSError as error:
            raise RegistryError(f"{error.filename or self._full(path)}: {error.strerror or error}") from error

    def _full(self, path: str) -> str:
        return f"{self.root.rstrip('/')}/{path}"


def _name(value: str, what: str) -> str:
    if re.fullmatch(NAME_PATTERN, value) is None:
        raise RegistryError(f"{what} {value!r}: expected 1 to 64 of the characters a-z, 0-9, '_' and '-'")
    return value


def _scenario_dir(scenario: str) -> str:
    return f"scenarios/{_name(scenario, 'scenario')}"


def _version_dir(scenario: str, version: str) -> str:
    if re.fullmatch(VERSION_PATTERN, version) is None:
        raise RegistryError(f"version {version!r}: expected YYYYMMDD-HHMMSS-mmm-<8 hex digits>")
    return f"{_scenario_dir(scenario)}/versions/{version}"


def _binary_dir(template: str, abi_hash: str, target: str) -> str:
    return f"templates/{_name(template, 'template')}/{_name(abi_hash, 'ABI hash')}/{_name(target, 'target')}"


def _to_json(manifest: BaseModel) -> bytes:
    return (manifest.model_dump_json(indent=1) + "\n").encode()


def _first(error: ValidationError) -> str:
    """The first of pydantic's complaints on one line."""
    detail = error.errors()[0]
    where = ".".join(str(part) for part in detail["loc"])
    return f"{where + ': ' if where else ''}{detail['msg']}"
