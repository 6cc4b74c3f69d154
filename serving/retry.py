"""Patience with file systems that are slow or fail now and then."""

from __future__ import annotations

import errno
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

_Result = TypeVar("_Result")

_LOG = logging.getLogger(__name__)

# What asking again does not change. Anything else may be the network: each of fsspec's drivers has its own kinds.
_FINAL = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    NotImplementedError,
    ImportError,
    AttributeError,
    TypeError,
    ValueError,
)
_FINAL_CODES = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG}


@dataclass(frozen=True)
class Patience:
    """How often something is tried, and how long is waited between: twice as long each time, in seconds.

    The waits vary by half, so that many clients of one store do not come back together. How long one try may take is
    the driver's own business (its timeouts).
    """

    tries: int = 5
    first_wait: float = 0.1
    longest_wait: float = 3.0

    def run(self, what: str, action: Callable[[], _Result]) -> _Result:
        """The result of `action`, which must do no harm when it is done twice.

        Raises what it raised, if trying again is of no use; else an OSError that says how often it was tried.
        """
        wait = self.first_wait
        started = time.monotonic()
        for left in reversed(range(self.tries)):
            try:
                return action()
            except Exception as error:
                if isinstance(error, _FINAL) or getattr(error, "errno", None) in _FINAL_CODES:
                    raise
                found = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                if not left:
                    seconds = time.monotonic() - started
                    raise OSError(
                        errno.EIO, f"{found} (the last of {self.tries} tries in {seconds:.1f} s)", what
                    ) from error
                _LOG.warning("%s: %s; trying again, %d times at most", what, found, left)
            time.sleep(wait * random.uniform(0.5, 1.5))
            wait = min(2 * wait, self.longest_wait)
        raise ValueError(f"tries: {self.tries}; expected at least 1")
