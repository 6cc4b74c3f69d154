"""The digests of files, as manifests have them: SHA-256, which anybody can compare, and XXH3-128, which is cheap."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO, Literal, NamedTuple, Self

import xxhash

Algorithm = Literal["xxh3", "sha256"]
_ALGORITHMS: dict[Algorithm, Callable[[], Any]] = {"xxh3": xxhash.xxh3_128, "sha256": hashlib.sha256}

_READ_BYTES = 256 << 10  # a piece that stays in a core's cache until its digest is made
# Pieces whose SHA-256 may be behind.
_PIECES_BEHIND = 4
# A piece for whose SHA-256 no thread is worth its while.
_SMALL_BYTES = 64 << 10


def digest_of(content: bytes, algorithm: Algorithm) -> str:
    """In hexadecimal, as manifests have it."""
    found = _ALGORITHMS[algorithm]()
    found.update(content)
    return str(found.hexdigest())


def digest_of_file(file: BinaryIO, algorithm: Algorithm) -> tuple[int, str]:
    """Size in bytes and digest of all that is left to read of a file."""
    size, found = 0, _ALGORITHMS[algorithm]()
    while chunk := file.read(_READ_BYTES):
        size += len(chunk)
        found.update(chunk)
    return size, str(found.hexdigest())


class Digests(NamedTuple):
    """Of a whole file."""

    bytes: int
    sha256: str
    xxh3: str


class Digester:
    """Makes the digests of a file, a piece after the other: SHA-256, which takes longer than to write the file, on a
    thread of its own. A piece must stay as it is until `digests` has returned, or the context has been left.
    """

    def __init__(self) -> None:
        self._bytes, self._sha256, self._xxh3 = 0, hashlib.sha256(), xxhash.xxh3_128()
        self._thread = ThreadPoolExecutor(1)
        self._behind: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def update(self, piece: bytes | memoryview) -> None:
        if not self._behind and len(piece) <= _SMALL_BYTES:
            self._sha256.update(piece)
        else:
            if len(self._behind) > _PIECES_BEHIND:
                self._behind.popleft().result()
            self._behind.append(self._thread.submit(self._sha256.update, piece))
        self._bytes += len(piece)
        self._xxh3.update(piece)

    def digests(self) -> Digests:
        while self._behind:
            self._behind.popleft().result()
        return Digests(self._bytes, self._sha256.hexdigest(), self._xxh3.hexdigest())
