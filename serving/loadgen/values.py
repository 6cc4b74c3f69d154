"""Random values of inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from smt.serving.loadgen.plan import LoadgenError

# Where an input's values are drawn from: numbers from low to high, whole numbers below high, or one of the words.
Range = tuple[float, float] | Sequence[str]
Kind = Literal["number", "int", "string"]

_WORDS = 4096  # distinct strings of an input
_SPREAD = 100.0  # standard deviation of numbers
MOST_VALUES = 5  # of a multi-valued input in a row


class Values:
    """Draws one input's values.

    Args:
        below: of whole numbers, where no range is given.
    """

    def __init__(
        self, name: str, kind: Kind, random: np.random.Generator, drawn_from: Range | None, below: int
    ) -> None:
        self.kind = kind
        self._random = random
        self._range: tuple[float, float] | None = (0.0, float(below)) if kind == "int" else None
        self._words: NDArray[Any] = np.empty(0, object)
        if kind == "string":
            words = [f"value-{i}" for i in range(_WORDS)] if drawn_from is None else drawn_from
            self._words = np.array([str(word) for word in words], object)
        elif drawn_from is not None:
            try:
                low, high = (float(bound) for bound in drawn_from)
            except ValueError as error:
                found = ",".join(str(word) for word in drawn_from)
                raise LoadgenError(
                    f"input {name!r}: found {found!r}; expected a range of numbers, LOW..HIGH"
                ) from error
            self._range = (low, high)

    def draw(self, count: int) -> NDArray[Any]:
        """float32 (number), int64 (int) or an object array of str (string), [count]."""
        if self.kind == "string":
            return self._words[self._random.integers(0, len(self._words), count)]
        if self._range is None:
            return (self._random.standard_normal(count) * _SPREAD).astype(np.float32)
        drawn = self._random.uniform(*self._range, count)
        return np.floor(drawn).astype(np.int64) if self.kind == "int" else drawn.astype(np.float32)
