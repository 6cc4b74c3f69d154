"""Reading and checking the files of a registry: what snapshots, binaries, labels and events share."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from smt.serving.digests import Algorithm, digest_of
from smt.serving.manifest import BinaryManifest, FileEntry, SnapshotManifest
from smt.serving.places import RegistryError
from smt.serving.storage import Storage, open_storage

_Model = TypeVar("_Model", bound=BaseModel)


class RegistryFiles:
    """Holds no state but where the registry is. Raises RegistryError, and nothing else, for what it finds."""

    def __init__(self, url: str | os.PathLike[str]) -> None:
        try:
            self.storage: Storage = open_storage(os.fspath(url))
        except (ValueError, ImportError) as error:
            raise RegistryError(f"{os.fspath(url)}: not a registry that can be opened: {error}") from error

    @property
    def root(self) -> str:
        return self.storage.root

    @property
    def local_root(self) -> Path | None:
        """The folder, when the registry is local."""
        return self.storage.local_path("")

    def __repr__(self) -> str:
        return f"Registry({self.root!r})"

    def names(self, folder: str) -> list[str]:
        """What lies in a folder of the registry; nothing if there is no such folder."""
        with self.access(folder):
            return self.storage.names(folder)

    def read(self, path: str) -> bytes:
        with self.access(path):
            return self.storage.read(path)

    def read_json(self, path: str, model: type[_Model]) -> _Model | None:
        """A small JSON file; None if there is none."""
        try:
            return self.parse(path, self.read(path), model)
        except RegistryError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def parse(self, path: str, content: bytes, model: type[_Model]) -> _Model:
        try:
            return model.model_validate_json(content)
        except ValidationError as error:
            raise RegistryError(f"{self.full(path)}: {first_mistake(error)}") from error

    def write_json(self, path: str, value: BaseModel) -> None:
        """Replaces a small file as a whole."""
        with self.access(path):
            self.storage.replace_text(path, to_json(value).decode())

    @contextlib.contextmanager
    def access(self, path: str) -> Iterator[None]:
        """Turns what the file system raises into a RegistryError that names the file."""
        try:
            yield
        except FileNotFoundError as error:
            raise RegistryError(f"{error.filename or self.full(path)}: no such file") from error
        except OSError as error:
            fix = "; `smt registry gc` removes old versions" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            raise RegistryError(f"{error.filename or self.full(path)}: {error.strerror or error}{fix}") from error

    def full(self, path: str) -> str:
        return f"{self.root.rstrip('/')}/{path}"

    def verify_files(self, folder: str, manifest: SnapshotManifest | BinaryManifest, *, thorough: bool = False) -> None:
        """Checks size and checksum of every file that a manifest lists; if `thorough`, all checksums."""
        for name, entry in manifest.files.items():
            path = f"{folder}/{name}"
            for algorithm in entry.algorithms if thorough else entry.algorithms[:1]:
                with self.access(path):
                    found = self.storage.digest(path, algorithm)
                self._check_sum(path, entry, algorithm, found)

    def read_verified(self, folder: str, manifest: SnapshotManifest | BinaryManifest, name: str) -> bytes:
        """Content of one file that a manifest lists. Raises RegistryError unless size and checksum are as it says."""
        path = f"{folder}/{name}"
        entry = manifest.files.get(name)
        if entry is None:
            raise RegistryError(f"{self.full(path)}: the manifest has no file {name!r}")
        content = self.read(path)
        algorithm = entry.algorithms[0]
        self._check_sum(path, entry, algorithm, (len(content), digest_of(content, algorithm)))
        return content

    def _check_sum(self, path: str, entry: FileEntry, algorithm: Algorithm, found: tuple[int, str]) -> None:
        """Raises RegistryError unless size in bytes and digest are those of the manifest's entry."""
        size, digest = found
        expected = getattr(entry, algorithm)
        if size != entry.bytes:
            raise RegistryError(f"{self.full(path)}: {size} bytes; the manifest says {entry.bytes}")
        if digest != expected:
            raise RegistryError(f"{self.full(path)}: {algorithm} is {digest}; the manifest says {expected}")


def to_json(value: BaseModel) -> bytes:
    return (value.model_dump_json(indent=1) + "\n").encode()


def first_mistake(error: ValidationError) -> str:
    """The first of pydantic's complaints on one line."""
    detail = error.errors()[0]
    where = ".".join(str(part) for part in detail["loc"])
    return f"{where + ': ' if where else ''}{detail['msg']}"
