"""Torch's notes (missing torchvision, folding that was skipped, vector widths) kept off the terminal."""

import contextlib
import io
import logging
import threading
import warnings
from collections.abc import Iterator

# Logging's threshold, the filters of warnings and sys.stdout belong to the process, not to a thread: each thread
# putting back what it found would, of two that overlap, leave the second with what the first had set, for good.
_lock = threading.Lock()  # held while `_inside` or `_before` is read or changed, never while a block runs
_inside = 0  # threads that are in a block; the first silences the process, the last gives it its voice back
_before = contextlib.ExitStack()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No log record below ERROR, no warning and no print of this process while any thread is in such a block."""
    global _inside
    with _lock:
        if _inside == 0:
            _silence()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _before.close()


def _silence() -> None:
    _before.callback(logging.disable, logging.root.manager.disable)
    logging.disable(logging.WARNING)
    _before.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore")
    _before.enter_context(contextlib.redirect_stdout(io.StringIO()))
