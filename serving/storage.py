"""Where a registry's files live: a local folder, or anything fsspec reaches. Policy-free; see registry.py.

What both kinds promise: a reader never sees half of a small file (`replace_text`), nor a folder that counts as
complete before all of its files are (`publish_dir`).

- Local: a folder is written aside, synced, and renamed into place; a file is replaced by a rename. A process killed
  in the middle leaves a `.tmp-*` folder behind, which readers skip and a later publication removes.
- Remote (object stores, memory://): there is no rename of a folder, but the write of one object is atomic. So the
  files are written in the order given, and the last of them is the marker that readers look for.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import fsspec

TEMP_PREFIX = ".tmp-"
# A publication takes minutes at most; what is older was left by a process that died.
STALE_SECONDS = 24 * 3600.0
_CHUNK = 1 << 20

Content = bytes | Path

_LOG = logging.getLogger(__name__)


class Storage(Protocol):
    """Paths are relative to the root, with forward slashes. Raises OSError (FileNotFoundError) as open() does."""

    root: str

    def read(self, path: str) -> bytes: ...

    def sha256(self, path: str) -> tuple[int, str]: ...

    def names(self, path: str) -> list[str]: ...

    def replace_text(self, path: str, text: str) -> None: ...

    def remove(self, path: str) -> None: ...

    def stage(self, parent: str) -> Stage: ...

    def lock(self, path: str) -> contextlib.AbstractContextManager[None]: ...

    def local_path(self, path: str) -> Path | None: ...


class Stage(Protocol):
    """A folder being written. `add` files, then `commit(name)` makes them visible as `parent`/`name` all at once."""

    def add(self, name: str, content: Content) -> tuple[int, str]: ...

    def commit(self, name: str, *, replace: bool = False) -> None: ...

    def discard(self) -> None: ...


def open_storage(url: str) -> Storage:
    """Opens a path or an fsspec URL. Raises ValueError for an unknown protocol, ImportError for a missing driver."""
    filesystem, path = fsspec.core.url_to_fs(url)
    if "file" in ((filesystem.protocol,) if isinstance(filesystem.protocol, str) else filesystem.protocol):
        return LocalStorage(Path(path))
    return RemoteStorage(filesystem, path)


def _chunks(content: Content) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _fsync_dir(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class LocalStorage:
    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self._root = root

    def read(self, path: str) -> bytes:
        return (self._root / path).read_bytes()

    def sha256(self, path: str) -> tuple[int, str]:
        with (self._root / path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
            return os.fstat(file.fileno()).st_size, digest.hexdigest()

    def names(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(self._root / path))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def replace_text(self, path: str, text: str) -> None:
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f"{TEMP_PREFIX}{uuid.uuid4().hex}"
        try:
            with temporary.open("x") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            if target.is_dir() and not target.is_symlink():
                # Never made by us, so it is damage, but somebody's: moved aside rather than removed.
                aside = target.parent / f"{TEMP_PREFIX}{uuid.uuid4().hex}"
                target.rename(aside)
                _LOG.warning("%s: found a folder, expected a file; moved to %s", target, aside.name)
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _fsync_dir(target.parent)

    def remove(self, path: str) -> None:
        """Removes a file, if it is there."""
        target = self._root / path
        if target.exists():
            target.unlink(missing_ok=True)
            _fsync_dir(target.parent)

    def stage(self, parent: str) -> LocalStage:
        folder = self._root / parent
        folder.mkdir(parents=True, exist_ok=True)
        return LocalStage(folder)

    @contextlib.contextmanager
    def lock(self, path: str) -> Iterator[None]:
        """Keeps other publishers out of `path` (a folder), also other processes'; released when a process dies."""
        folder = self._root / path
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def local_path(self, path: str) -> Path | None:
        return self._root / path


class LocalStage:
    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._folder = parent / f"{TEMP_PREFIX}{uuid.uuid4().hex}"
        self._folder.mkdir()

    def add(self, name: str, content: Content) -> tuple[int, str]:
        digest, size = hashlib.sha256(), 0
        with (self._folder / name).open("xb") as file:
            for chunk in _chunks(content):
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            file.flush()
            os.fsync(file.fileno())
        return size, digest.hexdigest()

    def commit(self, name: str, *, replace: bool = False) -> None:
        """Call with the parent's lock held: the old folder is moved aside before the new one takes its place."""
        _fsync_dir(self._folder)
        target = self._parent / name
        old = self._parent / f"{TEMP_PREFIX}{uuid.uuid4().hex}"
        if replace and target.exists():
            target.rename(old)
        self._folder.rename(target)
        _fsync_dir(self._parent)
        shutil.rmtree(old, ignore_errors=True)
        self._remove_stale()

    def discard(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _remove_stale(self) -> None:
        for leftover in self._parent.glob(f"{TEMP_PREFIX}*"):
            with contextlib.suppress(FileNotFoundError):  # another publisher may be just done with it
                if time.time() - leftover.stat().st_mtime > STALE_SECONDS:
                    shutil.rmtree(leftover, ignore_errors=True)


class RemoteStorage:
    def __init__(self, filesystem: Any, root: str) -> None:
        self.root = filesystem.unstrip_protocol(root)
        self._fs = filesystem
        self._root = root.rstrip("/")

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def read(self, path: str) -> bytes:
        content: bytes = self._fs.cat_file(self._path(path))
        return content

    def sha256(self, path: str) -> tuple[int, str]:
        digest, size = hashlib.sha256(), 0
        with self._fs.open(self._path(path), "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
        return size, digest.hexdigest()

    def names(self, path: str) -> list[str]:
        self._fs.invalidate_cache(self._path(path))
        try:
            entries = self._fs.ls(self._path(path), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted({str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in entries})

    def replace_text(self, path: str, text: str) -> None:
        self._fs.pipe_file(self._path(path), text.encode())

    def remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(path))

    def stage(self, parent: str) -> RemoteStage:
        return RemoteStage(self._fs, self._path(parent))

    @contextlib.contextmanager
    def lock(self, path: str) -> Iterator[None]:
        """Object stores have no locks: of two publications at once both stand, and the last to end is current."""
        yield

    def local_path(self, path: str) -> Path | None:
        return None


class RemoteStage:
    def __init__(self, filesystem: Any, parent: str) -> None:
        self._fs = filesystem
        self._parent = parent
        self._contents: dict[str, Content] = {}

    def add(self, name: str, content: Content) -> tuple[int, str]:
        digest, size = hashlib.sha256(), 0
        for chunk in _chunks(content):
            digest.update(chunk)
            size += len(chunk)
        self._contents[name] = content
        return size, digest.hexdigest()

    def commit(self, name: str, *, replace: bool = False) -> None:
        folder = f"{self._parent}/{name}"
        self._fs.makedirs(folder, exist_ok=True)
        for file_name, content in self._contents.items():
            # Path contents are streamed; bytes are one put.
            if isinstance(content, Path):
                self._fs.put_file(str(content), f"{folder}/{file_name}")
            else:
                self._fs.pipe_file(f"{folder}/{file_name}", content)

    def discard(self) -> None:
        self._contents.clear()


def describe(files: Mapping[str, tuple[int, str]]) -> dict[str, dict[str, Any]]:
    """The `files` table of a manifest."""
    return {name: {"bytes": size, "sha256": digest} for name, (size, digest) in files.items()}
