"""A remote file system that fails: fsspec's memory, registered as faulty://, with faults on demand."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class FaultyFileSystem(MemoryFileSystem):
    """`fault` is asked before every operation, with its name and path; it may raise, or wait."""

    protocol = "faulty"
    store: dict[str, Any] = {}  # noqa: RUF012 - as its base class has it
    pseudo_dirs = [""]  # noqa: RUF012
    fault: Callable[[str, str], None] = staticmethod(lambda operation, path: None)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("faulty://")))

    def unstrip_protocol(self, name: str) -> str:
        return f"faulty://{name}"


def _asking(name: str) -> Callable[..., Any]:
    def operation(self: FaultyFileSystem, path: str, *arguments: Any, **named: Any) -> Any:
        FaultyFileSystem.fault(name, path)
        return getattr(MemoryFileSystem, name)(self, path, *arguments, **named)

    return operation


for _name in ("ls", "cat_file", "pipe_file", "rm_file", "rm", "_open", "makedirs", "modified"):
    setattr(FaultyFileSystem, _name, _asking(_name))


def _put_file(self: FaultyFileSystem, local: str, path: str, **named: Any) -> None:
    FaultyFileSystem.fault("put_file", path)
    MemoryFileSystem.put_file(self, local, path, **named)


FaultyFileSystem.put_file = _put_file  # type: ignore[method-assign]
fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)


def disk_full(operation: str, path: str) -> None:
    if operation in ("pipe_file", "put_file"):
        raise OSError(errno.ENOSPC, "No space left on device", path)
