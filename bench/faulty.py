"""A remote file system that fails: fsspec's memory, registered as faulty://, with faults on demand.

with faults(disk_full):
    Registry("faulty://there/registry").publish_snapshot(...)      # No space left on device
"""

import contextlib
import errno
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

Fault = Callable[[str, str], None]


class FaultyFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """`fault` is asked before every operation, with its name and path; it may raise, or wait."""

    protocol = "faulty"
    store: dict[str, Any] = {}  # noqa: RUF012 - as its base class has it
    pseudo_dirs = [""]  # noqa: RUF012
    fault: Fault = staticmethod(lambda operation, path: None)

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


FaultyFileSystem.put_file = _put_file
fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)


@contextlib.contextmanager
def faults(fault: Fault) -> Iterator[None]:
    """Every operation asks `fault` first, until the end of the block."""
    FaultyFileSystem.fault = staticmethod(fault)
    try:
        yield
    finally:
        FaultyFileSystem.fault = staticmethod(lambda operation, path: None)


def disk_full(operation: str, path: str) -> None:
    if operation in ("pipe_file", "put_file"):
        raise OSError(errno.ENOSPC, "No space left on device", path)


def failing(chance: float, seed: int, wait: float = 0.0) -> Fault:
    """Such a share of the operations fails, as networks do; each of them waits so many seconds before."""
    generator = random.Random(seed)
    kinds = (TimeoutError("timed out"), ConnectionResetError(104, "Connection reset by peer"), RuntimeError("503"))

    def fault(operation: str, path: str) -> None:
        time.sleep(wait)
        if generator.random() < chance:
            raise generator.choice(kinds)

    return fault
