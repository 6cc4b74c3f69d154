"""Where a registry's files live: a local folder, or anything fsspec reaches. Policy-free; see registry.py.

What both kinds promise: a reader never sees half of a small file (`replace_text`), nor a folder that counts as
complete before all of its files are (`stage`), nor one that does while its files go (`remove_folder`).

- Local: a folder is written aside, synced, and renamed into place; a file is replaced by a rename. A folder is
  removed under another name. A process killed in the middle leaves a `.tmp-*` or `.trash-*` behind, which readers skip
  and `sweep` removes.
- Remote (object stores, memory://): see remote_storage.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import io
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import fsspec

from smt.serving.digests import Algorithm, Digester, Digests, digest_of_file

TEMP_PREFIX = ".tmp-"
TRASH_PREFIX = ".trash-"
# A publication takes minutes at most; what is older was left by a process that died.
STALE_SECONDS = 24 * 3600.0
# Large enough to keep a disk busy while the next piece is on its way; a few of them are in memory at once.
CHUNK_BYTES = 8 << 20
# Of a large file, what is flushed at a time.
_FLUSH_BYTES = 16 << 20
# Files that the disk is asked for at once: what a version has, so that they share commits of the journal.
_SYNCS = 3

# Of a file: its bytes, its bytes in parts (what lies in several places is not copied together), or a file to copy.
Content = bytes | Sequence[memoryview] | Path

# Linux: asks the disk to begin with the dirty pages of a range, and waits for nothing; or until it has them, and for
# those that it was asked for before. Best effort.
_LIBC = ctypes.CDLL(None)
_LIBC.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
_SYNC_FILE_RANGE_WRITE = 2
_SYNC_FILE_RANGE_WAITED = 1 | 2 | 4

_LOG = logging.getLogger(__name__)


class Storage(Protocol):
    """Paths are relative to the root, with forward slashes. Raises OSError (FileNotFoundError) as open() does."""

    root: str

    def read(self, path: str) -> bytes: ...

    def pieces(self, path: str) -> Iterator[bytes | memoryview]: ...

    def digest(self, path: str, algorithm: Algorithm) -> tuple[int, str]: ...

    def names(self, path: str) -> list[str]: ...

    def replace_text(self, path: str, text: str) -> None: ...

    def remove(self, path: str) -> None: ...

    def remove_folder(self, path: str, marker: str) -> None: ...

    def sweep(self, path: str) -> list[str]: ...

    def modified(self, path: str) -> float | None: ...

    def stage(self, parent: str) -> Stage: ...

    def lock(self, path: str) -> contextlib.AbstractContextManager[None]: ...

    def local_path(self, path: str) -> Path | None: ...


class Stage(Protocol):
    """A folder being written. `add` files, then `commit(name)` makes them durable, and visible as `parent`/`name` all
    at once. Between the two, `announced(path, name)` tells whoever watches the file `path` which `name` comes and where
    its files lie already, so that they can be read while the disk writes them; a hint, which nothing rests on.
    """

    def add(self, name: str, content: Content) -> Digests: ...

    def announced(self, path: str, name: str) -> contextlib.AbstractContextManager[None]: ...

    def commit(self, name: str, *, replace: bool = False) -> None: ...

    def discard(self) -> None: ...


def open_storage(url: str) -> Storage:
    """Opens a path or an fsspec URL. Raises ValueError for an unknown protocol, ImportError for a missing driver."""
    filesystem, path = fsspec.core.url_to_fs(url)
    if "file" in ((filesystem.protocol,) if isinstance(filesystem.protocol, str) else filesystem.protocol):
        return LocalStorage(Path(path))
    from smt.serving.remote_storage import RemoteStorage

    return RemoteStorage(filesystem, path)


def chunks_of(content: Content) -> Iterator[bytes | memoryview]:
    """A file's bytes, CHUNK_BYTES at a time."""
    if isinstance(content, Path):
        with content.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
        return
    for part in [memoryview(content)] if isinstance(content, bytes) else content:
        for begin in range(0, len(part), CHUNK_BYTES):
            yield part[begin : begin + CHUNK_BYTES]


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

    def pieces(self, path: str) -> Iterator[bytes | memoryview]:
        """A file's bytes, a piece at a time, so that a large one is never in memory as a whole."""
        return chunks_of(self._root / path)

    def digest(self, path: str, algorithm: Algorithm) -> tuple[int, str]:
        """Size in bytes and digest of a file."""
        with (self._root / path).open("rb") as file:
            return digest_of_file(file, algorithm)

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

    def remove_folder(self, path: str, marker: str) -> None:
        """Takes a folder away at once; its files go with the next `sweep`. Call with its lock held."""
        target = self._root / path
        target.rename(target.parent / f"{TRASH_PREFIX}{uuid.uuid4().hex}")
        _fsync_dir(target.parent)

    def sweep(self, path: str) -> list[str]:
        """Removes what `remove_folder` and processes that died left in a folder; returns what there was.

        What is younger than STALE_SECONDS may be somebody's work, unless it is trash already.
        """
        found = []
        folder = self._root / path
        for name in self.names(path):
            trash = name.startswith(TRASH_PREFIX)
            if trash or name.startswith(TEMP_PREFIX):
                with contextlib.suppress(FileNotFoundError):  # another process may sweep too
                    leftover = folder / name
                    if trash or time.time() - leftover.lstat().st_mtime > STALE_SECONDS:
                        if leftover.is_dir() and not leftover.is_symlink():
                            shutil.rmtree(leftover)
                        else:
                            leftover.unlink()
                        found.append(name)
        return found

    def modified(self, path: str) -> float | None:
        """When a file or folder changed last, in seconds since the epoch."""
        return (self._root / path).stat().st_mtime

    def stage(self, parent: str) -> LocalStage:
        folder = self._root / parent
        folder.mkdir(parents=True, exist_ok=True)
        self.sweep(parent)
        return LocalStage(folder, self._root)

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
    def __init__(self, parent: Path, root: Path) -> None:
        self._parent = parent
        self._root = root
        self._folder = parent / f"{TEMP_PREFIX}{uuid.uuid4().hex}"
        self._folder.mkdir()
        self._background = ThreadPoolExecutor(_SYNCS)
        self._pending: list[Future[None]] = []  # what the disk has been asked for

    def add(self, name: str, content: Content) -> Digests:
        return self.add_pieces(name, chunks_of(content))

    def add_pieces(self, name: str, pieces: Iterable[bytes | memoryview]) -> Digests:
        """The disk begins to write each piece at once, and is asked to keep the file as soon as all of it is written:
        the digests, and what follows, are made beside that."""
        size = flushed = 0
        with Digester() as digester, (self._folder / name).open("xb", buffering=0) as file:
            for piece in pieces:
                digester.update(piece)
                _write_all(file, piece)
                _LIBC.sync_file_range(file.fileno(), size, len(piece), _SYNC_FILE_RANGE_WRITE)
                size += len(piece)
                if size - flushed >= _FLUSH_BYTES and all(pending.done() for pending in self._pending):
                    self._pending.append(self._background.submit(self._flush, os.dup(file.fileno()), size))
                    flushed = size
            self._pending.append(self._background.submit(_sync_and_close, os.dup(file.fileno())))
            return digester.digests()

    def _flush(self, descriptor: int, size: int) -> None:
        """Has the disk keep what was written so far, so that less is left to wait for in the end.

        To sync the file would make the journal commit, which the thread that writes would have to wait for; a folder
        in which nothing has changed leaves only the disk's own cache to be flushed.
        """
        try:
            _LIBC.sync_file_range(descriptor, 0, size, _SYNC_FILE_RANGE_WAITED)
        finally:
            os.close(descriptor)
        _fsync_dir(self._root)

    @contextlib.contextmanager
    def announced(self, path: str, name: str) -> Iterator[None]:
        """Call with the lock held that orders who announces there. The file holds `name` and the folder's name."""
        file = self._root / path
        temporary = file.parent / f"{TEMP_PREFIX}{uuid.uuid4().hex}"
        with contextlib.suppress(OSError):
            temporary.write_text(f"{name} {self._folder.name}\n")
            temporary.replace(file)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
                file.unlink(missing_ok=True)

    def commit(self, name: str, *, replace: bool = False) -> None:
        """Call with the parent's lock held: the old folder is moved aside before the new one takes its place."""
        for pending in self._pending:
            pending.result()
        _fsync_dir(self._folder)
        target = self._parent / name
        old = self._parent / f"{TEMP_PREFIX}{uuid.uuid4().hex}"
        if replace and target.exists():
            target.rename(old)
        self._folder.rename(target)
        _fsync_dir(self._parent)
        shutil.rmtree(old, ignore_errors=True)

    def discard(self) -> None:
        self._background.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)


def _sync_and_close(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(file: io.FileIO, chunk: bytes | memoryview) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]


def describe(files: Mapping[str, Digests]) -> dict[str, dict[str, Any]]:
    """The `files` table of a manifest."""
    return {name: digests._asdict() for name, digests in files.items()}
