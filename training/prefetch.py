"""Runs an iterator a few items ahead in a thread."""

import os
import sys
import threading
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")

# The threads of a training step wait for each other: one that shares its core with the source holds up all of them, a
# time slice long. So the source takes what they leave, which is a core when they wait for it. A tenth of the weight of
# others, not the least, so that trainings beside each other still get their data.
_NICE = 10


class Prefetch(Generic[T]):
    """Iterates over `source` in a background thread of lower priority, at most `depth` items ahead.

        with Prefetch(make_batches(), depth=4) as batches:
            for batch in batches: ...

    An exception of the source is raised by the iteration, after the items before it. Leaving the `with` block stops
    the thread, also when the iteration is not finished.
    """

    def __init__(self, source: Iterator[T], depth: int = 4) -> None:
        self._source = source
        self._depth = depth
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._finished = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)

    def _run(self) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + _NICE)
        error: BaseException | None = None
        try:
            for item in self._source:
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped or len(self._items) < self._depth)
                    if self._stopped:
                        break
                    self._items.append(item)
                    self._changed.notify_all()
        except BaseException as raised:  # raised again in the consumer
            error = raised
        with self._changed:
            self._error = error
            self._finished = True
            self._changed.notify_all()

    def __enter__(self) -> "Prefetch[T]":
        self._thread.start()
        return self

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._items) or self._finished)
            if self._items:
                self._changed.notify_all()
                return self._items.popleft()
            if self._error is not None:
                raise self._error
            raise StopIteration

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()
