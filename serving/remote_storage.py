"""A registry's files on whatever fsspec reaches: object stores, memory://.

There is no rename of a folder here, but the write of one object is atomic. So the files of a folder are written in the
order given, and the last of them is the marker that readers look for; it goes first when the folder is removed.

What fails is tried again (retry.py); every action here does no harm when it is done twice.
"""

from __future__ import annotations

import contextlib
import errno
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from smt.serving.digests import Algorithm, Digester, Digests, digest_of_file
from smt.serving.retry import Patience
from smt.serving.storage import Content, chunks_of

# Of a request for a part of a file: large enough that its round trip does not count, small beside the files.
PIECE_BYTES = 16 << 20

_Result = TypeVar("_Result")


class RemoteStorage:
    """See storage.Storage."""

    patience = Patience()

    def __init__(self, filesystem: Any, root: str) -> None:
        self.root = filesystem.unstrip_protocol(root)
        self._fs = filesystem
        self._root = root.rstrip("/")

    def read(self, path: str) -> bytes:
        content: bytes = self.attempt(path, self._fs.cat_file)
        return content

    def pieces(self, path: str) -> Iterator[bytes | memoryview]:
        """A file's bytes, a piece at a time; a piece that fails is asked for again, and not those before it."""
        size = int(self.attempt(path, self._fs.info)["size"])
        for start in range(0, size, PIECE_BYTES):
            yield self.attempt(path, functools.partial(self._piece, start, min(start + PIECE_BYTES, size)))

    def _piece(self, start: int, end: int, full: str) -> bytes:
        piece: bytes = self._fs.cat_file(full, start=start, end=end)
        if len(piece) != end - start:
            raise OSError(errno.EIO, f"{len(piece)} bytes from {start} on came; expected {end - start}", full)
        return piece

    def digest(self, path: str, algorithm: Algorithm) -> tuple[int, str]:
        def action(full: str) -> tuple[int, str]:
            with self._fs.open(full, "rb") as file:
                return digest_of_file(file, algorithm)

        return self.attempt(path, action)

    def names(self, path: str) -> list[str]:
        def action(full: str) -> list[str]:
            self._fs.invalidate_cache(full)
            try:
                return [str(entry) for entry in self._fs.ls(full, detail=False)]
            except (FileNotFoundError, NotADirectoryError):
                return []

        return sorted({entry.rstrip("/").rsplit("/", 1)[-1] for entry in self.attempt(path, action)})

    def replace_text(self, path: str, text: str) -> None:
        self.attempt(path, lambda full: self._fs.pipe_file(full, text.encode()))

    def remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.attempt(path, self._fs.rm_file)

    def remove_folder(self, path: str, marker: str) -> None:
        """Nobody takes the folder for complete once `marker` is gone; what a crash leaves is removed as incomplete."""
        self.remove(f"{path}/{marker}")
        with contextlib.suppress(FileNotFoundError):
            self.attempt(path, lambda full: self._fs.rm(full, recursive=True))

    def sweep(self, path: str) -> list[str]:
        """Nothing is left under another name here."""
        return []

    def modified(self, path: str) -> float | None:
        """When a file changed last, in seconds since the epoch; None where the file system does not tell."""
        try:
            return float(self.attempt(path, self._fs.modified).timestamp())
        except (NotImplementedError, FileNotFoundError, AttributeError, KeyError):
            return None

    def stage(self, parent: str) -> RemoteStage:
        return RemoteStage(self, self._fs, parent)

    @contextlib.contextmanager
    def lock(self, path: str) -> Iterator[None]:
        """Object stores have no locks: of two publications at once both stand, and the last to end is current."""
        yield

    def local_path(self, path: str) -> Path | None:
        return None

    def attempt(self, path: str, action: Callable[[str], _Result]) -> _Result:
        """Does something with the full path of a file, and again if it fails; see retry.py."""
        full = f"{self._root}/{path}" if path else self._root
        return self.patience.run(full, lambda: action(full))


class RemoteStage:
    """See storage.Stage. Nothing is written before `commit`."""

    def __init__(self, storage: RemoteStorage, filesystem: Any, parent: str) -> None:
        self._storage = storage
        self._fs = filesystem
        self._parent = parent
        self._contents: dict[str, Content] = {}
        self._unfinished: str | None = None

    def add(self, name: str, content: Content) -> Digests:
        self._contents[name] = content
        with Digester() as digester:
            for chunk in chunks_of(content):
                digester.update(chunk)
            return digester.digests()

    def announced(self, path: str, name: str) -> contextlib.AbstractContextManager[None]:
        """Nothing: there are no files yet, and nobody watches an object store."""
        return contextlib.nullcontext()

    def commit(self, name: str, *, replace: bool = False) -> None:
        folder = f"{self._parent}/{name}"
        self._unfinished = None if replace else folder
        self._storage.attempt(folder, lambda full: self._fs.makedirs(full, exist_ok=True))
        for file_name, content in self._contents.items():
            self._storage.attempt(f"{folder}/{file_name}", self._writer(content))
        self._unfinished = None

    def _writer(self, content: Content) -> Callable[[str], None]:
        if isinstance(content, Path):  # streamed
            return lambda full: self._fs.put_file(str(content), full)
        whole = content if isinstance(content, bytes) else b"".join(content)
        return lambda full: self._fs.pipe_file(full, whole)

    def discard(self) -> None:
        """After a commit that failed, removes what it wrote, as far as the file system lets us; gc does the rest."""
        if self._unfinished is not None:
            with contextlib.suppress(Exception):
                self._storage.remove_folder(self._unfinished, [*self._contents][-1])
        self._contents.clear()
